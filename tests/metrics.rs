//! What monitoring sees: /health and /metrics.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{etcd_or_skip, join};
use crate::harness::{Response, Server, wait_until};
use crate::needed;

/// The value of a series, as it stands in the text.
fn value(server: &Server, series: &str) -> f64 {
    let response = server.get("/metrics");
    let mut lines = response.text().lines();
    let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {}", response.text())).parse().unwrap()
}

#[test]
fn health_is_ok_as_long_as_the_server_serves() {
    let server = Server::start();
    let response = server.get("/health");
    assert_eq!((response.status, response.text()), (200, "{\"status\":\"ok\"}\n"));
    assert_eq!(response.header("Content-Type"), Some("application/json"));
}

#[test]
fn locks_are_counted_by_their_outcome() {
    let server = Server::start();
    let held = server.hold("a");
    server.acquire("a", 0.0, 60.0).detail(408);
    let mut waiter = server.join_line("a");
    assert_eq!(value(&server, "rdlm_locks{state=\"active\"}"), 1.0);
    assert_eq!(value(&server, "rdlm_locks{state=\"waiting\"}"), 1.0);
    assert_eq!(value(&server, "rdlm_resources"), 1.0);
    assert!(value(&server, "rdlm_connections") >= 2.0);
    assert!(value(&server, "rdlm_max_connections") > 2.0);
    assert_eq!(value(&server, "rdlm_writable"), 1.0);
    assert_eq!(server.request("PATCH", &held, r#"{"lifetime":600}"#).status, 200);
    assert_eq!(server.delete(&held).status, 204);
    waiter.response().lock_path();
    assert_eq!(server.delete("/resources/a").status, 204);
    server.acquire("b", 0.0, 0.001).lock_path();
    wait_until("it expires", || value(&server, "rdlm_expiries_total") == 1.0);

    for (series, count) in [
        ("rdlm_acquisitions_total{outcome=\"granted\"}", 3.0),
        ("rdlm_acquisitions_total{outcome=\"timed_out\"}", 1.0),
        ("rdlm_renewals_total", 1.0),
        ("rdlm_releases_total", 1.0),
        ("rdlm_admin_deletions_total", 1.0),
        ("rdlm_abandoned_grants_total", 0.0),
        ("rdlm_hold_seconds_count", 3.0),
        ("rdlm_wait_seconds_count", 3.0),
        ("rdlm_request_seconds_count{kind=\"acquire\"}", 4.0),
        ("rdlm_request_seconds_count{kind=\"release\"}", 1.0),
        ("rdlm_locks{state=\"active\"}", 0.0),
        ("rdlm_locks{state=\"waiting\"}", 0.0),
        ("rdlm_resources", 0.0),
    ] {
        assert_eq!(value(&server, series), count, "{series}");
    }
    assert!(value(&server, "process_start_time_seconds") > 1.7e9);
    let version = concat!("rdlm_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    assert_eq!(value(&server, version), 1.0);
}

/// The metrics for a client that sends this Accept header.
fn metrics_for(server: &Server, accept: &str) -> Response {
    let mut client = server.connect();
    client.send_with_headers("GET", "/metrics", &format!("Host: h\r\nAccept: {accept}"), "");
    client.response()
}

#[test]
fn no_name_of_a_resource_is_in_the_metrics() {
    let server = Server::start();
    server.hold("a-secret-name");
    for accept in ["*/*", "application/openmetrics-text"] {
        assert!(!metrics_for(&server, accept).text().contains("a-secret-name"));
    }
}

#[test]
fn clients_get_the_older_text_format_unless_they_ask_for_openmetrics() {
    let server = Server::start();
    let of_prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                         text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for accept in ["application/openmetrics-text", of_prometheus] {
        let response = metrics_for(&server, accept);
        let media_type = response.header("Content-Type").unwrap();
        assert!(media_type.starts_with("application/openmetrics-text; version=1.0.0"), "{accept}");
        assert!(response.text().contains("\n# TYPE rdlm_renewals counter\n"));
        assert!(response.text().ends_with("# EOF\n"));
    }
    for response in [server.get("/metrics"), metrics_for(&server, "text/plain"), {
        metrics_for(&server, "text/plain;version=0.0.4, application/openmetrics-text;q=0.1")
    }] {
        let media_type = response.header("Content-Type").unwrap();
        assert_eq!(media_type, "text/plain; version=0.0.4; charset=utf-8");
        assert_eq!(response.header("Vary"), Some("Accept"));
        let text = response.text();
        for line in ["# TYPE rdlm_renewals_total counter", "# TYPE rdlm_build_info gauge"] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        assert!(text.contains("\n# HELP rdlm_renewals_total "), "{text}");
        for unknown in ["# EOF", "# UNIT", " info\n"] {
            assert!(!text.contains(unknown), "{unknown}");
        }
    }
}

/// Asks the tool that comes with Prometheus.
#[test]
fn promtool_finds_nothing_wrong() {
    if !needed::are_installed(&["promtool"]) {
        return;
    }
    let server = Server::start();
    server.hold("a");
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut promtool = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = server.get("/metrics");
    promtool.stdin.take().unwrap().write_all(metrics.text().as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let found = [checked.stdout, checked.stderr].concat();
    assert_eq!((checked.status.code(), String::from_utf8(found).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn the_longest_wait_and_the_longest_hold_are_shown() {
    let server = Server::start();
    assert_eq!(value(&server, "rdlm_longest_wait_seconds"), 0.0);
    assert_eq!(value(&server, "rdlm_longest_hold_seconds"), 0.0);
    let held = server.hold("a");
    wait_until("it is held", || value(&server, "rdlm_longest_hold_seconds") > 0.05);
    // More resources than are looked at together.
    let mut client = server.connect();
    for n in 0..300 {
        client.acquire(&format!("b{n}"), 0.0, 600.0).lock_path();
    }
    let waiter = server.join_line("a");
    wait_until("it waits", || value(&server, "rdlm_longest_wait_seconds") > 0.05);
    drop(waiter);
    wait_until("nobody waits", || value(&server, "rdlm_longest_wait_seconds") == 0.0);
    let before = value(&server, "rdlm_longest_hold_seconds");
    server.delete(&held);
    let after = value(&server, "rdlm_longest_hold_seconds");
    assert!(0.0 < after && after < before, "{after}, {before}");
}

#[test]
fn failed_renewals_are_counted_by_reason() {
    let server = Server::start();
    let held = server.hold("a");
    let waiter = server.join_line("a");
    let waiting = server.locks("a")[1]["_links"]["self"]["href"].as_str().unwrap().to_string();
    let renew = |path: &str| server.request("PATCH", path, r#"{"lifetime":600}"#).status;
    assert_eq!(renew(&held), 200);
    assert_eq!(renew(&waiting), 409);
    server.delete(&held);
    assert_eq!((renew(&held), renew(&held)), (404, 404));
    drop(waiter);
    for (reason, count) in [("no_such_lock", 2.0), ("still_waiting", 1.0), ("not_written", 0.0)] {
        let series = format!("rdlm_failed_renewals_total{{reason=\"{reason}\"}}");
        assert_eq!(value(&server, &series), count, "{reason}");
    }
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks Prometheus itself.
#[test]
fn prometheus_scrapes_it_and_takes_the_alert_rules() {
    if !needed::are_installed(&["prometheus", "promtool", "curl"]) {
        return;
    }
    let server = Server::start();
    server.hold("a");
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("prometheus.yml");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus-rules.yml");
    let checked = Command::new("promtool").args(["check", "rules", rules]).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus-rules.test.yml");
    let tested = Command::new("promtool").args(["test", "rules", test]).output().unwrap();
    assert!(tested.status.success(), "{tested:?}");
    let port = server.port();
    let text = format!(
        "global: {{scrape_interval: 1s}}\nrule_files: [{rules}]\nscrape_configs:\n\
         - job_name: rdlm\n  static_configs: [{{targets: [\"127.0.0.1:{port}\"]}}]\n"
    );
    fs::write(&config, text).unwrap();
    // A port that was free a moment ago: it takes no 0.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _prometheus = Running(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()))
            .arg(format!("--web.listen-address={free}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait_until("the lock is seen", || {
        let query = format!("http://{free}/api/v1/query?query=rdlm_locks");
        let answer = Command::new("curl").args(["-sg", &query]).output().unwrap().stdout;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        results
            .iter()
            .any(|result| result["metric"]["state"] == "active" && result["value"][1] == "1")
    });
}

/// Every series that the dashboard and the alerts name is there.
#[test]
fn the_dashboard_and_the_alerts_name_series_that_exist() {
    let etcd = etcd_or_skip!(1);
    let server = join(&etcd);
    wait_until("it is active", || server.acquire("a", 0.0, 600.0).status == 201);
    let metrics = server.get("/metrics").text().to_string();
    for file in ["packaging/grafana-dashboard.json", "packaging/prometheus-rules.yml"] {
        let text = fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = text.split(|c| !is_part(c));
        let series = |name: &&str| {
            name.starts_with("process_") || (name.starts_with("rdlm_") && name.len() > 5)
        };
        for name in names.filter(series) {
            let there = metrics.lines().any(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(there, "{file} names {name}");
        }
    }
}
