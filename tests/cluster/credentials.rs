//! How etcd knows this server, and what may change about that while it runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::etcd::Etcd;
use super::proxy::Proxy;
use super::{acquire_patiently, health, join_by, metric};
use crate::authority::{Authority, text};
use crate::harness::{Server, wait_until};

fn run(etcd: &Etcd, command: &[&str]) {
    etcd.ctl(command).unwrap_or_else(|| panic!("{command:?}"));
}

/// A member whose tokens are of this kind.
fn start_with_tokens(options: &[&str]) -> Option<Etcd> {
    Etcd::start_with(1, &[&["--bcrypt-cost", "4"], options].concat())
}

/// What makes etcd issue JWTs that live so long, with keys in this directory.
fn jwt(dir: &Path, ttl: &str) -> String {
    let script = "openssl genrsa -out key.pem 2048 && openssl rsa -in key.pem -pubout -out pub.pem";
    let made = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let file = |name: &str| dir.join(name).display().to_string();
    let (key, public) = (file("key.pem"), file("pub.pem"));
    format!("jwt,pub-key={public},priv-key={key},sign-method=RS256,ttl={ttl}")
}

/// A server that is active as the user `locks`, and that bears with a slow host.
fn patient(etcd: &Etcd, file: &Path) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.args(["serve", "--bind", "127.0.0.1", "--etcd", &etcd.endpoints()]);
    command.args(["--failover-after", "30", "--etcd-user", "locks"]);
    let server = Server::start_command(command.args(["--etcd-password-file", text(file)]));
    wait_until("it is active", || health(&server)["role"] == "active");
    server
}

/// A server that is active as the user `locks`, whose password is in the file.
fn active(endpoints: &str, file: &Path) -> Server {
    let server = join_by(endpoints, &["--etcd-user", "locks", "--etcd-password-file", text(file)]);
    wait_until("it is active", || health(&server)["role"] == "active");
    server
}

fn password_file(dir: &TempDir) -> std::path::PathBuf {
    let file = dir.path().join("password");
    fs::write(&file, "pw\n").unwrap();
    file
}

