//! A disk that takes its time: who does not change a lock does not wait for it.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::Host;
use super::strace::Strace;
use crate::harness::{Client, Server, lock_body, wait_until};
use crate::needed;

/// Longer than everything that a test looks at meanwhile. Nobody waits for its end.
const STALL: &str = "fdatasync:delay_enter=30000000:when=1";

/// Sends the release of a lock.
fn release(server: &Server, path: &str) -> Client {
    let mut client = server.connect();
    client.send_request("DELETE", path, "");
    client
}

fn is_answered(client: &Client) -> bool {
    let stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Sends a request for a lock that is waited for and returns when it is in line.
fn join(server: &Server, resource: &str, wait: f64) -> Client {
    let before = server.locks(resource).len();
    let mut client = server.connect();
    client.send_acquire(resource, wait, 600.0);
    wait_until("it is in line", || server.locks(resource).len() > before);
    client
}

#[test]
fn who_looks_leaves_or_gives_up_does_not_wait_for_the_disk() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    let host = Host::new();
    let server = host.start();
    let (a, b) = (server.hold("a"), server.hold("b"));
    let first = join(&server, "a", 600.0);
    let leaves = join(&server, "a", 600.0);
    let leaves_b = join(&server, "b", 600.0);
    let gives_up_after = 2.0;
    let strace = Strace::attach(&server, &host, &[STALL]);
    let mut gives_up = join(&server, "a", gives_up_after);
    let written = || fs::metadata(host.file()).unwrap().modified().unwrap();
    let before = written();
    let released = release(&server, &a);
    wait_until("the release is being written", || written() != before);

    assert_eq!(server.get(&a).json()["active"], true, "what is being written is not seen");
    assert_eq!(server.locks("a")[0]["active"], true);
    let names = server.get("/resources").json()["_embedded"]["resources"].clone();
    assert_eq!([&names[0]["name"], &names[1]["name"]], ["a", "b"]);
    let mut status = server.connect();
    status.send_with_headers("GET", "/status", "Host: h\r\nAccept: application/json", "");
    assert_eq!(status.response().json()["resources"][0]["name"], "a");

    drop(leaves_b);
    wait_until("the departure from b is noticed", || server.locks("b").len() == 1);
    drop(leaves);
    wait_until("the departure from a is noticed", || server.locks("a").len() < 4);
    gives_up.response().detail(408);
    wait_until("nobody else is in line", || server.locks("a").len() == 2);
    // It is at the gate until its wait is over.
    let at_the_gate = server.connect().acquire("a", 0.2, 600.0);
    at_the_gate.detail(408);

    assert!(!is_answered(&released) && !is_answered(&first), "the disk is still stalled");
    assert_eq!(server.get(&b).status, 200);
    // First, or the server would not end before the stall does.
    drop(strace);
}

#[test]
fn a_wait_begins_when_the_request_comes_though_the_disk_is_stalled() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    let host = Host::new();
    let server = host.start();
    let held = server.hold("a");
    let mut next = join(&server, "a", 600.0);
    let _strace = Strace::attach(&server, &host, &["fdatasync:delay_enter=3000000:when=1"]);
    let mut released = release(&server, &held);
    let mut late = server.connect();
    let sent = SystemTime::now();
    late.send_request("POST", "/locks/a", &lock_body(600, 600));
    assert_eq!(released.response().status, 204);
    let stalled = sent.elapsed().unwrap();
    next.response().lock_path();
    wait_until("it is in line", || server.locks("a").len() == 2);
    let ends = server.locks("a")[1]["wait_expires"].as_str().unwrap().to_string();
    let ends = humantime::parse_rfc3339(&ends).unwrap();
    let late_by = ends.duration_since(sent + Duration::from_secs(600)).unwrap_or_default();
    assert!(late_by < stalled / 2, "{late_by:?} after a stall of {stalled:?}");
}

/// The disk takes so long for a grant.
const SLOW: &str = "fdatasync:delay_enter=500000:when=1";

/// Which thread writes a grant: the first change is written by the journal's, and one that comes
/// alone after that by that of its connection.
const WRITERS: [&str; 2] = ["journal", "connection"];

/// Sends a request for a free lock and returns while it is being written.
fn be_granted_slowly(server: &Server, host: &Host, writer: &str) -> (Client, Strace) {
    if writer == "connection" {
        server.hold("before");
    }
    let strace = Strace::attach(server, host, &[SLOW]);
    let written = || fs::metadata(host.file()).unwrap().modified().unwrap();
    let before = written();
    let mut client = server.connect();
    client.send_acquire("a", 0.0, 600.0);
    wait_until("the grant is being written", || written() != before);
    (client, strace)
}

#[test]
fn answers_come_in_the_order_of_their_requests_though_one_waits_for_the_disk() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    for writer in WRITERS {
        let host = Host::new();
        let server = host.start();
        let (mut client, strace) = be_granted_slowly(&server, &host, writer);
        client.send_request("GET", "/health", "");
        let body = lock_body(0, 600);
        let expect = format!("Host: h\r\nExpect: 100-continue\r\nContent-Length: {}", body.len());
        client.send(format!("POST /locks/b HTTP/1.1\r\n{expect}\r\n\r\n"));
        assert_eq!(client.response().status, 201, "{writer}");
        assert_eq!(client.response().status, 200, "{writer}");
        assert_eq!(client.response().status, 100, "{writer}");
        client.send(body);
        assert_eq!(client.response().status, 201, "{writer}");
        assert_eq!(strace.is_by_journal("fdatasync"), writer == "journal");
    }
}

#[test]
fn who_has_gone_when_its_lock_is_written_does_not_keep_it() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    for writer in WRITERS {
        let host = Host::new();
        let server = host.start();
        let (client, strace) = be_granted_slowly(&server, &host, writer);
        drop(client);
        assert_eq!(server.acquire("a", 300.0, 600.0).status, 201, "{writer}");
        assert_eq!(strace.is_by_journal("fdatasync"), writer == "journal");
    }
}

#[test]
fn an_end_of_the_server_waits_for_what_is_being_written() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    for writer in WRITERS {
        let host = Host::new();
        let server = host.start();
        let (mut client, _strace) = be_granted_slowly(&server, &host, writer);
        server.signal("-TERM");
        assert_eq!(client.response().status, 201, "{writer}");
    }
}

#[test]
fn a_lock_whose_client_has_gone_is_not_held_after_the_end_of_the_server() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    for writer in WRITERS {
        let host = Host::new();
        let mut server = host.start();
        let (client, strace) = be_granted_slowly(&server, &host, writer);
        drop(client);
        server.signal("-TERM");
        assert_eq!(server.wait().code(), Some(0), "{writer}");
        drop(strace);
        drop(server);
        assert_eq!(host.start().acquire("a", 0.0, 600.0).status, 201, "{writer}");
    }
}
