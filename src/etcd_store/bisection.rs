//! Finds a key that cuts a range into two halves, from counts of the keys behind a guess. Pure.

/// After more questions than this, the keys share too long a prefix to be worth it.
const QUESTIONS: usize = 100;

/// A search for a key near the middle.
#[derive(Debug)]
pub(crate) struct Bisection {
    /// Too many keys are behind `low`, and too few behind `high`.
    low: Vec<u8>,
    high: Vec<u8>,
    /// The number of keys behind the first `low`.
    total: u64,
    asked: usize,
}

impl Bisection {
    /// In a range with `total` keys.
    pub(crate) fn new(from: &[u8], end: &[u8], total: u64) -> Self {
        Self { low: from.into(), high: end.into(), total, asked: 0 }
    }

    /// The next key from which to count; `None`: given up.
    pub(crate) fn guess(&mut self) -> Option<Vec<u8>> {
        self.asked += 1;
        if self.asked > QUESTIONS {
            return None;
        }
        let same = self.low.iter().zip(&self.high).take_while(|(low, high)| low == high).count();
        let byte = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
        let (low, high) = (byte(&self.low, same), byte(&self.high, same));
        let mut guess = self.low[..same].to_vec();
        if high.saturating_sub(low) > 1 {
            guess.push(low + (high - low) / 2);
        } else {
            // Keys that share a prefix often share the next byte, too.
            guess.extend([low, byte(&self.low, same + 1).saturating_add(1)]);
        }
        Some(guess)
    }

    /// Takes the answer: from `guess` on there are `count` keys, beginning with `first`. Returns
    /// whether `guess` is near enough to the middle.
    pub(crate) fn is_found(&mut self, guess: &[u8], first: Option<&[u8]>, count: u64) -> bool {
        // In twentieths.
        let share = count.saturating_mul(20) / self.total.max(1);
        if share > 13 {
            self.low = first.unwrap_or(guess).into();
        } else if share < 7 {
            self.high = guess.into();
        }
        (7..=13).contains(&share)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::etcd_store::records::range_end;

    /// How many of the keys are behind the cut, of how many, and how many questions that took.
    fn cut(names: impl Iterator<Item = String>) -> Option<(usize, usize, usize)> {
        let keys: BTreeSet<_> =
            names.map(|name| format!("/rdlm/lock/{name}/0a").into_bytes()).collect();
        let (first, end) = (keys.first().unwrap(), range_end("/rdlm/lock/"));
        let mut bisection = Bisection::new(first, &end, keys.len() as u64);
        loop {
            let guess = bisection.guess()?;
            let count = keys.range(guess.clone()..).count();
            let first = keys.range(guess.clone()..).next();
            if bisection.is_found(&guess, first.map(|first| &first[..]), count as u64) {
                return Some((count, keys.len(), bisection.asked));
            }
        }
    }

    #[track_caller]
    fn check(names: impl Iterator<Item = String>, at_most: usize) {
        let (behind, all, asked) = cut(names).unwrap();
        assert!((all * 7 / 20..=all * 14 / 20).contains(&behind), "{behind} of {all}");
        assert!(asked <= at_most, "{asked} questions");
    }

    #[test]
    fn keys_of_all_kinds_are_cut_into_halves() {
        check((0..5000).map(|n| format!("service-{n:06}")), 15);
        check((0..5000).map(|n| format!("{n}")), 6);
        check((0..5000).map(|n: u32| format!("{:08x}", n.wrapping_mul(0x9e37_79b9))), 8);
        // Nearly all begin alike, and some stand before or behind them.
        let few = (0..50).map(|n| format!("{}{n}", ["A", "~"][n % 2]));
        let alike = (0..5000).map(|n| format!("deployments:production:eu-1:{n}"));
        check(few.chain(alike), 40);
        check(["a", "b"].map(String::from).into_iter(), 3);
    }

    #[test]
    fn a_range_that_cannot_be_cut_is_given_up() {
        assert_eq!(cut(std::iter::once("only".into())), None);
        let long = "x".repeat(200);
        assert_eq!(cut((0..1000).map(|n| format!("{long}{n}"))), None);
    }

    #[test]
    fn a_guess_is_between_what_is_known() {
        for (low, high, guess) in [
            (&b"a"[..], &b"e"[..], &b"c"[..]),
            (b"ab", b"b", b"ac"),
            (b"a", b"b", b"a\x01"),
            (b"a~", b"b", b"a\x7f"),
            (b"a", b"a1", b"a\x18"),
        ] {
            let found = Bisection::new(low, high, 10).guess().unwrap();
            assert!(low < &found[..] && &found[..] < high, "{found:?}");
            assert_eq!(found, guess);
        }
    }
}
