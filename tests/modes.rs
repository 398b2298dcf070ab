//! The six modes of a lock, and semaphores.

use std::thread;

use crate::harness::{Server, wait_until};

fn fields(mode: &str, wait: f64) -> String {
    format!(r#""mode":"{mode}","wait":{wait},"lifetime":600"#)
}

#[test]
fn readers_hold_together_and_a_writer_excludes_them() {
    let server = Server::start();
    let readers = [(); 3].map(|()| server.acquire_with("r", &fields("PR", 0.0)).lock_path());
    server.acquire_with("r", &fields("EX", 0.0)).detail(408);
    server.acquire("r", 0.0, 600.0).detail(408);
    for reader in &readers {
        assert_eq!(server.get(reader).json()["mode"], "PR");
        assert!(server.get(reader).json().get("limit").is_none());
        assert_eq!(server.delete(reader).status, 204);
    }
    let writer = server.hold("r");
    server.acquire_with("r", &fields("PR", 0.0)).detail(408);
    assert_eq!(server.delete(&writer).status, 204);
}

#[test]
fn no_reader_overtakes_a_writer_that_waits() {
    let server = Server::start();
    let reader = server.acquire_with("r", &fields("shared", 0.0)).lock_path();
    let mut writer = server.join_line("r");
    server.acquire_with("r", &fields("shared", 0.0)).detail(408);
    assert_eq!(server.acquire_with("r", &fields("NL", 0.0)).status, 201, "null hinders nobody");
    assert_eq!(server.delete(&reader).status, 204);
    writer.response().lock_path();
}

/// A release grants everybody at the head who fits; so does a client that leaves the line.
#[test]
fn readers_behind_a_writer_are_granted_together() {
    for leaves in [false, true] {
        let server = Server::start();
        let mode = if leaves { "PR" } else { "EX" };
        let held = server.acquire_with("r", &fields(mode, 0.0)).lock_path();
        let writer = leaves.then(|| server.join_line("r"));
        thread::scope(|scope| {
            let before = server.locks("r").len();
            let readers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| server.acquire_with("r", &fields("PR", 600.0))))
                .collect();
            wait_until("they wait", || server.locks("r").len() == before + 3);
            match writer {
                Some(writer) => drop(writer),
                None => assert_eq!(server.delete(&held).status, 204),
            }
            let readers = readers.into_iter().map(|reader| reader.join().unwrap());
            let mut tokens: Vec<_> =
                readers.map(|granted| granted.json()["fencing_token"].as_u64().unwrap()).collect();
            tokens.sort_unstable();
            tokens.dedup();
            assert_eq!(tokens.len(), 3, "each grant has a token of its own");
        });
    }
}

#[test]
fn a_semaphore_has_as_many_holders_as_its_limit() {
    let server = Server::start();
    let semaphore = r#""limit":3,"wait":0,"lifetime":600"#;
    let held: Vec<_> = (0..3).map(|_| server.acquire_with("s", semaphore).lock_path()).collect();
    server.acquire_with("s", semaphore).detail(408);
    let lock = server.get(&held[0]).json();
    assert_eq!((&lock["mode"], &lock["limit"]), (&"EX".into(), &3.into()));
    assert_eq!(server.delete(&held[1]).status, 204);
    server.acquire_with("s", semaphore).lock_path();
}

#[test]
fn another_limit_is_refused_as_long_as_there_are_locks() {
    let server = Server::start();
    let with_limit = |limit: &str| {
        server.acquire_with("s", &format!(r#""limit":{limit},"wait":0,"lifetime":600"#))
    };
    let held = with_limit("2").lock_path();
    let detail = with_limit("3").detail(422);
    assert!(detail.contains("have the limit 2"), "{detail}");
    server.acquire("s", 0.0, 600.0).detail(422);
    assert_eq!(with_limit(r#""2""#).status, 201, "also as a string, as for the other numbers");
    assert_eq!(server.delete("/resources/s").status, 204);
    assert_eq!(server.get(&held).status, 404);
    with_limit("1000000").lock_path();

    // A plain lock is a semaphore of one.
    let plain = server.hold("plain");
    let other = server.acquire_with("plain", r#""limit":5,"wait":0,"lifetime":600"#).detail(422);
    assert!(other.contains("have the limit 1"), "{other}");
    assert_eq!(server.get(&plain).json()["limit"], 1);
}

#[test]
fn a_wrong_mode_or_limit_is_refused_with_what_would_be_right() {
    let server = Server::start();
    for (field, wrong, expected) in [
        ("mode", r#""ex""#, "mode is \"ex\", expected one of NL, CR, CW, PR, PW, EX, exclusive"),
        ("mode", "5", "mode is 5, expected one of"),
        ("mode", "null", "mode is null, expected one of"),
        ("limit", "0", "limit is 0, expected a whole number from 1 to 1000000"),
        ("limit", "1000001", "limit is 1000001, expected"),
        ("limit", "1.5", "limit is 1.5, expected"),
        ("limit", "-1", "limit is -1, expected"),
        ("limit", r#""many""#, "limit is \"many\", expected"),
        ("limit", "[2]", "limit is an array, expected"),
    ] {
        let fields = format!(r#""{field}":{wrong},"wait":0,"lifetime":60"#);
        let detail = server.acquire_with("r", &fields).detail(400);
        assert!(detail.starts_with(expected), "{detail}");
    }
    let detail =
        server.acquire_with("r", r#""mode":"PR","limit":2,"wait":0,"lifetime":6"#).detail(400);
    assert_eq!(detail, "limit goes with mode EX alone, and the mode is PR");
    assert!(server.locks("r").is_empty());
}
