//! Which locks can be held beside which.

use crate::{Limit, Mode};

/// Which modes can be held beside which: the compatibility of lock modes of the VMS distributed
/// lock manager, in the order of [`Mode::ALL`].
#[rustfmt::skip]
const TOGETHER: [[bool; 6]; 6] = {
    const Y: bool = true;
    const N: bool = false;
    [//  NL CR CW PR PW EX
        [Y, Y, Y, Y, Y, Y], // NL
        [Y, Y, Y, Y, Y, N], // CR
        [Y, Y, Y, N, N, N], // CW
        [Y, Y, N, Y, N, N], // PR
        [Y, Y, N, N, N, N], // PW
        [Y, N, N, N, N, N], // EX
    ]
};

/// How many locks there are in each mode, in the order of [`Mode::ALL`]. Overflow panics in every
/// build: a count that wraps would admit locks that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ModeCounts([u32; 6]);

impl ModeCounts {
    pub(super) fn add(&mut self, mode: Mode) {
        self.0[index(mode)] += 1;
    }

    pub(super) fn remove(&mut self, mode: Mode) {
        self.0[index(mode)] -= 1;
    }

    pub(super) fn exclusive(self) -> u32 {
        self.0[index(Mode::EXCLUSIVE)]
    }

    /// Whether one more lock of this mode can be held beside these: as the table says, but in the
    /// mode EX as many as its limit allows.
    pub(super) fn allow(self, mode: Mode) -> bool {
        let limit = mode.limit().map_or(0, Limit::get);
        let beside = |other: usize| {
            self.0[other] == 0
                || TOGETHER[index(mode)][other]
                || (other == index(Mode::EXCLUSIVE) && self.0[other] < limit)
        };
        (0..self.0.len()).all(beside)
    }

    /// Whether these can all be held at a time, if `limit` is the largest of the locks in the mode
    /// EX. It is enough to know the largest: the latest of them to be granted was within its own.
    pub(super) fn fit_together(self, limit: u32) -> bool {
        let exclusive = self.0[index(Mode::EXCLUSIVE)];
        let many = |index: usize| self.0[index] > 0;
        let pair = |one: usize, other: usize| {
            let alone = one == other && (self.0[one] == 1 || one == index(Mode::EXCLUSIVE));
            !many(one) || !many(other) || alone || TOGETHER[one][other]
        };
        exclusive <= limit
            && (0..self.0.len()).all(|one| (one..self.0.len()).all(|other| pair(one, other)))
    }
}

/// Whether locks of these modes can all be held at a time.
#[cfg(test)]
pub(crate) fn can_be_held_together(modes: impl Iterator<Item = Mode>) -> bool {
    let mut held = ModeCounts::default();
    modes.into_iter().all(|mode| {
        let fits = held.allow(mode);
        held.add(mode);
        fits
    })
}

/// The place of a mode in [`Mode::ALL`].
fn index(mode: Mode) -> usize {
    match mode {
        Mode::Null => 0,
        Mode::ConcurrentRead => 1,
        Mode::ConcurrentWrite => 2,
        Mode::ProtectedRead => 3,
        Mode::ProtectedWrite => 4,
        Mode::Exclusive { .. } => 5,
    }
}
