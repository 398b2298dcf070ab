//! What was held at a time, and what happened then, after restarts and failures.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use humantime::format_rfc3339_micros;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{acquire_patiently, etcd_or_skip, health, join_with};
use crate::crash::disk;
use crate::harness::{Server, wait_until};

fn now() -> String {
    format_rfc3339_micros(SystemTime::now()).to_string()
}

/// What a server with data in this directory says happened since then, as `event resource`.
fn since(server: &Server, time: &str, query: &str) -> Vec<String> {
    let mut client = server.connect();
    client.send_request("GET", &format!("/events?since={time}&follow=no{query}"), "");
    assert_eq!(client.head().status, 200);
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = client.try_chunk() {
        text.extend(chunk);
    }
    let text = String::from_utf8(text).unwrap();
    let line = |block: &str| {
        let name = block.lines().find_map(|line| line.strip_prefix("event: "))?;
        let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
        let data: Value = serde_json::from_str(data).unwrap();
        Some(format!("{name} {}", data["resource"].as_str().unwrap_or("-")))
    };
    text.split("\n\n").filter_map(line).collect()
}

struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn start(&self, options: &[&str]) -> Server {
        let dir = self.dir.path().to_str().unwrap();
        Server::start_with(&[&["--data-dir", dir], options].concat())
    }

    fn files(&self) -> Vec<PathBuf> {
        files(&self.dir.path().join("history"))
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics");
    let value = metrics.text().lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().trim().parse().unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect()
}

