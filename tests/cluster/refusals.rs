//! What a standby says where it cannot have a request answered, and that it is counted.

use std::time::{Duration, Instant};

use super::{etcd_or_skip, free_port, health, join, join_by, join_on, metric, url};
use crate::harness::{Server, lock_body, wait_until};

/// How long requests are held with the `--failover-after` of the tests.
const HOLD: Duration = Duration::from_secs(6);

#[test]
fn a_server_says_at_once_that_the_active_one_has_its_url() {
    let etcd = etcd_or_skip!(1);
    let active = join(&etcd);
    wait_until("it is active", || health(&active)["role"] == "active");
    let own_url = ["--advertise-url", &url(&active)];
    let mut other = join_by(&etcd.endpoints(), &own_url);
    other.read_log_to(&format!(
        "another server is active that has the URL of this one, {}",
        own_url[1]
    ));
    let began = Instant::now();
    let refused = other.acquire("a", 0.0, 600.0);
    assert!(refused.detail(503).contains(own_url[1]), "{}", refused.text());
    assert!(began.elapsed() < HOLD, "it was held");
    assert_eq!(refused.json()["reason"], "not_active");
    assert!(active.locks("a").is_empty());
    // An earlier process of its own is none.
    active.signal("-KILL");
    wait_until("it takes over", || health(&other)["role"] == "active");
    other.acquire("a", 0.0, 600.0).lock_path();
}

#[test]
fn a_standby_names_the_server_that_is_not_the_active_one() {
    let etcd = etcd_or_skip!(1);
    let port = free_port();
    let named = format!("http://127.0.0.1:{port}");
    let active = join_by(&etcd.endpoints(), &["--advertise-url", &named]);
    wait_until("it is active", || health(&active)["role"] == "active");
    let mut named_server = join_on(port, &etcd.endpoints(), &[]);
    let mut third = join(&etcd);
    wait_until("it knows", || health(&third)["active"] == named.as_str());
    let refused = third.acquire("a", 0.0, 600.0);
    assert!(refused.detail(503).contains(&named), "{}", refused.text());
    third.read_log_to(&format!("cannot pass requests on to {named}: it is not the active server"));
    named_server.read_log_to("another server is active that has the URL of this one");
    assert!(active.locks("a").is_empty());
}

#[test]
fn what_a_standby_refuses_is_counted() {
    let etcd = etcd_or_skip!(1);
    etcd.signal_all("-STOP");
    let server = join_by(&etcd.endpoints(), &["--fleetlock", "1"]);
    let node = r#"{"client_params":{"id":"n","group":"g"}}"#;
    let lock = "/locks/a/aa4e181e17374148a21b30d9dcb941f9";
    let ask = |method: &str, path: &str, body: &str| {
        let mut client = server.connect();
        let headers = "Host: localhost\r\nfleet-lock-protocol: true";
        client.send_with_headers(method, path, headers, body);
        client
    };
    let held = [
        ask("POST", "/locks/a", &lock_body(0, 600)),
        ask("LOCK", "/locks/state", r#"{"ID":"i"}"#),
        ask("PATCH", lock, r#"{"lifetime":5}"#),
        ask("PATCH", lock, r#"{"mode":"PR"}"#),
        // What is counted nowhere.
        ask("DELETE", lock, ""),
        ask("GET", "/resources", ""),
    ];
    let mut reboot = ask("POST", "/v1/pre-reboot", node);
    let mut leaves = ask("POST", "/locks/a", &lock_body(0, 600));
    leaves.half_close();
    leaves.response().detail(408);
    for mut client in held {
        let refused = client.response();
        assert_eq!(refused.json()["reason"], "not_active");
        assert_eq!(refused.header("Cache-Control"), Some("no-store"));
    }
    // In its door's form.
    let refused = reboot.response();
    assert_eq!((refused.status, &refused.json()["kind"]), (503, &"unavailable".into()));
    let count = |server: &Server, series: &str| metric(server, &format!("{series} "));
    for (series, refused) in [
        ("rdlm_acquisitions_total{outcome=\"not_active\"}", 3.0),
        ("rdlm_acquisitions_total{outcome=\"departed\"}", 1.0),
        ("rdlm_failed_renewals_total{reason=\"not_active\"}", 1.0),
        ("rdlm_conversions_total{outcome=\"not_active\"}", 1.0),
    ] {
        assert_eq!(count(&server, series), refused, "{series}");
    }
    etcd.signal_all("-CONT");
}
