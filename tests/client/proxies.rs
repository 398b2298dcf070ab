//! Proxies that answer in place of the server, or that replace its headers.

use std::time::{Duration, Instant};

use super::fakes::{Fake, Then};
use super::{Running, complaint, output, printed, rdlm};
use crate::harness::{Server, wait_until};
use crate::nginx::Nginx;

/// A page for maintenance, as a gateway may answer whatever it is asked.
fn maintenance(status: &str) -> Then {
    let body = if status.starts_with("204") { "" } else { r#"{"status":"maintenance"}"# };
    Then::Answer(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

#[test]
fn only_the_lock_itself_is_a_renewal() {
    for status in ["204 No Content", "200 OK", "201 Created"] {
        let server = Server::start();
        let fake = Fake::start(vec![Then::Forward(server.port()), maintenance(status)]);
        let args = ["run", "--lifetime", "3", "foo", "--", "sh", "-c", "echo ready; sleep 100"];
        let mut run = Running::start(&mut rdlm(fake.port, &args));
        assert_eq!(run.line(), "ready");
        // Its connection ends with it: the next one is the gateway's.
        server.signal("-KILL");
        let (code, errors) = run.end();
        assert_eq!(code, Some(74), "{status}");
        assert!(errors.contains("is lost"), "{status}: {errors}");
    }
}

#[test]
fn what_a_gateway_says_is_no_success_of_a_command() {
    let url = format!("/locks/foo/{}", "0".repeat(32));
    let convert = ["renew", "--mode", "PR", &url];
    for (status, args) in [
        ("204 No Content", &["renew", &url][..]),
        ("200 OK", &["renew", &url]),
        ("204 No Content", &convert),
        ("200 OK", &convert),
        ("200 OK", &["release", &url]),
        ("200 OK", &["get", &url]),
        ("200 OK", &["resources"]),
        ("200 OK", &["locks", "foo"]),
        ("200 OK", &["delete", "foo"]),
        ("200 OK", &["acquire", "foo"]),
        ("201 Created", &["acquire", "foo"]),
    ] {
        let fake = Fake::start(vec![maintenance(status)]);
        let line = complaint(&output(fake.port, args), 76);
        assert!(line.contains("not as rdlm does"), "{args:?}: {line}");
    }
    let fake = Fake::start(vec![maintenance("200 OK")]);
    complaint(&output(fake.port, &["health"]), 69);
}

/// Nor does it end a wait, and another server is asked.
#[test]
fn a_gateway_that_is_maintained_is_asked_again_or_another_one() {
    let server = Server::start();
    let script = vec![maintenance("200 OK"), Then::Forward(server.port())];
    let fake = Fake::start(script.clone());
    assert_eq!(printed(&output(fake.port, &["run", "foo", "--", "echo", "ran"])), "ran\n");
    let path = server.hold("foo");
    printed(&output(Fake::start(script).port, &["renew", &path]));
    let gateway = Fake::start(vec![maintenance("200 OK")]);
    let urls = format!("http://127.0.0.1:{},http://127.0.0.1:{}", gateway.port, server.port());
    for args in [&["renew", &path][..], &["get", &path], &["release", &path]] {
        let output = rdlm(1, args).env("RDLM_URL", &urls).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn a_lock_that_is_deleted_is_noticed_through_nginx_with_its_defaults() {
    let server = Server::start();
    let nginx = Nginx::before(&server);
    let args = ["run", "--lifetime", "30", "foo", "--", "sh", "-c", "echo ready; exec sleep 100"];
    let mut run = Running::start(&mut rdlm(nginx.port, &args));
    assert_eq!(run.line(), "ready");
    let began = Instant::now();
    assert_eq!(server.delete("/resources/foo").status, 204);
    assert_eq!(run.end().0, Some(74));
    // With the next renewal, and not at the end of the lifetime.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

#[test]
fn refusals_are_understood_through_nginx_with_its_defaults() {
    let server = Server::start();
    let nginx = Nginx::before(&server);
    let path = server.hold("foo");
    complaint(&output(nginx.port, &["acquire", "--wait", "0", "foo"]), 75);
    let waiting = Running::start(&mut rdlm(nginx.port, &["run", "foo", "--", "echo", "ran"]));
    wait_until("it waits", || server.locks("foo").len() == 2);
    assert_eq!(server.delete("/resources/foo").status, 204);
    // An administrator has removed it from the line: it does not come back.
    assert_eq!(waiting.end().0, Some(75));
    for command in ["renew", "release", "get"] {
        assert!(complaint(&output(nginx.port, &[command, &path]), 74).contains("is not held"));
    }
    complaint(&output(nginx.port, &["acquire", "--lifetime", "1e9", "--limit", "2", "x y"]), 64);
}
