//! The client as a library for Rust programs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rdlm_client::{Client, Error, LockOptions};

use super::fakes::{Fake, Then};
use crate::harness::{PATIENCE, Server, wait_until};

fn client(port: u16) -> Client {
    Client::new(&format!("http://127.0.0.1:{port}")).unwrap()
}

fn lives_for(seconds: f64) -> LockOptions {
    LockOptions { lifetime: Some(Duration::from_secs_f64(seconds)), ..LockOptions::default() }
}

#[test]
fn a_guard_renews_its_lock_and_releases_it_when_it_is_dropped() {
    let server = Server::start();
    let client = client(server.port());
    let guard = client.acquire("foo", &lives_for(0.6)).unwrap();
    let lived = Instant::now();
    wait_until("it has lived for three lifetimes", || {
        assert_eq!(server.locks("foo").len(), 1);
        lived.elapsed() > Duration::from_millis(1800)
    });
    assert!(!guard.is_lost());
    assert_eq!(guard.resource(), "foo");
    let listed = &server.locks("foo")[0];
    assert_eq!(listed["fencing_token"].as_u64(), guard.fencing_token());
    assert!(guard.url().ends_with(listed["_links"]["self"]["href"].as_str().unwrap()));
    drop(guard);
    assert_eq!(server.locks("foo").len(), 0);
    client.acquire("foo", &lives_for(60.0)).unwrap().release().unwrap();
    assert_eq!(server.locks("foo").len(), 0);
}

#[test]
fn a_guard_converts_its_lock() {
    let server = Server::start();
    let client = client(server.port());
    let reads = LockOptions { mode: Some("PR".into()), ..lives_for(600.0) };
    let [guard, other] = [(), ()].map(|()| client.acquire("foo", &reads).unwrap());
    let refused = guard.convert("EX", Duration::ZERO);
    assert!(matches!(refused, Err(Error::NotGranted(_))), "{refused:?}");
    let mode = || server.locks("foo")[0]["mode"].as_str().unwrap().to_string();
    assert_eq!(mode(), "PR");
    thread::scope(|scope| {
        let writer = scope.spawn(|| guard.convert("EX", PATIENCE));
        wait_until("it waits", || server.locks("foo")[0]["converting_to"] == "EX");
        let deadlock = other.convert("EX", PATIENCE);
        let Err(Error::NotGranted(why)) = deadlock else { panic!("{deadlock:?}") };
        assert!(why.contains("deadlock"), "{why}");
        other.release().unwrap();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(mode(), "EX");
    server.delete("/resources/foo");
    assert!(matches!(guard.convert("PR", Duration::ZERO), Err(Error::Gone(_))));
}

#[test]
fn a_lost_lock_is_told_of() {
    let server = Server::start();
    let (sender, lost) = unbounded();
    let client = client(server.port()).tell_of_loss(sender);
    let deleted = client.acquire("deleted", &lives_for(0.6)).unwrap();
    let silent = client.acquire("silent", &lives_for(1.2)).unwrap();
    server.delete("/resources/deleted");
    let told = lost.recv_timeout(PATIENCE).unwrap();
    assert_eq!((told.resource.as_str(), deleted.is_lost()), ("deleted", true));
    assert!(!silent.is_lost());
    assert!(matches!(deleted.release(), Err(Error::Gone(_))));
    server.signal("-STOP");
    let told = lost.recv_timeout(PATIENCE).unwrap();
    assert!(silent.is_lost());
    assert!(told.resource == "silent" && told.why.contains("no renewal"), "{told:?}");
    server.signal("-CONT");
}

#[test]
fn a_lock_that_is_held_is_not_granted() {
    let server = Server::start();
    server.hold("foo");
    let client = client(server.port());
    let options = LockOptions { wait: Some(Duration::from_millis(100)), ..LockOptions::default() };
    assert!(matches!(client.acquire("foo", &options), Err(Error::NotGranted(_))));
    // Nobody is told who holds it before the wait is over.
    let pending = client.request("foo", &LockOptions::default()).unwrap();
    wait_until("it waits", || server.locks("foo").len() == 2);
    assert!(pending.answered().is_empty());
    drop(pending);
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn a_request_whose_answer_is_lost_is_sent_again_with_its_key() {
    let server = Server::start();
    let fake = Fake::start(vec![Then::Drop, Then::Drop, Then::Forward(server.port())]);
    let guard = client(fake.port).acquire("foo", &LockOptions::default()).unwrap();
    assert_eq!(server.locks("foo").len(), 1);
    let key = |request: String| {
        request.lines().find(|line| line.starts_with("idempotency-key")).map(String::from)
    };
    let next = || fake.requests.recv_timeout(PATIENCE).unwrap();
    let (first, second) = (next(), next());
    assert!(key(first.clone()).is_some() && key(first) == key(second));
    let _ = guard.leave();
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn what_no_server_accepts_is_refused_at_once() {
    for (url, expected) in [("locks:8888", "a URL such as"), ("http://u:pw@", "a URL such as")] {
        let Err(error) = Client::new(url) else { panic!("{url}") };
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains("pw"), "{text}");
    }
    let client = client(1);
    for options in [lives_for(0.0), LockOptions { wait: Some(Duration::MAX), ..lives_for(1.0) }] {
        assert!(matches!(client.acquire("foo", &options), Err(Error::Usage(_))));
    }
}

#[test]
fn the_example_works_under_its_lock() {
    let server = Server::start();
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--example", "under_a_lock"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(cargo.unwrap().success());
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_rdlm"));
    let mut example = Command::new(binary.with_file_name("examples").join("under_a_lock"))
        .arg("foo")
        .env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = example.stdin.take().unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("held with the fencing token "));
    writeln!(stdin, "one").unwrap();
    assert_eq!(lines.next().unwrap(), "one");
    server.delete("/resources/foo");
    // Until the next renewal it cannot know.
    wait_until("it has ended", || {
        let _ = writeln!(stdin, "two");
        example.try_wait().unwrap().is_some()
    });
    let output = example.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the lock was lost"));
}

/// Each crate costs every program that depends on the client time to compile and trust.
#[test]
fn a_program_that_depends_on_the_client_compiles_few_crates() {
    const MOST: usize = 40;
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--package", "rdlm-client", "--prefix", "none"])
        .args(["--edges", "normal,build", "--no-dedupe"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<_> = text.lines().collect();
    assert!((10..=MOST).contains(&crates.len()), "{}: {crates:#?}", crates.len());
    for server in ["rdlm v", "rdlm-lock", "rdlm-http"] {
        assert!(!crates.iter().any(|name| name.starts_with(server)), "{server}");
    }
}
