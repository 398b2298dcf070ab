//! Servers that allow little, and what is nobody's lock but a fault of the server.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::fakes::{Fake, Then};
use super::{Running, complaint, output, printed, rdlm};
use crate::harness::{Server, wait_until};

const GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The first request that waits for a resource.
fn first_in_line(server: &Server, resource: &str) -> Option<Value> {
    server.locks(resource).into_iter().find(|lock| lock["position"] == 1)
}

#[test]
fn a_wait_without_an_end_keeps_its_place_beyond_the_longest_wait_that_is_allowed() {
    let server = Server::start_with(&["--max-wait", "4"]);
    let holder = server.hold("foo");
    let mut run = Running::start(&mut rdlm(server.port(), &["run", "foo", "--", "echo", "ran"]));
    wait_until("it waits", || first_in_line(&server, "foo").is_some());
    let mine = first_in_line(&server, "foo").unwrap();
    let mut next = server.connect();
    let mut end = mine["wait_expires"].clone();
    // Three times, so beyond the end of the first slice.
    for _ in 0..3 {
        next.send_acquire("foo", 4.0, 60.0);
        wait_until("it asks again", || {
            let now = first_in_line(&server, "foo").unwrap();
            assert_eq!(now["uid"], mine["uid"], "the place is lost");
            now["wait_expires"] != end
        });
        end = first_in_line(&server, "foo").unwrap()["wait_expires"].clone();
        next = server.connect();
    }
    assert_eq!(server.delete(&holder).status, 204);
    assert_eq!(run.line(), "ran");
    assert_eq!(run.end(), (Some(0), String::new()));
}

#[test]
fn a_lifetime_that_was_not_asked_for_is_what_the_server_allows() {
    let server = Server::start_with(&["--max-wait", "0", "--max-lifetime", "30"]);
    let lifetime = |resource: &str| server.locks(resource)[0]["lifetime"].as_f64();
    let script = ["run", "foo", "--", "sh", "-c", "echo ready; read line"];
    let mut run = Running::start(rdlm(server.port(), &script).stdin(std::process::Stdio::piped()));
    assert_eq!(run.line(), "ready");
    assert_eq!(lifetime("foo"), Some(30.0));
    let lock = printed(&output(server.port(), &["acquire", "--lifetime", "3", "bar"]));
    assert_eq!(lifetime("bar"), Some(3.0));
    printed(&output(server.port(), &["renew", lock.trim()]));
    assert_eq!(lifetime("bar"), Some(30.0));
}

#[test]
fn a_value_that_is_not_allowed_is_named_as_it_was_typed() {
    let server = Server::start_with(&["--max-wait", "10", "--max-lifetime", "30"]);
    let lock = printed(&output(server.port(), &["acquire", "--lifetime", "30", "foo"]));
    let (lock, url) = (lock.trim(), format!("http://127.0.0.1:{}", server.port()));
    let wait = format!("rdlm: --wait \"1h30m\": {url} allows a wait of at most 10 s\n");
    let lifetime = format!("rdlm: --lifetime \"1m\": {url} allows a lifetime of at most 30 s\n");
    for (args, expected) in [
        (&["run", "--wait", "1h30m", "bar", "--", "true"][..], &wait),
        (&["acquire", "--wait=1h30m", "bar"], &wait),
        (&["renew", "--mode", "PR", "--wait", "1h30m", lock], &wait),
        (&["run", "--lifetime", "1m", "bar", "--", "true"], &lifetime),
        (&["acquire", "--lifetime", "1m", "bar"], &lifetime),
        (&["renew", "--lifetime", "1m", lock], &lifetime),
        (&["renew", "--mode", "PR", "--lifetime", "1m", lock], &lifetime),
    ] {
        assert_eq!(&complaint(&output(server.port(), args), 64), expected, "{args:?}");
    }
}

#[test]
fn a_lock_is_kept_by_a_server_that_comes_back_with_a_shorter_lifetime() {
    let dir = TempDir::new().unwrap();
    let start = |port, lifetime| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        command.args(["serve", "--max-lifetime", lifetime, "--data-dir"]).arg(dir.path());
        Server::start_command_on(port, &mut command)
    };
    let mut server = start(0, "60");
    let port = server.port();
    let args = ["run", "--lifetime", "6", "foo", "--", "sh", "-c", "echo ready; read line"];
    let mut run = Running::start(rdlm(port, &args).stdin(std::process::Stdio::piped()));
    assert_eq!(run.line(), "ready");
    server.signal("-KILL");
    server.wait();
    let server = start(port, "3");
    wait_until("it is renewed for less", || server.locks("foo")[0]["lifetime"] == 3);
    drop(run.process.stdin.take());
    assert_eq!(run.end().0, Some(1), "read finds the end of its input");
    assert_eq!(server.locks("foo").len(), 0);
}

/// 75 and `--conflict-exit-code` mean that somebody else has the lock.
#[test]
fn a_fault_of_the_server_is_no_conflict() {
    let fake = Fake::start(vec![Then::Answer(GATEWAY.into())]);
    let full = Server::start_with(&["--max-locks", "1"]);
    full.hold("bar");
    let run = ["run", "--wait", "0", "--conflict-exit-code", "0", "--quiet", "foo", "--", "true"];
    for port in [fake.port, full.port()] {
        complaint(&output(port, &run), 69);
        complaint(&output(port, &["acquire", "--wait", "0", "foo"]), 69);
    }
    complaint(&output(fake.port, &["resources"]), 69);
    complaint(&output(fake.port, &["locks", "foo"]), 69);
    // The same options where somebody has it.
    full.delete("/resources");
    full.hold("foo");
    assert_eq!(output(full.port(), &run).status.code(), Some(0));
}
