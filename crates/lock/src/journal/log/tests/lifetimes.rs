//! What is left of a lifetime after a restart.

use super::*;

#[test]
fn a_lifetime_goes_on_while_no_server_runs_and_stands_still_while_no_host_does() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(600))], GRACE).unwrap();
    host.passes(seconds(100));
    store.checkpoint().unwrap();
    host.passes(seconds(50));
    drop(store);
    let remaining = || host.start().unwrap().1[0].held.remaining;
    assert_eq!(remaining(), Some(seconds(451)));
    host.passes(seconds(50));
    assert_eq!(remaining(), Some(seconds(401)));
    host.passes(seconds(50));
    host.reboots();
    assert_eq!(remaining(), Some(seconds(401)), "as when the journal was last written");
    host.passes(seconds(1));
    assert_eq!(remaining(), Some(seconds(400)));
}

/// A conversion begins no lifetime: it is written with what is left of it.
#[test]
fn a_lock_that_is_written_again_in_the_middle_of_its_lifetime_has_what_was_left() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(600))], GRACE).unwrap();
    host.passes(seconds(500));
    let mut converted = long(1, seconds(600));
    (converted.removed, converted.added[0].remaining) = (vec![1], Some(seconds(100)));
    converted.added[0].grant.terms.mode = Mode::ProtectedRead;
    store.commit(&[converted], GRACE).unwrap();
    drop(store);
    let (_, restored) = host.start().unwrap();
    assert_eq!(restored[0].held.remaining, Some(seconds(101)));
    let grant = &restored[0].held.grant;
    assert_eq!(
        (grant.terms.mode, grant.terms.lifetime),
        (Mode::ProtectedRead, seconds(600).into())
    );
}

#[test]
fn a_lock_gets_the_grace_once() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(10)), long(2, seconds(1_000))], GRACE).unwrap();
    drop(store);
    host.passes(seconds(500));
    let (store, restored) = host.start().unwrap();
    assert_eq!(restored[0].held.remaining, Some(RESTART_GRACE));
    assert_eq!(restored[1].held.remaining, Some(seconds(501)));
    drop(store);
    host.passes(seconds(2));
    assert_eq!(host.start().unwrap().1[0].held.remaining, Some(seconds(3)));
    host.passes(seconds(3));
    assert_eq!(tokens(&host.start_with(seconds(100)).unwrap().1), [2]);
    assert_eq!(tokens(&host.start_with(seconds(100)).unwrap().1), [2]);
}

#[test]
fn a_lock_that_ended_at_a_restart_without_a_grace_does_not_come_back() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(10))], GRACE).unwrap();
    drop(store);
    host.passes(seconds(50));
    assert!(host.start_with(Duration::ZERO).unwrap().1.is_empty());
    assert!(host.start_with(seconds(500)).unwrap().1.is_empty());
}

#[test]
fn a_repeat_has_the_longer_grace() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    let batch = [long(1, seconds(600))];
    store.commit(&batch, GRACE).unwrap();
    store.repeat(&batch, seconds(8)).unwrap();
    drop(store);
    assert_eq!(host.start().unwrap().1[0].held.remaining, Some(seconds(608)));
}
