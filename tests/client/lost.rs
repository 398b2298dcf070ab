//! `rdlm run` whose lock is lost.

use std::time::{Duration, Instant};

use super::fakes::{Fake, Then, answer};
use super::{Running, complaint, is_alive, output, rdlm, run_script};
use crate::harness::{Server, wait_until};

#[test]
fn a_deleted_lock_ends_the_command() {
    let server = Server::start();
    let script = "sleep 100 & trap 'echo cleaned up; exit 0' TERM; echo ready; wait";
    let mut run = run_script(&server, &["--lifetime", "0.6"], script);
    assert_eq!(run.line(), "ready");
    server.delete("/resources/foo");
    assert_eq!(run.line(), "cleaned up");
    let (code, errors) = run.end();
    assert_eq!(code, Some(74));
    assert!(errors.contains("the lock on foo is lost"), "{errors}");
}

/// Runs a script that prints the number of a process which ignores SIGTERM, and deletes the lock.
#[track_caller]
fn is_killed_with_its_children(script: &str) {
    let server = Server::start();
    let options = ["--lifetime", "0.6", "--kill-after", "0.5"];
    let mut run = run_script(&server, &options, script);
    let child = run.line();
    let began = Instant::now();
    server.delete("/resources/foo");
    assert_eq!(run.end().0, Some(74));
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(!is_alive(&child));
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_with_its_children() {
    is_killed_with_its_children(
        "trap '' TERM; sh -c 'echo $$; sleep 100; sleep 100' & wait; sleep 100",
    );
}

#[test]
fn a_child_that_outlives_the_command_has_its_time_and_no_more() {
    // The command ends with SIGTERM, its child ignores it.
    is_killed_with_its_children("(trap '' TERM; exec sleep 100) & echo $!; exec sleep 100");
}

#[test]
fn without_a_renewal_it_is_lost_at_the_end_of_its_lifetime() {
    // Once with a server that is gone, once with one that does not answer.
    let began = Instant::now();
    let runs = ["-KILL", "-STOP"].map(|signal| {
        let server = Server::start();
        let mut run = run_script(&server, &["--lifetime", "1.2"], "echo ready; exec sleep 100");
        assert_eq!(run.line(), "ready");
        server.signal(signal);
        (run, server)
    });
    for (run, _server) in runs {
        let (code, errors) = run.end();
        assert_eq!(code, Some(74));
        assert!(errors.contains("is lost"), "{errors}");
        assert!(began.elapsed() >= Duration::from_millis(1000), "{:?}", began.elapsed());
    }
}

#[test]
fn a_server_that_is_away_for_less_than_the_lifetime_does_no_harm() {
    let server = Server::start();
    let mut run = run_script(&server, &["--lifetime", "3"], "echo ready; sleep 2; exit 4");
    assert_eq!(run.line(), "ready");
    server.signal("-STOP");
    std::thread::sleep(Duration::from_millis(1300));
    server.signal("-CONT");
    assert_eq!(run.end().0, Some(4));
}

#[test]
fn a_lock_that_was_lost_before_the_end_is_told() {
    let server = Server::start();
    let mut run = run_script(&server, &[], "echo ready; sleep 0.3; exit 3");
    assert_eq!(run.line(), "ready");
    server.delete("/resources/foo");
    let (code, errors) = run.end();
    assert_eq!(code, Some(74));
    assert!(errors.contains("was lost before it was released"), "{errors}");
}

#[test]
fn a_lock_that_cannot_be_released_is_told_and_changes_no_code() {
    let mut server = Server::start();
    let mut run = run_script(&server, &[], "echo ready; sleep 0.3; exit 3");
    assert_eq!(run.line(), "ready");
    server.signal("-KILL");
    server.wait();
    wait_until("the server is gone", || {
        output(server.port(), &["resources"]).status.code() == Some(69)
    });
    let (code, errors) = run.end();
    assert_eq!(code, Some(3));
    assert!(errors.contains("expires within 60 s"), "{errors}");
}

#[test]
fn many_locks_at_a_server_that_hangs_are_given_up_together() {
    let server = Server::start();
    let names: Vec<_> = (0..16).map(|n| n.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let script = ["--", "sh", "-c", "echo ready; exec sleep 600"];
    let args = [&["run"], &names[..], &script].concat();
    let mut run = Running::start(&mut rdlm(server.port(), &args));
    assert_eq!(run.line(), "ready");
    server.signal("-STOP");
    let began = Instant::now();
    run.signal("-TERM");
    assert_eq!(run.wait(), Some(143));
    // The time for all of them is 10 s.
    assert!(began.elapsed() < Duration::from_secs(13), "{:?}", began.elapsed());
    server.signal("-CONT");
}

const UID: &str = "0123456789abcdef0123456789abcdef";

/// A problem document with what became of a lock.
fn gone(status: &str, reason: &str, detail: &str) -> Then {
    let by = r#"{"user":"ops","client":"10.0.0.7","door":"page"}"#;
    let how = format!(
        r#"{{"how":"deleted","at":"2026-12-01T03:00:00Z","by":{by},"reason":"it hung\u001b"}}"#
    );
    let kind = format!("urn:rdlm:problem:{reason}");
    answer(
        status,
        &format!(r#"{{"type":"{kind}","reason":"{reason}","detail":"{detail}","gone":{how}}}"#),
    )
}

#[test]
fn a_command_that_loses_its_lock_is_told_who_deleted_it() {
    let granted = answer("201 Created", &format!(r#"{{"uid":"{UID}","lifetime":0.9}}"#));
    let lost = || gone("404 Not Found", "no_such_lock", "there is no such lock");
    let expected = "it was deleted at 2026-12-01T03:00:00Z by ops (10.0.0.7): it hung\\u{1b}";
    // Noticed by a renewal, and when it is released.
    for script in ["exec sleep 100", "exit 0"] {
        let fake = Fake::start(vec![granted.clone(), lost()]);
        let args = ["run", "--lifetime", "0.9", "foo", "--", "sh", "-c", script];
        let run = output(fake.port, &args);
        let errors = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(74), "{errors}");
        let lines: Vec<_> = errors.lines().collect();
        assert!(lines.iter().all(|line| line.contains(expected)), "{errors}");
        assert_eq!(lines.len(), if script == "exit 0" { 1 } else { 2 }, "{errors}");
    }
    let fake = Fake::start(vec![lost()]);
    for command in ["get", "renew", "release"] {
        let line = complaint(&output(fake.port, &[command, &format!("/locks/foo/{UID}")]), 74);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_request_that_is_deleted_is_told_who_did_it() {
    let fake = Fake::start(vec![gone("409 Conflict", "deleted", "somebody deleted the request")]);
    let line = complaint(&output(fake.port, &["run", "foo", "--", "true"]), 75);
    assert!(line.contains("somebody deleted the request; it was deleted at 2026"), "{line}");
    assert!(line.contains("by ops (10.0.0.7): it hung"), "{line}");
}

#[test]
fn who_deleted_a_lock_and_why_is_told_by_the_server_to_its_holder() {
    let server = Server::start();
    let mut run = run_script(&server, &["--lifetime", "0.9"], "echo ready; exec sleep 100");
    assert_eq!(run.line(), "ready");
    let deleted = output(server.port(), &["delete", "--reason", "it hung", "foo"]);
    assert_eq!(deleted.status.code(), Some(0), "{deleted:?}");
    let (code, errors) = run.end();
    assert_eq!(code, Some(74));
    assert!(errors.contains("is lost: it was deleted at 20"), "{errors}");
    assert!(errors.contains(" by 127.0.0.1: it hung; ending the command"), "{errors}");
}
