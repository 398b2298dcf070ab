//! What a restart keeps, and what makes the server refuse to start.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use humantime::parse_rfc3339;

use super::Host;
use crate::harness::{Server, wait_until};
use crate::needed;

#[test]
fn a_lock_is_held_by_the_same_url_after_a_restart() {
    let host = Host::new();
    let server = host.start();
    let response = server.acquire("r", 0.0, 600.0);
    let path = response.lock_path();
    let released = server.hold("other");
    assert_eq!(server.delete(&released).status, 204);
    let _waiter = server.join_line("r");
    server.signal("-KILL");
    drop(server);

    let server = host.start();
    let (lock, before) = (server.get(&path).json(), response.json());
    for field in ["uid", "title", "wait", "lifetime", "active_since", "fencing_token"] {
        assert_eq!(lock[field], before[field], "{field}");
    }
    assert_eq!(server.locks("r").len(), 1, "who waited is gone with its connection");
    assert_eq!(server.get(&released).status, 404);
    assert_eq!(server.acquire("r", 0.0, 1.0).status, 408);
    assert_eq!(server.delete(&path).status, 204);
    let next = server.acquire("r", 0.0, 600.0).json()["fencing_token"].as_u64();
    assert!(next > before["fencing_token"].as_u64());
}

#[test]
fn all_holders_of_a_resource_survive_with_their_modes_and_keys() {
    let host = Host::new();
    let server = host.start();
    let readers = [(); 3].map(|()| {
        server.acquire_with("read", r#""mode":"PR","wait":0,"lifetime":600"#).lock_path()
    });
    let semaphore = r#""limit":2,"wait":0,"lifetime":600"#;
    server.acquire_with("semaphore", semaphore).lock_path();
    assert_eq!(server.delete(&readers[1]).status, 204);
    let mut client = server.connect();
    client.send_acquire_with_key("keyed", "a-key");
    let keyed = client.response();
    let before = ["read", "semaphore", "keyed"].map(|name| server.locks(name));
    server.signal("-KILL");
    drop(server);

    let server = host.start();
    for (name, before) in ["read", "semaphore", "keyed"].iter().zip(before) {
        let after = server.locks(name);
        assert_eq!(after.len(), before.len());
        for (after, before) in after.iter().zip(before) {
            for field in ["uid", "mode", "limit", "client", "fencing_token"] {
                assert_eq!(after[field], before[field], "{field}");
            }
        }
    }
    server.acquire_with("read", r#""mode":"EX","wait":0,"lifetime":600"#).detail(408);
    server.acquire_with("semaphore", r#""limit":3,"wait":0,"lifetime":600"#).detail(422);
    server.acquire_with("semaphore", semaphore).lock_path();
    server.acquire_with("semaphore", semaphore).detail(408);
    // Its client has perhaps not heard of the grant, and asks again.
    let mut client = server.connect();
    client.send_acquire_with_key("keyed", "a-key");
    let again = client.response();
    assert_eq!(again.lock_path(), keyed.lock_path());
    assert_eq!(again.header("RDLM-Fencing-Token"), keyed.header("RDLM-Fencing-Token"));
}

#[test]
fn a_renewal_survives_a_crash() {
    let host = Host::new();
    let server = host.start();
    let path = server.acquire("r", 0.0, 1.0).lock_path();
    assert_eq!(server.request("PATCH", &path, r#"{"lifetime":600}"#).status, 200);
    server.signal("-KILL");
    drop(server);
    let server = host.start_with(&["--restart-grace", "0"]);
    assert_eq!(server.get(&path).json()["lifetime"], 600);
    assert_eq!(server.acquire("r", 3.0, 1.0).status, 408);
}

#[test]
fn a_conversion_survives_a_crash_and_one_that_waits_does_not() {
    let host = Host::new();
    let server = host.start();
    let reader = r#""mode":"PR","wait":0,"lifetime":600"#;
    let [path, other] = [(), ()].map(|()| server.acquire_with("r", reader).lock_path());
    let converted = server.request("PATCH", &other, r#"{"mode":"CR"}"#).json();
    let mut waits = server.connect();
    waits.send_request("PATCH", &path, r#"{"mode":"EX","wait":600}"#);
    wait_until("it waits", || {
        server.locks("r").iter().any(|lock| lock.get("converting_to").is_some())
    });
    server.signal("-KILL");
    drop(server);

    let server = host.start();
    assert_eq!(server.get(&path).json()["mode"], "PR");
    let found = server.get(&other).json();
    for field in ["uid", "mode", "fencing_token", "lifetime", "active_since"] {
        assert_eq!(found[field], converted[field], "{field}");
    }
    server.acquire_with("r", r#""mode":"PW","wait":0,"lifetime":600"#).detail(408);
    assert_eq!(server.request("PATCH", &path, r#"{"mode":"PW"}"#).status, 200, "beside CR");
    server.signal("-KILL");
    drop(server);
    assert_eq!(host.start().get(&path).json()["mode"], "PW");
}

#[test]
fn a_server_that_was_stopped_in_order_keeps_its_locks_too() {
    let host = Host::new();
    let mut server = host.start();
    let path = server.hold("r");
    server.signal("-TERM");
    assert!(server.wait().success());
    assert_eq!(host.start().get(&path).status, 200);
}

#[test]
fn a_lock_that_expired_meanwhile_gets_the_grace_and_then_expires() {
    let host = Host::new();
    let server = host.start();
    let path = server.acquire("r", 0.0, 0.01).lock_path();
    let long = server.hold("long");
    server.signal("-KILL");
    drop(server);

    let server = host.start_with(&["--restart-grace", "0.5"]);
    wait_until("the grace is over", || server.get(&path).status == 404);
    assert_eq!(server.acquire("r", 0.0, 1.0).status, 201);
    assert_eq!(server.get(&long).status, 200, "the grace makes no lock shorter");
}

#[test]
fn tokens_grow_also_over_deleted_locks_and_a_new_file() {
    let host = Host::new();
    let mut last = 0;
    for round in 0..4 {
        let server = host.start();
        let response = server.acquire("r", 0.0, 600.0);
        let token = response.json()["fencing_token"].as_u64().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        assert_eq!(server.delete(&response.lock_path()).status, 204);
        server.signal("-KILL");
        drop(server);
        if round == 2 {
            fs::remove_file(host.file()).unwrap();
        }
    }
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let host = Host::new();
    let server = host.start();
    let path = server.hold("r");
    assert!(host.refused().contains("is in use by another server"));
    assert_eq!(server.get(&path).status, 200);
}

/// The host is the same, and so is its boot; only the clock is another one.
#[test]
fn a_lock_has_its_lifetime_left_after_a_start_in_another_time_namespace() {
    needed::insist("unshare");
    let host = Host::new();
    let in_namespace = |seconds: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--time", "--boottime", seconds]);
        let own = host.command();
        command.arg(own.get_program()).args(own.get_args());
        command
    };
    let server = host.start();
    let lock = server.acquire("r", 0.0, 3600.0).lock_path();
    server.signal("-KILL");
    drop(server);
    for offset in ["50000", "100000"] {
        let server = Server::start_command(&mut in_namespace(offset));
        let expires = server.get(&lock).json()["active_expires"].as_str().map(parse_rfc3339);
        server.signal("-KILL");
        drop(server);
        let left = expires.unwrap().unwrap().duration_since(SystemTime::now()).unwrap();
        assert!((3000..=3700).contains(&left.as_secs()), "{left:?} are left with {offset}");
    }
}

/// It keeps what it has where it is now, and touches nothing of who has the path.
#[test]
fn a_directory_that_is_moved_away_is_not_the_one_that_comes_in_its_place() {
    let host = Host::new();
    let old = host.start();
    let elsewhere = host.temp.path().join("moved");
    fs::rename(host.data_dir(), &elsewhere).unwrap();
    let new = host.start();
    let kept = new.hold("new");

    let body = format!(r#"{{"title":"{}","wait":0,"lifetime":600}}"#, "x".repeat(900));
    let mut client = old.connect();
    let lock = client.request("POST", "/locks/old", &body).lock_path();
    wait_until("the old server has begun another file", || {
        assert_eq!(client.request("PATCH", &lock, r#"{"lifetime":600}"#).status, 200);
        elsewhere.join("00000002.log").exists()
    });
    drop(client);
    for server in [old, new] {
        server.signal("-KILL");
    }
    let new = host.start();
    assert_eq!(new.get(&kept).status, 200);
    assert_eq!(new.get(&lock).status, 404);
    drop(new);
    fs::remove_dir_all(host.data_dir()).unwrap();
    fs::rename(&elsewhere, host.data_dir()).unwrap();
    assert_eq!(host.start().get(&lock).status, 200);
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    for contents in [&b""[..], b"hello", &[0; 100_000], &[0xff; 8192]] {
        let host = Host::new();
        fs::create_dir(host.data_dir()).unwrap();
        fs::write(host.file(), contents).unwrap();
        let text = host.refused();
        assert!(text.contains("00000001.log is damaged or not a journal of rdlm"), "{text}");
        assert_eq!(fs::read(host.file()).unwrap(), contents);
    }
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_directory_that_cannot_be_used_is_refused() {
    let host = Host::new();
    fs::write(host.data_dir(), "a file").unwrap();
    let text = host.refused();
    assert!(text.contains(&format!("--data-dir: cannot use {}", host.data_dir())), "{text}");

    let host = Host::new();
    fs::create_dir_all(host.file()).unwrap();
    let text = host.refused();
    assert!(text.contains("00000001.log"), "{text}");

    // A pipe is not waited for.
    let host = Host::new();
    fifo(host.data_dir().as_ref());
    let text = host.refused();
    assert!(text.contains(&format!("--data-dir: cannot use {}", host.data_dir())), "{text}");

    let host = Host::new();
    fs::create_dir(host.data_dir()).unwrap();
    fifo(&host.file());
    let text = host.refused();
    assert!(text.contains("00000001.log"), "{text}");
}

#[test]
fn a_server_without_a_directory_says_once_that_a_restart_forgets() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    let command = command.args(["serve", "--port", "0"]).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let log = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let log: Vec<_> = log.take_while(|line| !line.contains("listening on")).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(log.iter().filter(|line| line.contains("a restart forgets them")).count(), 1);
}
