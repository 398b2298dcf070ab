//! Random sequences of all that can happen to a resource, against a model of the rules that is
//! too simple to be fast: it looks at every lock at every millisecond. Now and then the store
//! refuses to write.
//!
//! `PROPTEST_CASES` says how many sequences are tried.

mod checked;
mod rules;

use std::collections::HashMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::conversions::Converting;
use super::*;
use crate::numbers::Numbers;
use crate::{Limit, Mode, NotWritten};
use checked::Checked;

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resource_does_what_the_model_does(sequential 1..60 => Checked);
}

const GRACE_MS: u64 = 50;

/// How many in one mode there may be at a time; the second number is the limit of EX.
const MODES: [(&str, u32); 8] =
    [("NL", 0), ("CR", 0), ("CW", 0), ("PR", 0), ("PW", 0), ("EX", 1), ("EX", 2), ("EX", 3)];

/// Something that happens, and whether the store refuses to write what follows from it.
#[derive(Debug, Clone)]
struct Happening {
    step: Step,
    refused: bool,
}

/// What happens. A number stands for a delivery of a request, from 0.
#[derive(Debug, Clone)]
enum Step {
    Acquire {
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: u64,
        key: Option<u8>,
    },
    Release(usize),
    Renew {
        number: usize,
        lifetime_ms: u64,
    },
    Convert {
        number: usize,
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: Option<u64>,
    },
    /// The client that waits is gone.
    Withdraw(usize),
    /// The response to this delivery, which tells of a grant, is lost.
    Abandon(usize),
    Clear,
    Pass {
        ms: u64,
    },
}

/// The results that leave everything as it was.
const NOTHING_HAPPENS: [&str; 5] =
    ["still_waiting", "no_such_lock", "not_convertible", "converting", "mismatch"];

/// The number of a delivery, and its result.
type Completed = (usize, &'static str);

#[derive(Debug, Clone, Default)]
struct Model {
    now: u64,
    /// In order of their grants.
    held: Vec<ModelLock>,
    /// In order of arrival.
    converting: Vec<ModelConversion>,
    /// In order of arrival.
    line: Vec<ModelLock>,
    /// How many deliveries there were.
    sent: usize,
    /// The results of the last step.
    results: Vec<Completed>,
    /// The deliveries that were told of a grant, and of which.
    told: HashMap<usize, usize>,
}

#[derive(Debug, Clone)]
struct ModelLock {
    /// The first delivery of the request, and the last one.
    number: usize,
    sender: usize,
    mode: (&'static str, u32),
    key: Option<u8>,
    lifetime_ms: u64,
    /// Of the wait or of the lifetime.
    end: u64,
    /// How many responses tell that it is held.
    answers: u32,
    /// No client that knows of it is connected: it ends at this time.
    lost: Option<u64>,
}

/// A conversion that waits.
#[derive(Debug, Clone)]
struct ModelConversion {
    sender: usize,
    /// The first delivery of its request.
    number: usize,
    mode: (&'static str, u32),
    lifetime_ms: Option<u64>,
    /// Of the wait.
    end: u64,
}

fn beside(one: &str, other: &str) -> bool {
    match (one, other) {
        ("NL", _) | (_, "NL") => true,
        ("CR", other) | (other, "CR") => other != "EX",
        ("CW", "CW") | ("PR", "PR") => true,
        _ => false,
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Happening;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Happening> {
        // The latest ones, whose locks are mostly still there.
        let number = state.sent.saturating_sub(15)..state.sent.max(1);
        let mode = proptest::sample::select(&MODES[..]);
        let wait_ms = prop_oneof![Just(0), 1..200_u64];
        let key = proptest::option::weighted(0.4, 0..4_u8);
        let faithful = proptest::bool::weighted(0.9);
        let acquire = (mode, wait_ms, 1..300_u64, key, faithful).prop_map(
            |(mode, wait_ms, lifetime_ms, key, faithful)| {
                // Who sends a request again mostly asks for the same.
                let mode = match key {
                    Some(key) if faithful => MODES[3 + usize::from(key)],
                    _ => mode,
                };
                Step::Acquire { mode, wait_ms, lifetime_ms, key }
            },
        );
        let mode = proptest::sample::select(&MODES[..]);
        let wait_ms = prop_oneof![Just(0), 1..200_u64];
        let lifetime_ms = proptest::option::weighted(0.3, 1..300_u64);
        let convert = (number.clone(), mode, wait_ms, lifetime_ms).prop_map(
            |(number, mode, wait_ms, lifetime_ms)| Step::Convert {
                number,
                mode,
                wait_ms,
                lifetime_ms,
            },
        );
        let step = prop_oneof![
            8 => acquire,
            4 => number.clone().prop_map(Step::Release),
            1 => (number.clone(), 1..300_u64)
                .prop_map(|(number, lifetime_ms)| Step::Renew { number, lifetime_ms }),
            5 => convert,
            2 => number.clone().prop_map(Step::Withdraw),
            1 => number.prop_map(Step::Abandon),
            4 => (1..80_u64).prop_map(|ms| Step::Pass { ms }),
            // So seldom that crowds can form.
            if state.sent > 30 { 1 } else { 0 } => Just(Step::Clear),
        ];
        let refused = proptest::bool::weighted(0.15);
        (step, refused).prop_map(|(step, refused)| Happening { step, refused }).boxed()
    }

    fn apply(state: Self, happening: &Happening) -> Self {
        let Happening { step, refused } = happening;
        // Whatever comes late is written.
        if *refused && !matches!(step, Step::Pass { .. }) {
            state.refused(step)
        } else {
            state.written(step)
        }
    }
}

impl ModelLock {
    /// No client knows of it, and it is not kept any longer.
    fn is_over(&self, now: u64) -> bool {
        self.lost.is_some_and(|until| until <= now)
    }
}

fn real_mode((name, limit): (&str, u32)) -> Mode {
    match Limit::new(limit) {
        Some(limit) => Mode::Exclusive { limit },
        None => Mode::named(name).unwrap(),
    }
}
