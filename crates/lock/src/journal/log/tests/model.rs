//! The log against a map.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Hold { lifetime: u64, long: bool },
    Release(prop::sample::Index),
    Renew(prop::sample::Index, u64),
    Pass(u64),
    Restart,
    Reboot,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (1..200u64, any::<bool>()).prop_map(|(lifetime, long)| Step::Hold { lifetime, long }),
        3 => index().prop_map(Step::Release),
        2 => (index(), 1..200u64).prop_map(|(of, lifetime)| Step::Renew(of, lifetime)),
        2 => (1..20u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
        1 => Just(Step::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        env::var("PROPTEST_CASES").map_or(24, |cases| cases.parse().unwrap_or(24))
    ))]

    /// Whatever happens, after a restart the locks are those that a map has, and live as long.
    #[test]
    fn a_log_does_what_a_map_does(steps in prop::collection::vec(step(), 1..60)) {
        let host = Host::new();
        let (mut store, _) = host.start().unwrap();
        let (mut now, mut written, mut token) = (0, 0, 0);
        // Token to end and whether it had the grace, by a clock that stands still while the
        // host is down.
        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        let nth = |model: &BTreeMap<u64, _>, index: prop::sample::Index| {
            (!model.is_empty()).then(|| *model.keys().nth(index.index(model.len())).unwrap())
        };
        for step in steps {
            match step {
                Step::Hold { lifetime, long: is_long } => {
                    token += 1;
                    let mut batch = vec![long(token, seconds(lifetime))];
                    model.insert(token, (now + lifetime + 1, false));
                    for _ in 0..if is_long { 20 } else { 0 } {
                        token += 1;
                        batch.push(long(token, seconds(lifetime)));
                        model.insert(token, (now + lifetime + 1, false));
                    }
                    store.commit(&batch, GRACE).unwrap();
                    written = now;
                }
                Step::Release(index) => if let Some(token) = nth(&model, index) {
                    model.remove(&token);
                    store.commit(&[release(&grant(&format!("r{token}"), token))], GRACE).unwrap();
                    written = now;
                },
                Step::Renew(index, lifetime) => if let Some(token) = nth(&model, index) {
                    model.insert(token, (now + lifetime + 1, false));
                    let renewal = Change { removed: vec![token], ..long(token, seconds(lifetime)) };
                    store.commit(&[renewal], GRACE).unwrap();
                    written = now;
                },
                Step::Pass(time) => {
                    now += time;
                    host.passes(seconds(time));
                }
                Step::Checkpoint => {
                    store.checkpoint().unwrap();
                    if now - written >= 30 && !model.is_empty() {
                        written = now;
                    }
                }
                Step::Restart | Step::Reboot => {
                    drop(store);
                    if matches!(step, Step::Reboot) {
                        host.reboots();
                        now = written;
                    }
                    let (started, restored) = host.start().unwrap();
                    (store, written) = (started, now);
                    for (end, graced) in model.values_mut() {
                        if !*graced && *end < now + 5 {
                            (*end, *graced) = (now + 5, true);
                        }
                    }
                    model.retain(|_, (end, _)| *end > now);
                    let found: Vec<_> = restored
                        .iter()
                        .map(|lock| (lock.held.grant.fencing_token, lock.held.remaining))
                        .collect();
                    let expected = model.iter().map(|(t, (end, _))| (*t, Some(seconds(*end - now))));
                    prop_assert_eq!(found, expected.collect::<Vec<_>>());
                }
            }
        }
    }
}
