//! A held lock gets another mode.

use serde_json::Value;

use crate::harness::{Client, Response, Server, wait_until};

fn acquire(server: &Server, mode: &str) -> String {
    let fields = format!(r#""mode":"{mode}","wait":0,"lifetime":600"#);
    server.acquire_with("r", &fields).lock_path()
}

fn convert(server: &Server, lock: &str, fields: &str) -> Response {
    server.request("PATCH", lock, &format!("{{{fields}}}"))
}

/// A client that waits for EX.
fn waits(server: &Server, lock: &str, wait: f64) -> Client {
    let before = waiting(server);
    let mut client = server.connect();
    client.send_request("PATCH", lock, &format!(r#"{{"mode":"EX","wait":{wait}}}"#));
    wait_until("it waits for the mode", || waiting(server) == before + 1);
    client
}

fn waiting(server: &Server) -> usize {
    let locks = server.locks("r");
    locks.iter().filter(|lock| lock.get("converting_to") == Some(&"EX".into())).count()
}

/// How many clients wait, for locks or for modes.
fn total(server: &Server) -> u64 {
    server.get("/status?limit=1").json()["totals"]["waiting"].as_u64().unwrap()
}

fn mode(server: &Server, lock: &str) -> Value {
    server.get(lock).json()["mode"].clone()
}

#[test]
fn a_lock_keeps_its_url_and_token_and_lifetime() {
    let server = Server::start();
    let lock = acquire(&server, "EX");
    let before = server.get(&lock).json();
    let reader = server.acquire_with("r", r#""mode":"PR","wait":0,"lifetime":600"#);
    reader.detail(408);
    let converted = convert(&server, &lock, r#""mode":"shared""#);
    assert_eq!(converted.status, 200);
    let converted = converted.json();
    assert_eq!((&converted["mode"], converted.get("limit")), (&"PR".into(), None));
    for field in ["uid", "title", "lifetime", "active_since", "active_expires", "fencing_token"] {
        assert_eq!(converted[field], before[field], "{field}");
    }
    assert_eq!(server.get(&lock).json(), converted);
    acquire(&server, "PR");
    // Also what it has already, and with a lifetime beside it.
    assert_eq!(convert(&server, &lock, r#""mode":"PR""#).json(), converted);
    let longer = convert(&server, &lock, r#""mode":"CR","lifetime":900"#).json();
    assert_eq!((&longer["mode"], &longer["lifetime"]), (&"CR".into(), &900.into()));
    assert_ne!(longer["active_expires"], before["active_expires"]);
}

#[test]
fn requests_that_fit_beside_the_new_mode_are_granted() {
    let server = Server::start();
    let lock = acquire(&server, "EX");
    let mut writer = server.join_line("r");
    assert_eq!(convert(&server, &lock, r#""mode":"NL""#).status, 200);
    writer.response().lock_path();
}

#[test]
fn a_mode_that_does_not_fit_is_waited_for_before_the_line() {
    let server = Server::start();
    let [lock, other] = [(), ()].map(|()| acquire(&server, "PR"));
    let detail = convert(&server, &lock, r#""mode":"EX""#).detail(408);
    assert!(detail.starts_with("the lock was not"), "{detail}");
    let before = server.get(&lock).json();
    let mut writer = waits(&server, &lock, 600.0);
    assert_eq!(server.get(&lock).json(), before, "it is held as before");
    assert_eq!(total(&server), 1);
    server.acquire_with("r", r#""mode":"PR","wait":0,"lifetime":600"#).detail(408);
    let mut behind = server.join_line("r");
    convert(&server, &lock, r#""mode":"NL""#).detail(409);
    assert_eq!(convert(&server, &lock, r#""lifetime":700"#).status, 200, "it can be renewed");
    assert_eq!(server.delete(&other).status, 204);
    let converted = writer.response();
    assert_eq!((converted.status, &converted.json()["mode"]), (200, &"EX".into()));
    assert_eq!(total(&server), 1);
    assert_eq!(server.delete(&lock).status, 204);
    behind.response().lock_path();
}

#[test]
fn a_wait_that_runs_out_leaves_the_lock_as_it_was() {
    let server = Server::start();
    let [lock, other] = [(), ()].map(|()| acquire(&server, "PR"));
    convert(&server, &lock, r#""mode":"EX","wait":0.2"#).detail(408);
    assert_eq!(mode(&server, &lock), "PR");
    assert_eq!(server.delete(&other).status, 204);
    assert_eq!(mode(&server, &lock), "PR", "and it stays so");
    acquire(&server, "PR");
}

/// Both would wait for the other to go.
#[test]
fn of_two_readers_that_both_want_to_write_the_second_is_refused_as_a_deadlock() {
    let server = Server::start();
    let [first, second] = [(), ()].map(|()| acquire(&server, "PR"));
    let mut writer = waits(&server, &first, 600.0);
    let detail = convert(&server, &second, r#""mode":"EX","wait":600"#).detail(409);
    assert!(detail.starts_with("deadlock"), "{detail}");
    assert_eq!(mode(&server, &second), "PR");
    assert_eq!(server.delete(&second).status, 204);
    assert_eq!(writer.response().json()["mode"], "EX");
}

#[test]
fn a_client_that_leaves_loses_the_conversion_and_not_the_lock() {
    let server = Server::start();
    let [lock, other] = [(), ()].map(|()| acquire(&server, "PR"));
    drop(waits(&server, &lock, 600.0));
    wait_until("it waits no more", || waiting(&server) == 0);
    assert_eq!(mode(&server, &lock), "PR");
    acquire(&server, "PR");
    assert_eq!(server.delete(&other).status, 204);
    assert_eq!(mode(&server, &lock), "PR");
}

#[test]
fn a_lock_that_ends_takes_its_conversion_with_it() {
    let server = Server::start();
    let [lock, other] = [(), ()].map(|()| acquire(&server, "PR"));
    let mut released = waits(&server, &lock, 600.0);
    assert_eq!(server.delete(&lock).status, 204);
    released.response().detail(404);
    convert(&server, &lock, r#""mode":"NL""#).detail(404);
    acquire(&server, "PR");
    let mut deleted = waits(&server, &other, 600.0);
    assert_eq!(server.delete("/resources/r").status, 204);
    deleted.response().detail(404);
}

#[test]
fn the_end_of_the_server_ends_the_wait() {
    let mut server = Server::start();
    let [lock, _other] = [(), ()].map(|()| acquire(&server, "PR"));
    let mut writer = waits(&server, &lock, 600.0);
    server.signal("-TERM");
    writer.response().detail(503);
    assert!(server.wait().success());
}

#[test]
fn conversions_count_among_the_requests_that_wait() {
    let server = Server::start_with(&["--max-waiters", "1"]);
    let [lock, _other] = [(), ()].map(|()| acquire(&server, "PR"));
    let _waits = waits(&server, &lock, 600.0);
    server.acquire("r", 600.0, 600.0).detail(503);
    let other = server.acquire_with("s", r#""mode":"PR","wait":0,"lifetime":600"#).lock_path();
    server.acquire_with("s", r#""mode":"PR","wait":0,"lifetime":600"#).lock_path();
    convert(&server, &other, r#""mode":"EX","wait":600"#).detail(503);
    assert_eq!(mode(&server, &other), "PR");
}

#[test]
fn what_cannot_be_converted_is_refused_with_the_reason() {
    let server = Server::start();
    let semaphore = server.acquire_with("s", r#""limit":3,"wait":0,"lifetime":600"#).lock_path();
    convert(&server, &semaphore, r#""mode":"NL""#).detail(422);
    let lock = acquire(&server, "PR");
    convert(&server, &lock, r#""mode":"EX","limit":3"#).detail(422);
    for (fields, expected) in [
        (r#""mode":"XX""#, "mode is \"XX\", expected one of"),
        (r#""mode":"EX","wait":-1"#, "wait is -1, expected"),
        (r#""mode":"EX","lifetime":0"#, "lifetime is 0, expected"),
        (r#""wait":5"#, "lifetime is missing, expected"),
        (r#""mode":"PR","limit":1"#, "limit goes with mode EX alone"),
    ] {
        let detail = convert(&server, &lock, fields).detail(400);
        assert!(detail.starts_with(expected), "{detail}");
    }
    let writer = server.join_line("r");
    let waiting = server.locks("r")[1]["uid"].as_str().unwrap().to_string();
    convert(&server, &format!("/locks/r/{waiting}"), r#""mode":"NL""#).detail(409);
    assert_eq!(mode(&server, &lock), "PR");
    drop(writer);
}
