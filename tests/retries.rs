//! Requests that are sent again with the same Idempotency-Key.

use std::thread;

use crate::harness::{Client, Response, Server, wait_until};

fn acquire(server: &Server, resource: &str, key: &str) -> Response {
    let mut client = server.connect();
    client.send_acquire_with_key(resource, key);
    client.response()
}

#[test]
fn a_retry_gets_the_same_lock() {
    let server = Server::start();
    let first = acquire(&server, "r", "one");
    let again = acquire(&server, "r", "one");
    assert_eq!(again.lock_path(), first.lock_path());
    for header in ["Location", "RDLM-Fencing-Token"] {
        assert_eq!(again.header(header), first.header(header));
    }
    assert_eq!(server.locks("r").len(), 1);
    // The key means nothing on another resource, nor when the lock is gone.
    assert_ne!(acquire(&server, "other", "one").lock_path(), first.lock_path());
    assert_eq!(server.delete(&first.lock_path()).status, 204);
    assert_ne!(acquire(&server, "r", "one").lock_path(), first.lock_path());
}

#[test]
fn a_retry_takes_over_the_place_in_line() {
    let server = Server::start();
    let held = server.hold("r");
    let mut first = server.join_line_with_key("r", "one");
    let _behind = server.join_line("r");
    let uid = server.locks("r")[1]["uid"].clone();
    let mut again = server.connect();
    again.send_acquire_with_key("r", "one");
    assert_eq!(first.response().detail(409), "superseded");
    // The end of the old connection does nothing to the new one.
    drop(first);
    assert_eq!(server.delete(&held).status, 204);
    assert_eq!(again.response().json()["uid"], uid);
}

#[test]
fn a_place_is_kept_for_a_client_that_reconnects() {
    let server = Server::start_with(&["--reconnect-grace", "300"]);
    let held = server.hold("r");
    let leaves = server.join_line_with_key("r", "one");
    let mut second = server.join_line("r");
    let mut third = server.join_line("r");
    let ends = server.locks("r")[1]["wait_expires"].clone();
    drop(leaves);
    wait_until("the departure is noticed", || server.locks("r")[1]["wait_expires"] != ends);
    // It is passed over while it is away.
    assert_eq!(server.delete(&held).status, 204);
    let next = second.response().lock_path();
    let places: Vec<_> = server.locks("r").iter().map(|lock| lock["position"].as_u64()).collect();
    assert_eq!(places, [None, Some(1), Some(2)]);
    let kept = server.locks("r")[1]["wait_expires"].clone();
    let mut back = server.connect();
    back.send_acquire_with_key("r", "one");
    wait_until("it is back", || server.locks("r")[1]["wait_expires"] != kept);
    assert_eq!(server.delete(&next).status, 204);
    let next = back.response().lock_path();
    assert_eq!(server.delete(&next).status, 204);
    third.response().lock_path();
}

#[test]
fn a_place_is_given_up_at_the_end_of_the_grace() {
    for grace in ["0", "0.2"] {
        let server = Server::start_with(&["--reconnect-grace", grace]);
        server.hold("r");
        drop(server.join_line_with_key("r", "one"));
        wait_until("the place is given up", || server.locks("r").len() == 1);
    }
}

#[test]
fn kept_places_count_against_max_locks_alone() {
    let server = Server::start_with(&[
        "--reconnect-grace=300",
        "--max-locks=3",
        "--max-waiters-per-resource=1",
    ]);
    let held = server.hold("r");
    let leave = |key: &str| {
        let places = server.locks("r").len();
        let client = server.join_line_with_key("r", key);
        let waits = server.locks("r")[places]["wait_expires"].clone();
        drop(client);
        wait_until("the departure is noticed", || {
            server.locks("r").get(places).is_none_or(|place| place["wait_expires"] != waits)
        });
    };
    leave("one");
    leave("two");
    assert_eq!(server.locks("r").len(), 3);
    assert!(server.acquire("other", 0.0, 60.0).detail(503).contains("--max-locks"));
    // There is no room to keep a third place.
    leave("three");
    assert_eq!(server.locks("r").len(), 3);
    // A place becomes a lock without more room.
    assert_eq!(server.delete(&held).status, 204);
    assert_eq!(acquire(&server, "r", "two").status, 201);
    assert_eq!(server.acquire("other", 0.0, 60.0).status, 201);
    server.acquire("another", 0.0, 60.0).detail(503);
}

/// Half of the connections are gone before they can hear of anything.
#[test]
fn the_same_key_at_the_same_moment_makes_one_lock() {
    let server = Server::start_with(&["--reconnect-grace", "600"]);
    for round in 0..30 {
        let (resource, key) = (format!("r{round}"), format!("key-{round}"));
        let paths: Vec<_> = thread::scope(|scope| {
            let connect = |place| {
                let mut client: Client = server.connect();
                client.send_acquire_with_key(&resource, &key);
                (place % 2 == 0).then(|| client.response().lock_path())
            };
            let clients: Vec<_> = (0..8).map(|place| scope.spawn(move || connect(place))).collect();
            clients.into_iter().filter_map(|client| client.join().unwrap()).collect()
        });
        assert!(paths.windows(2).all(|pair| pair[0] == pair[1]), "{paths:?}");
        assert_eq!(server.locks(&resource).len(), 1);
        assert_eq!(server.delete(&paths[0]).status, 204);
    }
}

#[test]
fn a_key_is_of_one_mode_and_of_visible_characters() {
    let server = Server::start();
    acquire(&server, "r", "one").lock_path();
    let send = |headers: &str, body: &str| {
        let mut client = server.connect();
        client.send_with_headers("POST", "/locks/r", &format!("Host: localhost{headers}"), body);
        client.response()
    };
    let shared = r#"{"title":"t","wait":0,"lifetime":1,"mode":"shared"}"#;
    let detail = send("\r\nIdempotency-Key: one", shared).detail(422);
    assert!(detail.contains("for EX with the limit 1"), "{detail}");
    let long = "k".repeat(129);
    for wrong in ["", "two words", "caf\u{e9}", &long] {
        let detail = send(&format!("\r\nIdempotency-Key: {wrong}"), shared).detail(400);
        assert_eq!(detail, "an Idempotency-Key is 1 to 128 visible ASCII characters", "{wrong:?}");
    }
    let twice = "\r\nIdempotency-Key: a\r\nIdempotency-Key: a";
    assert!(send(twice, shared).detail(400).contains("several Idempotency-Key headers"));
    let longest = "k".repeat(128);
    assert_eq!(acquire(&server, "longest", &longest).status, 201);
}