/// No request notices that etcd's users, roles or authentication have changed.
fn goes_on_while_users_change(etcd: &Etcd, file: &Path) {
    // What is not switched on yet may be configured already.
    let server = patient(etcd, file);
    let mut number = 0;
    let mut goes_on = |what: &str| {
        number += 1;
        let response = server.acquire(&format!("r{number}"), 0.0, 600.0);
        assert_eq!(response.status, 201, "{what}: {}", response.text());
    };
    goes_on("authentication is off");
    etcd.secure("pw");
    goes_on("authentication is on");
    for command in [
        &["user", "add", "other:other"][..],
        &["role", "grant-permission", "locks", "read", "/other"],
        &["role", "revoke-permission", "locks", "/other"],
        &["user", "delete", "other"],
        &["auth", "disable"],
    ] {
        run(etcd, command);
        goes_on(&format!("{command:?}"));
    }
    etcd.ctl(&["auth", "enable"]).unwrap();
    goes_on("authentication is on again");
    etcd.set_password("pw");
    goes_on("every token of the user was withdrawn");
    assert_eq!(metric(&server, r#"rdlm_etcd_errors_total{kind="error"} "#), 0.0);
    assert_eq!(metric(&server, "rdlm_tenures_total "), 1.0);
}

#[test]
fn users_of_etcd_with_simple_tokens_change_unnoticed() {
    let Some(etcd) = start_with_tokens(&[]) else { return };
    let dir = TempDir::new().unwrap();
    goes_on_while_users_change(&etcd, &password_file(&dir));
}

#[test]
fn users_of_etcd_with_jwt_change_unnoticed() {
    let dir = TempDir::new().unwrap();
    let Some(etcd) = start_with_tokens(&["--auth-token", &jwt(dir.path(), "5m")]) else { return };
    goes_on_while_users_change(&etcd, &password_file(&dir));
}

#[test]
fn tokens_end_unnoticed() {
    let dir = TempDir::new().unwrap();
    let Some(etcd) = start_with_tokens(&["--auth-token", &jwt(dir.path(), "1s")]) else { return };
    etcd.secure("pw");
    let server = patient(&etcd, &password_file(&dir));
    let end = Instant::now() + Duration::from_millis(2500);
    for number in 0.. {
        if Instant::now() > end {
            break;
        }
        let response = server.acquire(&format!("r{number}"), 0.0, 600.0);
        assert_eq!(response.status, 201, "{}", response.text());
    }
    assert_eq!(metric(&server, "rdlm_tenures_total "), 1.0);
}

/// As etcd 3.4.23 does where it is built with the dependencies that it was released with.
#[test]
fn an_etcd_that_hangs_up_instead_of_refusing_a_token_is_logged_in_to() {
    let dir = TempDir::new().unwrap();
    let Some(etcd) = start_with_tokens(&["--auth-token", &jwt(dir.path(), "5m")]) else { return };
    etcd.secure("pw");
    let proxy = Proxy::before(etcd.port());
    proxy.hang_up_on_refusals();
    let server = active(&proxy.url(), &password_file(&dir));
    run(&etcd, &["user", "add", "other:other"]);
    assert_eq!(acquire_patiently(&server, "a").status, 201);
    run(&etcd, &["user", "delete", "other"]);
    assert_eq!(acquire_patiently(&server, "b").status, 201);
}

#[test]
fn a_password_that_is_changed_in_both_places_is_used_without_a_restart() {
    let Some(etcd) = start_with_tokens(&[]) else { return };
    etcd.secure("pw");
    let dir = TempDir::new().unwrap();
    let file = password_file(&dir);
    let server = active(&etcd.endpoints(), &file);
    let lock = server.hold("a");
    etcd.set_password("next");
    wait_until("the old one is refused", || health(&server)["role"] == "unconfirmed");
    // A file that is being written is no new password.
    fs::write(&file, "").unwrap();
    server.signal("-HUP");
    fs::write(&file, "next\n").unwrap();
    assert_eq!(acquire_patiently(&server, "b").status, 201);
    assert_eq!(server.delete(&lock).status, 204);
    assert_eq!(metric(&server, "rdlm_tenures_total "), 1.0);
    let log = server.into_log();
    assert!(log.contains("taken anew: the password of locks for etcd is in "), "{log}");
}

#[test]
fn a_password_file_without_a_password_is_refused_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = ["--etcd", "http://127.0.0.1:1", "--etcd-user", "locks", "--etcd-password-file"];
    let (error, code) = super::start::refusal(&[&options[..], &[text(file.path())]].concat());
    assert!(error.contains("its first line is empty") && error.lines().count() == 1, "{error}");
    assert_eq!(code, 1);
}

#[test]
fn certificates_for_etcd_are_renewed_without_a_restart() {
    let (authority, next) = (Authority::new(), Authority::new());
    let (issued, ca) = (authority.server("both"), authority.certificate());
    let (ca, cert, key) = (text(&ca), text(&issued.certificate), text(&issued.key));
    let tls =
        ["--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca];
    let Some(mut etcd) = Etcd::start_with_tls(&tls) else { return };
    let endpoints = etcd.endpoints().replace("http://", "https://");
    let options = ["--etcd-ca", ca, "--etcd-cert", cert, "--etcd-key", key];
    let mut server = join_by(&endpoints, &options);
    wait_until("it is active", || health(&server)["role"] == "active");
    let lock = server.hold("a");

    // One that does not fit its key is not used, and the log says so.
    next.server("both");
    let copy = |file: &str| fs::copy(next.path().join(file), authority.path().join(file)).unwrap();
    copy("both.pem");
    server.signal("-HUP");
    server.read_log_to("what was in use before stays: --etcd-cert");
    assert_eq!(server.acquire("b", 0.0, 600.0).status, 201);

    // Both sides have to have certificates of another authority from now on.
    copy("both.key");
    copy("ca.pem");
    etcd.kill(0);
    etcd.start_again(0);
    assert_eq!(acquire_patiently(&server, "c").status, 201);
    assert_eq!(server.delete(&lock).status, 204);
    assert_eq!(metric(&server, "rdlm_tenures_total "), 1.0);
}
