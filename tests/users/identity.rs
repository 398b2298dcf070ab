//! How users say who they are: certificates, passwords, tokens, the commands; and where it is shown.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use super::{OPS, USERS, VIEWER, World, ask, credentials};
use crate::authority::{Authority, Issued, text};
use crate::harness::{lock_body, wait_until};

#[test]
fn a_certificate_names_its_user() {
    let authority = Authority::new();
    let (issued, ca) = (authority.server("server"), authority.certificate());
    let tls = [&authority.options(&issued)[..], &["--tls-client-ca", text(&ca)]].concat();
    let mut world = World::with(USERS, &tls);
    let status = |world: &World, own: &Issued, authorization: &str| {
        let mut client = authority.connect(&world.server, Some(own));
        let headers = format!("Host: localhost{authorization}");
        client.send_with_headers("GET", "/metrics", &headers, "");
        client.response().status
    };
    let viewer = authority.client("viewer");
    let by_dns_name = authority.issue("dns", "ops", Some("DNS:viewer,DNS:deploy"), "2");
    let unknown = authority.client("mallory");
    assert_eq!(status(&world, &viewer, ""), 200);
    assert_eq!(status(&world, &by_dns_name, ""), 200);
    assert_eq!(status(&world, &authority.client("robot"), ""), 403);
    assert_eq!(status(&world, &unknown, ""), 401);
    let ops = BASE64_STANDARD.encode(OPS);
    assert_eq!(status(&world, &unknown, &format!("\r\nAuthorization: Basic {ops}")), 200);
    // The user is who holds the lock.
    let mut client = authority.connect(&world.server, Some(&authority.client("robot")));
    assert_eq!(client.request("POST", "/locks/robot", &lock_body(0, 60)).status, 201);
    let mut client = authority.connect(&world.server, Some(&viewer));
    let mut lister = authority.connect(&world.server, Some(&viewer));
    lister.send("GET /status HTTP/1.0\r\n\r\n");
    let list = lister.rest();
    assert!(list.contains("\"user\":\"robot\""), "{list}");
    assert_eq!(client.request("GET", "/metrics", "").status, 200);
    // Who leaves the file is refused, also on a connection that is there.
    fs::write(&world.file, USERS.replace("[user.viewer]", "[user.other]")).unwrap();
    world.server.signal("-HUP");
    world.server.read_log_to("taken anew");
    assert_eq!(status(&world, &viewer, ""), 401);
    assert_eq!(client.request("GET", "/metrics", "").status, 401);
}

#[test]
fn wrong_passwords_cost_the_same_for_every_name() {
    let hash = bcrypt::hash("secret", 5).unwrap();
    let world = World::with(
        &format!(
            "[user.known]\npassword = {hash:?}\nmay = []\n[user.plain]\npassword = \"p\"\nmay = []\n"
        ),
        &["--logging", "debug"],
    );
    let answer = |who: &str| world.ask(who, "GET", "/resources", "");
    let answers = ["known:x", "nobody:x", "plain:x"].map(answer);
    assert!(answers.iter().all(|answer| answer.status == 401));
    assert!(answers.iter().all(|answer| answer.text() == answers[0].text()), "{answers:?}");
    assert_eq!(answer("known:secret").status, 403, "known, and without a right");
    let log = world.server.into_log();
    assert_eq!(log.matches("in 32 rounds of bcrypt").count(), 4, "{log}");
}

