//! What clients see of the two.

use std::time::Duration;

use super::etcd_or_skip;
use super::{health, join, join_by, two, two_with, url};
use crate::answers;
use crate::connections::crowd;
use crate::harness::{Client, Server, lock_body, wait_until};

#[test]
fn a_standby_answers_as_the_active_server_does() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let mut client = standby.connect();
    let lock = client.acquire("a", 0.0, 600.0).lock_path();
    // The same connection goes on, and the client is the client.
    let shown = client.request("GET", "/resources/a", "");
    let shown = &shown.json()["_embedded"]["locks"][0];
    assert_eq!((&shown["client"], &shown["active"]), (&"127.0.0.1".into(), &true.into()));
    assert_eq!(client.acquire("a", 0.0, 600.0).status, 408);
    assert_eq!(client.request("POST", "/locks/a", "{").status, 400);
    assert_eq!(client.request("HEAD", &lock, "").status, 200);
    assert_eq!(client.request("PATCH", &lock, r#"{"lifetime":5}"#).status, 200);
    assert_eq!(client.request("GET", "/nothing", "").status, 404);
    assert_eq!(active.get(&lock).json()["lifetime"], 5);
    assert_eq!(client.request("DELETE", &lock, "").status, 204);
    assert_eq!(active.get(&lock).status, 404);
    // A body in chunks, and a connection that ends.
    let body = lock_body(0, 600);
    client.send(format!(
        "POST /locks/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.response().status, 201);
    assert!(client.is_closed());
}

#[test]
fn what_a_standby_cannot_read_it_refuses_as_the_active_server_does() {
    let etcd = etcd_or_skip!(1);
    let (_active, standby) = two(&etcd);
    for (status, request) in answers::unreadable() {
        assert_eq!(answers::answer(&standby, &request).status, status, "{request}");
    }
}

#[test]
fn each_server_knows_its_own_names() {
    let etcd = etcd_or_skip!(1);
    let (_active, standby) = two_with(&etcd, &["--host", "one.example"]);
    let other = join_by(&etcd.endpoints(), &["--host", "two.example"]);
    let list = |server: &Server, host: &str| {
        let mut client = server.connect();
        client.send_with_headers("GET", "/status", &format!("Host: {host}"), "");
        client.response().status
    };
    wait_until("it knows who is active", || health(&other)["active"].is_string());
    for (server, host, status) in [
        (&standby, "one.example", 200),
        (&standby, "evil.example", 403),
        // The active server does not know this name, and is not asked.
        (&other, "two.example", 200),
        (&other, "one.example", 403),
    ] {
        assert_eq!(list(server, host), status, "{host}");
    }
}

#[test]
fn health_says_who_is_active() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    assert_eq!(health(&active)["role"], "active");
    assert_eq!(health(&standby)["role"], "standby");
    assert_eq!(active.get("/health?role=active").status, 200);
    for target in [
        "/health?role=active",
        "/health?role=%61ctive",
        "/health?a&role=active",
        "http://localhost/health?role=active",
        "HTTP://localhost/health?role=active",
    ] {
        standby.get(target).detail(503);
        assert_eq!(active.get(target).status, 200, "{target}");
    }
    // What is about the server that is asked is not passed on, either.
    assert_eq!(standby.get("http://localhost/health").json()["role"], "standby");
    assert!(standby.get("http://localhost/metrics").text().contains("rdlm_active 0"));
    for (server, is_active) in [(&active, 1.0), (&standby, 0.0)] {
        assert_eq!(super::metric(server, "rdlm_active "), is_active);
    }
}

#[test]
fn who_leaves_a_standby_leaves_the_line() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    active.hold("a");
    let mut client = standby.connect();
    client.send_acquire("a", 600.0, 600.0);
    wait_until("it waits", || active.locks("a").len() == 2);
    drop(client);
    wait_until("it has left", || active.locks("a").len() == 1);
}

#[test]
fn who_waits_at_a_standby_is_granted_the_lock() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let held = active.hold("a");
    let mut client = standby.connect();
    client.send_acquire_with_key("a", "k");
    wait_until("it waits", || active.locks("a").len() == 2);
    assert_eq!(active.delete(&held).status, 204);
    assert_eq!(client.response().status, 201);
}

