//! Who has ended a lock, why, and what its client is told.

use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Response, Server, lock_body, wait_until};

/// By a client of this address, behind a proxy that is trusted.
fn ask_from(address: &str, server: &Server, method: &str, path: &str, body: &str) -> Response {
    let mut client = server.connect();
    let headers = format!("Host: localhost\r\nX-Forwarded-For: {address}");
    client.send_with_headers(method, path, &headers, body);
    client.response()
}

/// Of a user whose password is its name.
fn credentials(user: &str) -> String {
    format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("{user}:{user}")))
}

fn ask_as(user: &str, server: &Server, method: &str, path: &str, body: &str) -> Response {
    let mut client = server.connect();
    let headers = format!("Host: localhost\r\n{}", credentials(user));
    client.send_with_headers(method, path, &headers, body);
    client.response()
}

/// The lines of a server's file of events.
fn lines(log: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_release_from_elsewhere_is_a_deletion_and_says_by_whom_and_why() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("events");
    let server = Server::start_with(&[
        "--event-log",
        file.to_str().unwrap(),
        "--trusted-proxy",
        "127.0.0.1",
    ]);
    let hold = |name: &str| {
        let path = format!("/locks/{name}");
        ask_from("10.0.0.7", &server, "POST", &path, &lock_body(0, 600)).lock_path()
    };
    let (own, other) = (hold("own"), hold("other"));
    assert_eq!(ask_from("10.0.0.7", &server, "DELETE", &own, "").status, 204);
    let reason = "?reason=the%20node%20is%20gone";
    assert_eq!(ask_from("10.0.0.9", &server, "DELETE", &(other.clone() + reason), "").status, 204);
    // What the holder is told by its next request.
    for method in ["GET", "PATCH", "DELETE"] {
        let lost = ask_from("10.0.0.7", &server, method, &other, r#"{"lifetime":60}"#);
        assert_eq!((lost.status, &lost.json()["reason"]), (404, &"no_such_lock".into()));
        let gone = &lost.json()["gone"];
        assert_eq!(
            (&gone["how"], &gone["reason"]),
            (&json!("deleted"), &json!("the node is gone"))
        );
        assert_eq!(gone["by"], json!({"client": "10.0.0.9", "door": "api"}));
        assert!(gone["at"].as_str().unwrap().ends_with('Z'));
    }
    let released = ask_from("10.0.0.7", &server, "GET", &own, "").json();
    assert_eq!(released["gone"]["how"], "released");
    // Not by way of another resource.
    let elsewhere = other.replace("/other/", "/own/");
    assert!(server.get(&elsewhere).json()["gone"].is_null());
    let log = server.into_log();
    let lines = lines(&file);
    let end = |name: &str, kind: &str| {
        let is_it = |line: &&Value| line["resource"] == name && line["event"] == kind;
        lines.iter().find(is_it).unwrap_or_else(|| panic!("{kind} {name}: {lines:?}")).clone()
    };
    assert_eq!(end("own", "released")["by"]["client"], "10.0.0.7");
    let deleted = end("other", "deleted");
    assert_eq!(
        (&deleted["client"], &deleted["by"]["client"]),
        (&json!("10.0.0.7"), &json!("10.0.0.9"))
    );
    assert_eq!(deleted["reason"], "the node is gone");
    assert!(log.contains(r#" s, by 10.0.0.9 (api), because "the node is gone""#), "{log}");
}

#[test]
fn users_are_told_apart_by_name_and_told_of_each_other() {
    let dir = TempDir::new().unwrap();
    let users = dir.path().join("users");
    let text = "[user.deploy]\npassword = \"deploy\"\nmay = [\"lock *\"]\n\n[user.ops]\npassword = \"ops\"\n\
                may = [\"admin *\"]\n";
    fs::write(&users, text).unwrap();
    let server = Server::start_with(&["--users", users.to_str().unwrap()]);
    let lock = ask_as("deploy", &server, "POST", "/locks/a", &lock_body(0, 600)).lock_path();
    let mut waits = server.connect();
    let headers = format!("Host: localhost\r\n{}", credentials("deploy"));
    waits.send_with_headers("POST", "/locks/a", &headers, &lock_body(60, 600));
    wait_until("it waits", || {
        let list = ask_as("ops", &server, "GET", "/resources/a", "");
        list.json()["_embedded"]["locks"].as_array().is_some_and(|locks| locks.len() == 2)
    });
    assert_eq!(ask_as("ops", &server, "DELETE", "/resources/a?reason=cleanup", "").status, 204);
    let refused = waits.response();
    let gone = &refused.json()["gone"];
    assert_eq!((refused.status, &gone["how"]), (409, &json!("deleted")));
    // Without the right to see, no address.
    assert_eq!((&gone["by"], &gone["reason"]), (&json!({"user": "ops"}), &json!("cleanup")));
    let lost = ask_as("deploy", &server, "PATCH", &lock, r#"{"lifetime":60}"#).json();
    assert_eq!(lost["gone"]["by"], json!({"user": "ops"}));
    let seen = ask_as("ops", &server, "GET", &lock, "").json();
    assert_eq!(seen["gone"]["by"], json!({"user": "ops", "client": "127.0.0.1", "door": "api"}));
}

#[test]
fn a_lock_that_has_expired_says_so_and_names_nobody() {
    let server = Server::start();
    let lock = server.acquire("a", 0.0, 0.05).lock_path();
    wait_until("it is gone", || server.get(&lock).status == 404);
    let gone = server.get(&lock).json()["gone"].clone();
    assert_eq!((&gone["how"], &gone["by"]), (&json!("expired"), &Value::Null));
    let never = "/locks/a/aa4e181e17374148a21b30d9dcb941f9";
    assert!(server.get(never).json()["gone"].is_null());
}

#[test]
fn a_reason_that_is_too_long_changes_nothing() {
    let server = Server::start();
    let lock = server.hold("a");
    let longest = format!("?reason={}", "x".repeat(1024));
    for path in [&*lock, "/resources/a", "/resources"] {
        let detail = server.delete(&format!("{path}{longest}x")).detail(400);
        assert!(detail.contains("at most 1024 bytes"), "{detail}");
    }
    server.delete(&format!("{lock}?reason=%ff")).detail(400);
    assert_eq!(server.locks("a").len(), 1);
    assert_eq!(server.delete(&format!("{lock}{longest}")).status, 204);
}