#[test]
fn a_crowd_of_wrong_passwords_holds_up_no_other_client() {
    let hash = bcrypt::hash("secret", 8).unwrap();
    let world = World::with(
        &format!("[anonymous]\nmay = [\"lock *\"]\n[user.known]\npassword = {hash:?}\nmay = []\n"),
        &[],
    );
    let slowest = || {
        let mut client = world.server.connect();
        let mut times: Vec<_> = (0..100)
            .map(|_| {
                let began = Instant::now();
                let answer = ask(&mut client, "", "POST", "/locks/a", &lock_body(0, 0.0001));
                assert!(matches!(answer.status, 201 | 408));
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[98]
    };
    slowest();
    let mut crowd: Vec<_> = (0..100).map(|_| world.server.connect()).collect();
    for (n, client) in crowd.iter_mut().enumerate() {
        let headers = format!("Host: h{}", credentials(&format!("known:{n}")));
        client.send_with_headers("GET", "/resources", &headers, "");
    }
    assert!(slowest() < Duration::from_millis(500), "bounded, on a busy machine, too");
    for client in &mut crowd {
        assert!(matches!(client.response().status, 401 | 503));
    }
    // Two are computed at a time: no more threads than connections, and those two.
    assert!(world.server.status_field("Threads:") < 125);
}

#[test]
fn names_with_control_characters_are_escaped_everywhere() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("events");
    let world = World::with(USERS, &["--event-log", text(&log), "--logging", "debug"]);
    let eve = "e\u{1b}[2Jve\n<b>:eve";
    let lock = world.hold(eve, "foo");
    let listed = world.ask(OPS, "GET", "/status", "");
    assert!(!listed.text().contains('\u{1b}'));
    let user = &listed.json()["resources"][0]["locks"][0]["user"];
    assert_eq!(user, "e\u{1b}[2Jve\n<b>");
    assert!(world.acquire(eve, "a").status == 201 && world.status(eve, "GET", "/resources") == 403);
    assert_eq!(world.status(eve, "DELETE", &lock), 204);
    wait_until("it is written", || fs::read_to_string(&log).unwrap().contains("released"));
    let written = fs::read_to_string(&log).unwrap();
    for line in written.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["user"], "e\u{1b}[2Jve\n<b>");
    }
    let said = world.server.into_log();
    assert!(!said.contains('\u{1b}') && said.contains("\\u{1b}"), "{said}");
}

#[test]
fn users_of_locks_survive_a_crash() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let options = ["--data-dir", text(&data)];
    let world = World::with(USERS, &options);
    world.hold(OPS, "foo");
    world.server.signal("-KILL");
    drop(world);
    let world = World::with(USERS, &options);
    let status = world.ask(VIEWER, "GET", "/status", "").json();
    assert_eq!(status["resources"][0]["locks"][0]["user"], "ops");
}

#[test]
fn the_commands_say_who_they_are() {
    let world = World::new();
    let url = format!("http://localhost:{}", world.server.port());
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        for name in ["RDLM_USER", "RDLM_PASSWORD", "RDLM_TOKEN"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).env("RDLM_URL", &url).args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let deploy = [("RDLM_USER", "deploy"), ("RDLM_PASSWORD", "secret")];
    let token = [("RDLM_TOKEN", "token")];
    for who in [&deploy[..], &token] {
        let (code, lock, errors) = run(&["acquire", "deploy-1"], who);
        assert_eq!((code, &*errors), (0, ""));
        assert_eq!(run(&["renew", lock.trim()], who).0, 0);
        let (_, listed, _) = run(&["locks", "deploy-1"], who);
        assert!(listed.contains("deploy at 127.0.0.1"), "{listed}");
        assert_eq!(run(&["release", lock.trim()], who).0, 0);
        let (code, _, errors) = run(&["run", "other", "--", "true"], who);
        assert!(code == 77 && errors.contains("lacks the right"), "{code} {errors}");
    }
    let (code, _, errors) = run(&["acquire", "deploy-1"], &[]);
    assert!(code == 77 && errors.contains("RDLM_TOKEN"), "{code} {errors}");
    let (code, _, errors) = run(&["acquire", "deploy-1"], &[("RDLM_TOKEN", "wrong")]);
    assert!(code == 77 && errors.contains("not accepted") && !errors.contains("wrong"), "{errors}");
}

#[test]
fn hashes_are_printed_for_the_file() {
    let run = |command: &str, input: &str| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_rdlm"))
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, hash) = run("hash-password", "s3cret\n");
    assert_eq!(code, 0);
    assert!(bcrypt::verify("s3cret", hash.trim()).unwrap());
    let (_, token) = run("hash-token", "token\n");
    assert_eq!(
        token.trim(),
        "sha256:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"
    );
    assert_eq!(run("hash-token", "token").1, token, "with or without a line break");
    for empty in ["", "\n"] {
        assert_ne!(run("hash-password", empty).0, 0);
    }
    // bcrypt looks at 72 bytes.
    assert_ne!(run("hash-password", &"x".repeat(73)).0, 0);
}
