//! What a command that waits says where there is no terminal.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use super::fakes::{Fake, Then};
use super::{Running, rdlm};
use crate::harness::{Server, wait_until};

const GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Has a command wait. Returns the first line on standard error, and all of it once the wait was
/// ended, a second later.
fn said(port: u16, began: Instant) -> String {
    let mut run = Running::start(&mut rdlm(port, &["run", "foo", "--", "true"]));
    let mut errors = BufReader::new(run.process.stderr.take().unwrap());
    let mut text = String::new();
    errors.read_line(&mut text).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(5), "{text}");
    let line = Instant::now();
    wait_until("another line could have come", || line.elapsed() > Duration::from_secs(1));
    run.signal("-TERM");
    errors.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_wait_behind_a_gateway_without_a_server_says_so() {
    let fake = Fake::start(vec![Then::Answer(GATEWAY.into())]);
    let text = said(fake.port, Instant::now());
    let server = format!("http://127.0.0.1:{}", fake.port);
    let expected = format!("rdlm: waiting for foo at {server}; last error: {server} answers 502");
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn a_wait_for_somebody_else_says_who_it_is() {
    let server = Server::start();
    server.hold("foo");
    let text = said(server.port(), Instant::now());
    let url = format!("http://127.0.0.1:{}", server.port());
    let expected = format!("rdlm: waiting for foo at {url}, held by a test for ");
    assert!(text.starts_with(&expected) && text.ends_with(", 1st in line\n"), "{text}");
}

/// As of cron, which mails every line.
#[test]
fn a_wait_that_is_short_or_quiet_says_nothing() {
    let server = Server::start();
    let holder = server.hold("foo");
    let args = ["run", "--quiet", "foo", "--", "echo", "ran"];
    let mut quiet = Running::start(&mut rdlm(server.port(), &args));
    let waiting = Instant::now();
    wait_until("it waits", || server.locks("foo").len() == 2);
    wait_until("a line would come", || waiting.elapsed() > Duration::from_secs(6));
    let short = ["run", "foo", "--", "true"];
    let mut short = Running::start(&mut rdlm(server.port(), &short));
    wait_until("it waits", || server.locks("foo").len() == 3);
    assert_eq!(server.delete(&holder).status, 204);
    for run in [&mut quiet, &mut short] {
        let mut errors = String::new();
        run.process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!((run.wait(), &*errors), (Some(0), ""));
    }
}
