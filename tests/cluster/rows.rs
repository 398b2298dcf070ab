//! What no server has written is found in etcd.

use super::etcd_or_skip;
use super::{acquire_patiently, health, join, metric, tokens, two};
use crate::harness::{Server, wait_until};

const REFUSED: &str = r#"rdlm_etcd_refused{kind="unreadable"} "#;

fn wait_until_refusing(server: &Server) {
    wait_until("it refuses", || metric(server, REFUSED) == 1.0);
    assert!(server.get("/health").detail(503).contains("the log names its key"));
    server.acquire("held", 0.0, 600.0).detail(503);
    assert_eq!(server.get("/").status, 200, "it runs on");
}

/// A row that was written, with something else in one place.
fn changed(row: &str, from: &str, to: &str) -> String {
    assert_eq!(row.matches(from).count(), 1, "{from} in {row}");
    row.replace(from, to)
}

#[test]
fn a_bad_place_in_line_is_passed_over_and_counted() {
    let etcd = etcd_or_skip!(1);
    let (mut active, standby) = two(&etcd);
    active.hold("held");
    let _waits = active.join_line_with_key("held", "a-key");
    let rows = || etcd.ctl(&["get", "--prefix", "/rdlm/wait/held/"]).unwrap();
    wait_until("the place is written", || rows().lines().count() == 2);
    let row = rows().lines().nth(1).unwrap().to_string();
    let arrival = serde_json::from_str::<serde_json::Value>(&row).unwrap()["arrival"].to_string();
    let huge = u64::MAX.to_string();
    for (key, value) in [
        ("held/zzz", "hello".to_string()),
        ("held/0000000000000001", "{}".into()),
        // At another's key.
        ("held/0000000000000002", row.clone()),
        // Of a number from which none can be counted on.
        ("held/ffffffffffffffff", changed(&row, &arrival, &huge)),
        // The same request once more.
        ("held/00000000000000ff", changed(&row, &arrival, "255")),
    ] {
        etcd.ctl(&["put", &format!("/rdlm/wait/{key}"), &value]).unwrap();
    }
    let before = tokens(&active, "held");
    active.signal("-KILL");
    active.wait();
    wait_until("the other is active", || health(&standby)["role"] == "active");
    assert_eq!(metric(&standby, r#"rdlm_etcd_bad_rows_total{kind="place"} "#), 5.0);
    assert_eq!(metric(&standby, REFUSED), 0.0);
    assert_eq!(tokens(&standby, "held"), before);
    standby.hold("new");
    assert!(tokens(&standby, "new") > before);
    let log = standby.into_log();
    assert!(log.contains("/rdlm/wait/held/0000000000000001"), "{log}");
}

#[test]
fn a_bad_lock_is_refused_by_its_key_and_ends_no_server() {
    let etcd = etcd_or_skip!(1);
    let (mut active, standby) = two(&etcd);
    active.hold("held");
    let row = etcd.ctl(&["get", "--prefix", "--print-value-only", "/rdlm/lock/held/"]).unwrap();
    let row = row.trim();
    let token = tokens(&active, "held")[0].to_string();
    let bad = [
        ("other/0000000000000007", "hello".to_string()),
        // At another's key, where no release would delete it.
        ("held/0000000000000007", row.into()),
        ("held/ffffffffffffffff", changed(row, &token, &u64::MAX.to_string())),
        // Both cannot be held.
        ("held/0000000000000007", changed(row, &token, "7")),
    ];
    let put = |(key, value): &(&str, String)| {
        etcd.ctl(&["put", &format!("/rdlm/lock/{key}"), value]).unwrap();
    };
    let delete = |key: &str| etcd.ctl(&["del", &format!("/rdlm/lock/{key}")]).unwrap();
    put(&bad[0]);
    active.signal("-KILL");
    active.wait();
    wait_until_refusing(&standby);
    assert!(metric(&standby, r#"rdlm_etcd_bad_rows_total{kind="lock"} "#) >= 1.0);
    // One that is started does not end either.
    let other = join(&etcd);
    wait_until_refusing(&other);
    for pair in bad.windows(2) {
        put(&pair[1]);
        delete(pair[0].0);
        wait_until_refusing(&standby);
    }
    delete(bad[3].0);
    wait_until("one is active", || {
        [&standby, &other].iter().any(|server| metric(server, "rdlm_active ") == 1.0)
    });
    assert_eq!(acquire_patiently(&standby, "held").status, 408);
    let log = standby.into_log();
    assert!(log.contains("/rdlm/lock/other/0000000000000007"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn what_is_not_ours_in_the_place_of_head_or_tenure_ends_no_server_that_runs() {
    for key in ["/rdlm/tenure", "/rdlm/head"] {
        let etcd = etcd_or_skip!(1);
        let (active, standby) = two(&etcd);
        active.hold("held");
        etcd.ctl(&["put", key, "hello"]).unwrap();
        wait_until_refusing(&standby);
        if key == "/rdlm/head" {
            wait_until_refusing(&active);
        } else {
            assert_eq!(acquire_patiently(&active, "held").status, 408);
        }
        let log = standby.into_log();
        assert_eq!(log.matches(&format!("{key} does not belong to rdlm")).count(), 1, "{log}");
    }
}
