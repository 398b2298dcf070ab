use super::*;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

const PATIENCE: Duration = Duration::from_secs(60);

fn details(title: &str) -> EventDetails {
    EventDetails {
        kind: Kind::Granted,
        id: LockId::random(),
        terms: Terms::exclusive(title, PATIENCE),
        fencing_token: Some(1),
        since: SystemTime::UNIX_EPOCH,
        by: None,
    }
}

fn publish(events: &Events, title: &str) -> u64 {
    let resource = "r".parse().unwrap();
    let event = events.record(&resource, UNIX_EPOCH, details(title));
    events.notify();
    event.number
}

/// The titles of what is received at once.
fn receives(subscriber: &mut Subscriber) -> Vec<String> {
    match subscriber.receive(usize::MAX, Duration::ZERO) {
        Received::Events(events) => {
            events.into_iter().map(|event| event.details.terms.title.to_string()).collect()
        }
        Received::Missed(_) => vec!["missed".into()],
        Received::TimedOut => Vec::new(),
        Received::Closed => vec!["end".into()],
    }
}

#[test]
fn events_of_another_server_are_missed() {
    let events = Arc::new(Events::default());
    let first = publish(&events, "a");
    let mut subscriber = events.subscribe(Some(first));
    let mut permanent = events.subscribe_permanently();
    events.end_subscriptions();
    assert!(matches!(subscriber.receive(1, Duration::ZERO), Received::Closed));
    events.restart_numbering();
    assert!(matches!(
        events.subscribe(Some(first)).receive(1, Duration::ZERO),
        Received::Missed(_)
    ));
    let second = publish(&events, "b");
    assert!(second > first);
    assert_eq!(receives(&mut events.subscribe(Some(second - 1))), ["b"]);
    assert!(!matches!(permanent.receive(1, Duration::ZERO), Received::Closed));
}

#[test]
fn a_subscriber_receives_each_event_once_in_order() {
    let events = Arc::<Events>::default();
    publish(&events, "before");
    let mut subscriber = events.subscribe(None);
    assert!(receives(&mut subscriber).is_empty());
    for title in ["a", "b", "c"] {
        publish(&events, title);
    }
    assert_eq!(receives(&mut subscriber), ["a", "b", "c"]);
    assert!(receives(&mut subscriber).is_empty());
}

#[test]
fn a_subscriber_resumes_after_its_last_event_or_is_told_that_it_missed_some() {
    let events = Arc::<Events>::default();
    let first = publish(&events, "a");
    publish(&events, "b");
    assert_eq!(receives(&mut events.subscribe(Some(first))), ["b"]);
    assert!(receives(&mut events.subscribe(Some(first + 1))).is_empty());
    for unknown in [0, first - 2, first + 2, u64::MAX] {
        let mut subscriber = events.subscribe(Some(unknown));
        assert_eq!(receives(&mut subscriber), ["missed"], "{unknown}");
        assert!(receives(&mut subscriber).is_empty());
    }
    let mut slow = events.subscribe(Some(first));
    for n in 0..KEPT {
        publish(&events, &n.to_string());
    }
    assert_eq!(receives(&mut slow), ["missed"]);
    publish(&events, "c");
    assert_eq!(receives(&mut slow), ["c"]);
}

#[test]
fn the_latest_wanted_events_are_found() {
    let events = Arc::<Events>::default();
    for title in ["a", "b", "a", "b", "a"] {
        publish(&events, title);
    }
    let is_a = |event: &Event| event.details.terms.title == "a";
    let from = |count| receives(&mut events.subscribe(Some(events.before_latest(count, is_a))));
    assert_eq!(from(1), ["a"]);
    assert_eq!(from(2), ["a", "b", "a"]);
    assert_eq!(from(9), ["a", "b", "a", "b", "a"]);
    assert!(from(0).is_empty());
}

#[test]
fn all_sleeping_subscribers_are_woken() {
    let events = Arc::<Events>::default();
    let (sender, received) = channel();
    for _ in 0..20 {
        let (mut subscriber, sender) = (events.subscribe(None), sender.clone());
        thread::spawn(move || {
            while let Received::Events(events) = subscriber.receive(1, PATIENCE) {
                sender.send(events[0].details.terms.title.clone()).unwrap();
            }
        });
    }
    drop(sender);
    for title in ["a", "b"] {
        publish(&events, title);
        for _ in 0..20 {
            assert_eq!(received.recv_timeout(PATIENCE).unwrap(), title);
        }
    }
    assert_eq!(received.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
    events.close();
    assert_eq!(received.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_cancelled_subscriber_is_woken() {
    let events = Arc::<Events>::default();
    for pausing in [false, true] {
        let mut subscriber = events.subscribe(None);
        let canceller = subscriber.canceller();
        let ended = thread::spawn(move || match pausing {
            false => matches!(subscriber.receive(1, PATIENCE), Received::Closed),
            true => !subscriber.pause(PATIENCE),
        });
        canceller.cancel();
        assert!(ended.join().unwrap());
    }
    assert!(locked(&events.subscribers).all.is_empty());
}