#[test]
fn waits_at_a_standby_leave_connections_for_releases() {
    let etcd = etcd_or_skip!(1);
    let active = join(&etcd);
    wait_until("it is active", || health(&active)["role"] == "active");
    let standby = join_by(&etcd.endpoints(), &["--max-connections", "16"]);
    wait_until("it knows", || health(&standby)["active"] == url(&active).as_str());
    let lock = active.hold("a");
    let mut waiting = crowd(&standby, "a", 16);
    wait_until("as many wait as may", || active.locks("a").len() > 8);
    let mut releases = standby.connect();
    assert_eq!(releases.request("PATCH", &lock, r#"{"lifetime":600}"#).status, 200);
    assert_eq!(releases.request("DELETE", &lock, "").status, 204);
    let granted = |client: &mut Client| client.try_response().is_ok_and(|it| it.status == 201);
    assert!(waiting.iter_mut().any(granted));
}

#[test]
fn a_standby_that_redirects_says_where_the_active_server_is() {
    let etcd = etcd_or_skip!(1);
    let (active, _standby) = two(&etcd);
    let other = join_by(&etcd.endpoints(), &["--standby", "redirect"]);
    wait_until("it knows", || health(&other)["active"] == url(&active).as_str());
    for target in ["/locks/a?b=c", "http://localhost/locks/a?b=c"] {
        let response = other.request("POST", target, &lock_body(0, 600));
        assert_eq!(response.status, 307);
        assert_eq!(response.header("Location"), Some(&*format!("{}/locks/a?b=c", url(&active))));
    }
}

#[test]
fn nobody_forges_the_address_of_a_client_or_has_a_standby_ask_a_standby() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let forged = "Host: localhost\r\nRDLM-Forwarded: secret 192.0.2.1";
    let mut client = active.connect();
    client.send_with_headers("POST", "/locks/a", forged, &lock_body(0, 600));
    client.response().detail(503);
    assert!(active.locks("a").is_empty());
    let mut client = standby.connect();
    client.send_with_headers("GET", "/resources", forged, "");
    client.response().detail(503);
}

#[test]
fn a_browser_at_a_standby_is_asked_for_its_site_there() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let own = format!("Host: 127.0.0.1:{0}\r\nOrigin: http://127.0.0.1:{0}", standby.port());
    let other = "Host: 127.0.0.1\r\nOrigin: http://evil.example";
    let mut client = standby.connect();
    client.send_with_headers("POST", "/locks/a", &own, &lock_body(0, 600));
    assert_eq!(client.response().status, 201);
    client.send_with_headers("DELETE", "/resources/a", other, "");
    client.response().detail(403);
    assert_eq!(active.locks("a").len(), 1);
}

#[test]
fn lists_and_events_pass_through_as_they_come() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let mut events = standby.connect();
    events.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let read = |events: &mut crate::harness::Client, text: &str| {
        let mut seen = String::new();
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            let read = std::io::Read::read(&mut events.stream(), &mut buffer).unwrap();
            assert_ne!(read, 0, "the stream ended: {seen}");
            seen += std::str::from_utf8(&buffer[..read]).unwrap();
        }
    };
    read(&mut events, "text/event-stream");
    active.hold("a");
    read(&mut events, "event: granted");
    for n in 0..300 {
        active.hold(&format!("r{n}"));
    }
    let mut list = standby.connect();
    list.send("GET /resources HTTP/1.0\r\n\r\n");
    assert!(list.rest().contains("\"r299\""));
    // The stream does not go on by itself from another server.
    active.signal("-KILL");
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut events.stream(), &mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn requests_are_held_until_somebody_is_active() {
    let etcd = etcd_or_skip!(1);
    etcd.signal_all("-STOP");
    let server = super::join(&etcd);
    let mut client = server.connect();
    client.send_acquire("a", 0.0, 600.0);
    client.stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = std::io::Read::read(&mut client.stream(), &mut [0]);
    assert!(early.is_err(), "it was answered while nobody was active");
    client.stream().set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    etcd.signal_all("-CONT");
    assert_eq!(client.response().status, 201);
}
