//! Options, and what is found in etcd at the start.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::etcd::Etcd;
use super::etcd_or_skip;
use super::{health, join, join_by};
use crate::harness::wait_until;
use crate::needed;

const TLS: [&str; 4] = ["--tls-cert", "c", "--tls-key", "k"];

/// What the server says when it does not start, and its exit code.
pub(super) fn refusal(options: &[&str]) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_rdlm"))
        .args(["serve", "--port", "0", "--logging", "none"])
        .args(options)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    (String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
}

#[test]
fn wrong_options_are_refused_in_one_line() {
    let etcd = ["--etcd", "http://127.0.0.1:1"];
    for (options, text) in [
        (&["--etcd", "127.0.0.1:2379"][..], "expected URLs such as"),
        (&["--etcd", "http://h:1/path"], "expected URLs such as"),
        (&["--etcd", "http://h:1,,"], "expected URLs such as"),
        (&[&etcd[..], &["--data-dir", "/nowhere"]].concat(), "not in both"),
        (&[&etcd[..], &["--failover-after", "0.5"]].concat(), "from 1 to 60"),
        (&[&etcd[..], &["--failover-after", "61"]].concat(), "from 1 to 60"),
        (&[&etcd[..], &["--standby", "sleep"]].concat(), "forward or redirect"),
        (&[&etcd[..], &["--etcd-prefix", "rdlm"]].concat(), "end in /"),
        (&[&etcd[..], &["--advertise-url", "h:1"]].concat(), "a URL such as"),
        (&["--advertise-ca", "c"], "goes with --etcd"),
        (&[&etcd[..], &TLS, &["--advertise-url", "http://h:1"]].concat(), "begins with https://"),
        (&[&etcd[..], &["--etcd-cert", "c"]].concat(), "go together"),
        (&[&etcd[..], &["--etcd-user", "u"]].concat(), "go together"),
        (&["--failover-after", "5"], "goes with --etcd"),
        (&["--etcd-accept-restored", "5"], "goes with --etcd"),
        (&[&etcd[..], &["--etcd-accept-restored", "-1"]].concat(), "the number of a head"),
    ] {
        let (error, code) = refusal(options);
        assert!(error.contains(text) && error.lines().count() == 1, "{options:?}: {error}");
        assert_eq!(code, 2, "{options:?}");
    }
    let (error, code) = refusal(&[&etcd[..], &["--etcd-ca", "/nowhere"]].concat());
    assert!(error.contains("--etcd-ca /nowhere: ") && error.lines().count() == 1, "{error}");
    assert_eq!(code, 1);
}

#[test]
fn what_is_not_ours_in_etcd_is_left_alone() {
    let etcd = etcd_or_skip!(1);
    for (key, value, text) in [
        ("/other/x", "1", "/other/x does not belong to rdlm"),
        ("/text/head", "hello", "/text/head does not belong to rdlm"),
        ("/new/head", r#"{"format":3}"#, "has format 3, written by a newer rdlm"),
        ("/none/head", r#"{"format":0}"#, "/none/head does not belong to rdlm"),
    ] {
        etcd.ctl(&["put", key, value]).unwrap();
        let prefix = &key[..=key.rfind('/').unwrap()];
        let endpoints = etcd.endpoints();
        let (error, code) = refusal(&["--etcd", &endpoints, "--etcd-prefix", prefix]);
        assert!(error.contains(text) && error.lines().count() == 1, "{error}");
        assert_eq!(code, 1);
        assert_eq!(etcd.ctl(&["get", "--print-value-only", key]).unwrap().trim(), value);
    }
}

#[test]
fn an_etcd_that_is_away_is_waited_for_and_the_log_says_so_once() {
    let etcd = etcd_or_skip!(1);
    etcd.signal_all("-STOP");
    let server = join(&etcd);
    assert_eq!(health(&server)["role"], "standby");
    wait_until("it has tried twice", || {
        let metrics = server.get("/metrics");
        let count = r#"rdlm_etcd_errors_total{kind="timeout"} "#;
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(count));
        line.unwrap().parse::<u64>().unwrap() >= 2
    });
    etcd.signal_all("-CONT");
    wait_until("it is active", || health(&server)["role"] == "active");
    let log = server.into_log();
    assert_eq!(log.matches("waiting for etcd").count(), 1, "{log}");
    assert_eq!(log.matches("etcd answers again").count(), 1, "{log}");
}

/// Makes an authority, and a certificate of it for 127.0.0.1; `None` where there is no openssl.
fn certificates(dir: &Path) {
    let script = r#"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout key.pem -out csr.pem
        printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth' > ext
        openssl x509 -req -days 2 -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial \
            -extfile ext -out cert.pem"#;
    let made = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn etcd_may_speak_tls_and_ask_for_a_certificate() {
    let dir = TempDir::new().unwrap();
    if !needed::are_installed(&["openssl"]) {
        return;
    }
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let tls =
        ["--cert-file", &cert, "--key-file", &key, "--client-cert-auth", "--trusted-ca-file", &ca];
    let Some(etcd) = Etcd::start_with_tls(&tls) else { return };
    let endpoints = etcd.endpoints().replace("http://", "https://");
    let server = join_by(&endpoints, &["--etcd-ca", &ca, "--etcd-cert", &cert, "--etcd-key", &key]);
    wait_until("it is active", || health(&server)["role"] == "active");
    assert_eq!(server.acquire("a", 0.0, 600.0).status, 201);
    // Without a certificate, or one that is known, there is no connection.
    for options in [&["--etcd-ca", &*ca][..], &["--etcd-cert", &cert, "--etcd-key", &key]] {
        let stranger = join_by(&endpoints, options);
        wait_until("it has tried", || {
            let metrics = stranger.get("/metrics");
            let count = r#"rdlm_etcd_errors_total{kind="connection"} "#;
            let line = metrics.text().lines().find_map(|line| line.strip_prefix(count));
            line.is_some_and(|count| count.parse::<u64>().unwrap() > 0)
        });
        assert_eq!(health(&stranger)["role"], "standby");
    }
}

#[test]
fn two_prefixes_are_two_services() {
    let etcd = etcd_or_skip!(1);
    let servers =
        ["/a/", "/b/"].map(|prefix| join_by(&etcd.endpoints(), &["--etcd-prefix", prefix]));
    for server in &servers {
        wait_until("it is active", || health(server)["role"] == "active");
        assert_eq!(server.acquire("r", 0.0, 600.0).status, 201);
    }
}

#[test]
fn a_user_and_a_password_are_sent_to_etcd_and_again_when_the_token_has_ended() {
    let mut etcd = etcd_or_skip!(1);
    for command in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "locks:pass word"],
        &["role", "add", "locks"],
        &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "/rdlm/"],
        &["user", "grant-role", "locks", "locks"],
        &["auth", "enable"],
    ] {
        etcd.ctl(command).unwrap_or_else(|| panic!("{command:?}"));
    }
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "pass word\n").unwrap();
    let options = ["--etcd-user", "locks", "--etcd-password-file", file.to_str().unwrap()];
    let server = join_by(&etcd.endpoints(), &options);
    wait_until("it is active", || health(&server)["role"] == "active");
    assert_eq!(server.acquire("a", 0.0, 600.0).status, 201);
    // Tokens are forgotten by a member that is restarted, as they are when they have ended.
    etcd.kill(0);
    etcd.start_again(0);
    assert_eq!(super::acquire_patiently(&server, "b").status, 201);
}
