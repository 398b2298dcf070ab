//! Settings of the server: names that are not known, and `--check`.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::daemon::{complaint, rdlm};

fn serve_with(variable: &str, value: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.arg("serve").args(args).env(variable, value).output().unwrap()
}

#[test]
fn a_variable_of_no_option_is_refused_with_the_nearest_name() {
    for (variable, expected) in [
        ("RDLM_SERVE_MAX_WIAT", "did you mean RDLM_SERVE_MAX_WAIT?"),
        ("RDLM_SERVE_USRES", "did you mean RDLM_SERVE_USERS?"),
        ("RDLM_SERVE_XYLOPHONE", "RDLM_SERVE_XYLOPHONE sets no option of serve"),
        ("RDLM_SERVE_CHECK", "RDLM_SERVE_CHECK sets no option of serve"),
    ] {
        let line = complaint(&serve_with(variable, "60", &[]), 2);
        assert!(line.contains(expected), "{line}");
    }
    let link = serve_with("RDLM_SERVE_PORT", "tcp://10.0.0.1:8888", &[]);
    assert!(complaint(&link, 2).contains("enableServiceLinks: false"));
    // What Kubernetes sets for Services called rdlm-serve and rdlm-serve-ha.
    for (variable, value) in [
        ("RDLM_SERVE_SERVICE_HOST", "10.0.0.1"),
        ("RDLM_SERVE_SERVICE_PORT", "8888"),
        ("RDLM_SERVE_SERVICE_PORT_HTTP", "8888"),
        ("RDLM_SERVE_PORT_8888_TCP", "tcp://10.0.0.1:8888"),
        ("RDLM_SERVE_PORT_8888_TCP_PROTO", "tcp"),
        ("RDLM_SERVE_PORT_8888_TCP_PORT", "8888"),
        ("RDLM_SERVE_PORT_53_UDP_ADDR", "10.0.0.1"),
        ("RDLM_SERVE_HA_PORT", "tcp://10.0.0.1:8888"),
    ] {
        let output = serve_with(variable, value, &["--check"]);
        assert!(output.status.success(), "{variable}: {output:?}");
    }
}

#[test]
fn a_mistyped_name_is_answered_with_the_nearest() {
    for (args, code, expected) in [
        (&["serve", "--prot", "80"][..], 2, "did you mean --port?"),
        (&["serve", "--prot=80"], 2, "did you mean --port?"),
        (&["run", "--wiat", "5", "demo", "--", "true"], 64, "did you mean --wait?"),
        (&["locks", "demo", "--jsno"], 64, "did you mean --json?"),
        (&["sevre"], 2, "did you mean serve?"),
    ] {
        let line = complaint(&rdlm(args), code);
        assert!(line.contains(expected), "{args:?}: {line}");
    }
    let far = complaint(&rdlm(&["serve", "--xylophone"]), 2);
    assert!(far.contains("not an option of serve; see"), "{far}");
}

#[test]
fn check_prints_what_would_hold_and_opens_nothing() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let users = dir.path().join("users.toml");
    let options = ["--check", "--bind", "127.0.0.1", "--users", users.to_str().unwrap()];
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        command.arg("serve").args(options).env("RDLM_SERVE_PORT", &port);
        command.env("RDLM_SERVE_DATA_DIR", &data).output().unwrap()
    };
    assert!(complaint(&check(), 2).contains("--users"));
    fs::write(&users, "[users.alice]\nnonsense = 1\n").unwrap();
    assert!(complaint(&check(), 2).contains("users.toml"));
    fs::write(&users, "[anonymous]\nmay = [\"see *\"]\n").unwrap();
    let output = check();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{printed}");
    let line = |option: &str| printed.lines().find(|line| line.starts_with(option)).unwrap();
    assert!(line("--port ").ends_with(&format!(" {port} (RDLM_SERVE_PORT)")), "{printed}");
    assert!(line("--bind ").ends_with(" 127.0.0.1 (--bind)"), "{printed}");
    assert!(line("--max-waiters ").ends_with(" 10000 (default)"), "{printed}");
    assert!(!data.exists());
    let etcd = ["--check", "--etcd", "https://127.0.0.1:1", "--etcd-ca", "/missing.pem"];
    assert!(complaint(&serve_with("RDLM_SERVE_PORT", "0", &etcd), 2).contains("/missing.pem"));
    let etcd = serve_with("RDLM_SERVE_PORT", "0", &etcd[..3]);
    assert!(etcd.status.success(), "{etcd:?}");
    let log = dir.path().join("missing/events.json");
    let event_log = serve_with("RDLM_SERVE_EVENT_LOG", log.to_str().unwrap(), &["--check"]);
    assert!(complaint(&event_log, 2).contains("--event-log"));
    fs::write(&data, "a file").unwrap();
    assert!(complaint(&check(), 2).contains("--data-dir"));
}
