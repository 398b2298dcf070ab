//! Servers that speak TLS with each other.

use std::fs;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;

use super::etcd::Etcd;
use super::start::refusal;
use super::{FAILOVER, etcd_or_skip, join_by};
use crate::authority::{Authority, Issued, text};
use crate::harness::{Server, lock_body, wait_until};
use crate::wire;

/// A server with this certificate, whose fellows have some of the same authority.
fn join(etcd: &Etcd, authority: &Authority, issued: &Issued, options: &[&str]) -> Server {
    let ca = authority.certificate();
    let tls = [&authority.options(issued)[..], &["--advertise-ca", text(&ca)]].concat();
    join_by(&etcd.endpoints(), &[&tls, options].concat())
}

fn health(authority: &Authority, server: &Server) -> Value {
    authority.connect(server, None).request("GET", "/health", "").json()
}

fn url(server: &Server) -> String {
    format!("https://127.0.0.1:{}", server.port())
}

/// The first is active, the second knows it.
fn two(etcd: &Etcd, authority: &Authority) -> (Server, Server) {
    let active = join(etcd, authority, &authority.server("one"), &[]);
    wait_until("one is active", || health(authority, &active)["role"] == "active");
    let standby = join(etcd, authority, &authority.server("two"), &[]);
    let knows = || health(authority, &standby)["active"] == url(&active).as_str();
    wait_until("the other knows it", knows);
    (active, standby)
}

fn waiting(authority: &Authority, server: &Server) -> usize {
    metric(authority, server, "rdlm_locks{state=\"waiting\"} ")
}

fn abandoned(authority: &Authority, server: &Server) -> usize {
    metric(authority, server, "rdlm_abandoned_grants_total ")
}

fn metric(authority: &Authority, server: &Server, series: &str) -> usize {
    let mut client = authority.connect(server, None);
    let response = client.request("GET", "/metrics", "");
    let line = response.text().lines().find_map(|line| line.strip_prefix(series));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_standby_passes_requests_on_by_tls() {
    let etcd = etcd_or_skip!(1);
    let authority = Authority::new();
    let (mut active, standby) = two(&etcd, &authority);
    let mut client = authority.connect(&standby, None);
    let granted = client.acquire("a", 0.0, 600.0);
    assert_eq!(granted.status, 201);
    let lock = granted.header("Location").unwrap().strip_prefix("https://localhost").unwrap();
    // The same connections go on.
    for _ in 0..3 {
        assert_eq!(client.request("GET", lock, "").status, 200);
        assert_eq!(client.request("POST", "/locks/a", &lock_body(0, 600)).status, 408);
        assert_eq!(client.request("GET", "/nothing", "").status, 404);
    }
    // Who leaves the standby leaves the line, and who stays is granted the lock.
    let mut stays = authority.connect(&standby, None);
    stays.send_acquire_with_key("a", "k");
    wait_until("it waits", || waiting(&authority, &active) == 1);
    let mut leaves = authority.connect(&standby, None);
    leaves.send_acquire("a", 600.0, 600.0);
    wait_until("both wait", || waiting(&authority, &active) == 2);
    leaves.stream().sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(leaves.response().status, 408);
    assert_eq!(waiting(&authority, &active), 1);
    // So does who resets before the response comes, and keeps nothing.
    let mut leaves = authority.connect(&standby, None);
    assert_eq!(leaves.request("GET", "/health", "").status, 200);
    standby.signal("-STOP");
    leaves.send_acquire("b", 0.0, 600.0);
    SockRef::from(&leaves.stream().sock).set_linger(Some(Duration::ZERO)).unwrap();
    drop(leaves);
    standby.signal("-CONT");
    wait_until("it is given back", || abandoned(&authority, &active) == 1);
    assert_eq!(client.acquire("b", 0.0, 600.0).status, 201);
    assert_eq!(client.request("DELETE", lock, "").status, 204);
    assert_eq!(stays.response().status, 201);
    // The connection that is kept ends with the active server, and what is asked next is held.
    active.signal("-KILL");
    active.wait();
    assert_eq!(client.request("POST", "/locks/a", &lock_body(0, 600)).status, 408);
}

#[test]
fn a_server_whose_certificate_is_not_known_is_told_nothing() {
    let etcd = etcd_or_skip!(1);
    let (authority, other) = (Authority::new(), Authority::new());
    let active = join(&etcd, &authority, &authority.server("one"), &[]);
    wait_until("one is active", || health(&authority, &active)["role"] == "active");
    let ca = other.certificate();
    let standby = join_by(&etcd.endpoints(), &["--advertise-ca", text(&ca)]);
    wait_until("the other knows it", || super::health(&standby)["active"] == url(&active).as_str());
    let began = Instant::now();
    let answer = standby.acquire("a", 0.0, 600.0).detail(503);
    assert!(answer.contains("cannot be reached"), "{answer}");
    assert!(began.elapsed() >= FAILOVER, "another one may come to be active");
    assert_eq!(waiting(&authority, &active), 0);
    let log = standby.into_log();
    let said = log.matches("cannot pass requests on to https://127.0.0.1:");
    assert_eq!(said.count(), 1, "{log}");
    assert!(log.contains("invalid peer certificate"), "{log}");
}

#[test]
fn certificates_that_the_others_would_not_know_are_refused_at_the_start() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.server("server");
    let [ca, other_ca] = [authority.certificate(), other.certificate()];
    let [ca, other_ca] = [text(&ca), text(&other_ca)];
    let etcd = ["--bind", "127.0.0.1", "--etcd", "http://127.0.0.1:1"];
    let tls = [&etcd[..], &authority.options(&issued)].concat();
    for (options, said) in [
        (&["--advertise-ca", "/nowhere"][..], "--advertise-ca: cannot read /nowhere"),
        (&["--advertise-ca", text(&issued.key)], "has no certificate"),
        (&[], "UnknownIssuer"),
        (&["--advertise-ca", other_ca], "invalid peer certificate"),
        (&["--advertise-ca", ca, "--advertise-url", "https://a.example"], "not valid for"),
        (&["--advertise-ca", ca, "--tls-client-ca", other_ca], "--standby redirect does without"),
    ] {
        let (error, code) = refusal(&[&tls, options].concat());
        assert!(error.contains(said) && error.lines().count() == 1, "{options:?}: {error}");
        assert_eq!(code, 1, "{options:?}");
    }
}

#[test]
fn new_certificates_are_taken_without_a_restart() {
    let etcd = etcd_or_skip!(1);
    let (authority, next) = (Authority::new(), Authority::new());
    let (active, standby) = two(&etcd, &authority);
    let move_to = |file: &str| fs::copy(next.path().join(file), authority.path().join(file));
    for name in ["one", "two"] {
        next.server(name);
        move_to(&format!("{name}.pem")).unwrap();
        move_to(&format!("{name}.key")).unwrap();
    }
    move_to("ca.pem").unwrap();
    [&active, &standby].iter().for_each(|server| server.signal("-HUP"));
    // Both have taken them when a client gets through that knows the new ones alone.
    wait_until("it is passed on", || {
        let mut client = next.connect(&standby, None);
        let path = "/locks/a/aa4e181e17374148a21b30d9dcb941f9";
        let request = wire::request("GET", path, "Host: localhost", "");
        !client.stream().conn.is_handshaking()
            && client.try_send(request.as_bytes()).is_ok()
            && client.try_response().is_ok_and(|response| response.status == 404)
    });
}