fn text_of(dir: &Path) -> String {
    files(dir).iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn who_held_it_is_known_after_a_kill_however_long_ago_it_was_granted() {
    let world = World::new();
    let mut server = world.start(&[]);
    let (ended, _held) = (server.hold("ended"), server.hold("held"));
    let before = now();
    assert_eq!(server.delete(&ended).status, 204);
    server.hold("new");
    let written = || text_of(&world.dir.path().join("history")).contains("\"new\"");
    wait_until("it is written", written);
    server.signal("-KILL");
    server.wait();
    let server = world.start(&[]);
    let mut told = since(&server, &before, "");
    told.retain(|event| event != "reset -");
    told[..2].sort();
    assert_eq!(told, ["held ended", "held held", "released ended", "granted new"]);
    assert_eq!(since(&server, &before, "&resource=ended"), ["held ended", "released ended"]);
    assert_eq!(since(&server, &now(), "").len(), 2, "held and new");
    for file in world.files() {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_lock_from_before_the_history_is_in_the_answer() {
    let world = World::new();
    let mut server = world.start(&[]);
    server.hold("early");
    let written = || text_of(&world.dir.path().join("history")).contains("\"early\"");
    wait_until("it is written", written);
    server.signal("-KILL");
    server.wait();
    fs::remove_dir_all(world.dir.path().join("history")).unwrap();
    let server = world.start(&[]);
    assert!(since(&server, "2026-01-01T00:00:00Z", "").contains(&"held early".into()));
}

/// As docs/operations.md and docs/troubleshooting.md show it.
#[test]
fn the_commands_show_it_in_local_time() {
    let world = World::new();
    let server = world.start(&[]);
    let before = now();
    server.hold("a");
    assert_eq!(server.delete("/resources/a?reason=cleanup").status, 204);
    let run = |args: &[&str]| {
        let mut rdlm = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        let url = format!("http://127.0.0.1:{}", server.port());
        let output = rdlm.args(args).env("RDLM_URL", url).env("TZ", "Asia/Kolkata").output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, history) = run(&["history", "a"]);
    assert_eq!(code, Some(0));
    assert!(
        history.contains("+05:30  granted") && history.contains("+05:30  deleted"),
        "{history}"
    );
    assert!(history.contains("by 127.0.0.1: cleanup"), "{history}");
    let (_, events) = run(&["events", "--since", &before, "--no-follow", "--json"]);
    let names: Vec<_> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone())
        .collect();
    assert!(names.ends_with(&["granted".into(), "deleted".into()]), "{names:?}");
    let (_, one) = run(&["events", "--since", &before, "-n", "1", "--no-follow"]);
    assert!(one.contains("there is more"), "{one}");
    for wrong in [
        &["events", "--since", "yesterday"][..],
        &["events", "--until", "03:00"],
        &["events", "--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"],
        &["history"],
    ] {
        assert_eq!(run(wrong).0, Some(64), "{wrong:?}");
    }
}

#[test]
fn a_question_that_cannot_be_meant_is_refused() {
    let server = Server::start();
    for (query, said) in [
        ("since=yesterday", "a time such as"),
        ("until=2026-01-01T00:00:00Z", "until goes with since"),
        ("since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until is before since"),
        ("since=2026-01-02T00:00:00Z&latest=1", "does not go with"),
        ("since=2026-01-02T00:00:00Z&limit=10001", "a whole number from 1 to 10000"),
        ("since=2026-01-02T00:00:00Z&limit=0", "a whole number from 1 to 10000"),
    ] {
        let detail = server.get(&format!("/events?{query}")).detail(400);
        assert!(detail.contains(said), "{query}: {detail}");
    }
}

#[test]
fn it_is_kept_up_to_its_size_or_not_at_all() {
    let world = World::new();
    let server = world.start(&["--history", "1h,1MiB"]);
    let title = "x".repeat(1000);
    let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":60}}"#);
    let mut client = server.connect();
    for _ in 0..2_000 {
        let lock = client.request("POST", "/locks/a", &body).lock_path();
        assert_eq!(client.request("DELETE", &lock, "").status, 204);
    }
    server.hold("last");
    let dir = world.dir.path().join("history");
    wait_until("it is written", || text_of(&dir).contains("\"last\""));
    let size: u64 = world.files().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!((256 << 10..=1 << 20).contains(&size), "{size}");
    drop(server);
    let other = World::new();
    let server = other.start(&["--history", "off"]);
    server.hold("a");
    assert!(!other.dir.path().join("history").exists());
}

#[test]
fn a_server_in_memory_tells_which_locks_a_restart_has_forgotten() {
    let dir = TempDir::new().unwrap();
    let options = ["--history-dir", dir.path().to_str().unwrap()];
    let mut server = Server::start_with(&options);
    let before = now();
    server.hold("a");
    wait_until("it is written", || text_of(dir.path()).contains("\"granted\""));
    server.signal("-KILL");
    server.wait();
    let server = Server::start_with(&options);
    let told = || since(&server, &before, "");
    let expected = ["granted a".to_string(), "forgotten a".to_string()];
    // A mark of where the history begins may come before.
    wait_until("it is told", || told().ends_with(&expected));
}

#[test]
fn a_history_that_cannot_be_written_costs_no_lock() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink("/dev/full", data.join("history")).unwrap();
    let server = Server::start_with(&["--data-dir", data.to_str().unwrap()]);
    let lock = server.hold("a");
    assert_eq!(server.delete(&lock).status, 204);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn several_servers_keep_one_each_where_they_are_told() {
    let etcd = etcd_or_skip!(1);
    let dir = TempDir::new().unwrap();
    let options = [
        "--etcd",
        &etcd.endpoints(),
        "--failover-after",
        "1",
        "--history-dir",
        dir.path().to_str().unwrap(),
    ];
    let server = Server::start_with(&[&["--bind", "127.0.0.1"], &options[..]].concat());
    wait_until("it is active", || health(&server)["role"] == "active");
    let before = now();
    server.hold("a");
    assert_eq!(since(&server, &before, "").last().unwrap(), "granted a");
    wait_until("it is written", || text_of(dir.path()).contains("\"granted\""));
}

#[test]
fn a_line_that_was_cut_off_is_dropped_and_damaged_ones_are_counted() {
    let dir = TempDir::new().unwrap();
    let options = ["--history-dir", dir.path().to_str().unwrap()];
    for (damage, damaged) in [(&b"{\"id\":1,\"ev"[..], 0.0), (b"\0\0\xff{\n", 1.0)] {
        let server = Server::start_with(&options);
        server.hold("a");
        assert_eq!(server.delete("/resources/a").status, 204);
        let earlier = if damaged > 0.0 { 1 } else { 0 };
        let deleted = || text_of(dir.path()).matches("\"deleted\"").count() == earlier + 1;
        wait_until("it is written", deleted);
        drop(server);
        let file = files(dir.path()).pop().unwrap();
        OpenOptions::new().append(true).open(file).unwrap().write_all(damage).unwrap();
        let server = Server::start_with(&options);
        let counted = || metric(&server, "rdlm_history_damaged_lines_total") == damaged;
        wait_until("the files are read", counted);
        let told = since(&server, "1970-01-01T00:00:00Z", "&resource=a");
        assert!(told.ends_with(&["granted a".into(), "deleted a".into()]), "{told:?}");
    }
}

#[test]
fn a_full_disk_loses_history_and_no_locks() {
    let dir = TempDir::new().unwrap();
    let Some(_mount) = disk::mount(dir.path(), 12) else { return };
    let mut server = Server::start_with(&["--data-dir", dir.path().to_str().unwrap()]);
    let before = server.hold("before");
    let (history, ballast) = (dir.path().join("history"), dir.path().join("ballast"));
    wait_until("it is written", || text_of(&history).contains("before"));
    fs::write(&ballast, vec![1; 6_500_000]).unwrap();
    let held = server.hold("held");
    assert_eq!(server.delete(&before).status, 204);
    wait_until("it is lost", || metric(&server, "rdlm_history_lost_events_total") >= 2.0);
    server.read_log_to("too little room");
    fs::remove_file(ballast).unwrap();
    assert_eq!(server.delete(&held).status, 204);
    wait_until("it goes on", || text_of(&history).contains("\"released\""));
    assert!(text_of(&history).contains("\"reset\""), "the gap is marked");
}

#[test]
fn what_cannot_be_kept_is_refused_with_what_would_be_right() {
    for (options, said) in [
        (&["--history", "7d"][..], "such as 7d,64MiB"),
        (&["--history", "1m,64MiB"], "at least 1h,1MiB"),
        (&["--history", "7d,1KiB"], "at least 1h,1MiB"),
        (&["--history", "7d,99999999999TiB"], "such as 7d,64MiB"),
        (&["--history", "off", "--history-dir", "h"], "do not go together"),
        (&["--history", "1d,1MiB"], "--history goes with --data-dir or --history-dir"),
        (&["--history-dir", "/dev/null"], "--history-dir: /dev/null: not a directory"),
    ] {
        let mut rdlm = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        let output = rdlm.args(["serve", "--check"]).args(options).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(error.contains(said), "{options:?}: {error}");
        assert_eq!(output.status.code(), Some(2), "{options:?}: {error}");
    }
}

#[test]
fn a_server_that_takes_over_says_since_when_it_knows() {
    let etcd = etcd_or_skip!(1);
    let dir = TempDir::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    let start = |dir: &Path| {
        let server = join_with(&etcd, &["--history-dir", dir.to_str().unwrap()]);
        wait_until("it is active", || health(&server)["role"] == "active");
        server
    };
    let mut first = start(&one);
    let lock = acquire_patiently(&first, "foo").lock_path();
    let at_first = now();
    first.signal("-TERM");
    first.wait();
    let second = start(&two);
    wait_until("it is released", || second.delete(&lock).status == 204);
    let answer = second.get(&format!("/events?since={at_first}&follow=no"));
    assert!(*answer.header("RDLM-Known-Since").unwrap() > *at_first);
    let ended = now();
    drop(second);
    // The first one again: it was not told of the release.
    let again = start(&one);
    acquire_patiently(&again, "bar");
    wait_until("it has noticed", || text_of(&one).contains("\"forgotten\""));
    let answer = again.get(&format!("/events?since={at_first}&follow=no"));
    assert!(*answer.header("RDLM-Known-Since").unwrap() > *ended);
    assert!(answer.text().contains("event: held\n"), "{}", answer.text());
}
