//! The disk refuses what is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::strace::Strace;
use super::{Host, attempt, lock_of};
use crate::harness::{Server, lock_body, wait_until};
use crate::needed;

/// Acquires locks until one cannot be written; returns those that could, and the answer.
fn fill(server: &Server, prefix: &str) -> (Vec<String>, String) {
    // Long titles, to get there soon.
    let title = "x".repeat(1000);
    let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":3600}}"#);
    let mut held = Vec::new();
    for n in 0..20_000 {
        let path = format!("/locks/{prefix}{n}");
        match attempt(server.port(), "POST", &path, &body).unwrap() {
            (201, body) => held.push(lock_of(&body).0),
            (503, body) => return (held, body),
            (status, body) => panic!("{status} {body}"),
        }
    }
    panic!("there was room for everything");
}

fn assert_held(server: &Server, locks: &[String]) {
    let missing = locks.iter().filter(|path| server.get(path).status != 200);
    assert_eq!(missing.count(), 0, "of {}", locks.len());
}

/// Nothing is acknowledged and nothing changes while there is no room; with room it goes on.
fn survives_a_full_disk(
    host: &Host,
    server: Server,
    reason: &str,
    make_room: impl FnOnce(&Server),
) {
    let (held, problem) = fill(&server, "a");
    assert!(problem.contains(reason), "{problem}");
    assert!(problem.contains("nothing has changed"), "{problem}");
    assert!(held.len() > 10);
    assert_held(&server, &held);
    let refused = format!("a{}", held.len());
    assert!(server.locks(&refused).is_empty(), "what was refused is not there");

    make_room(&server);
    wait_until("it can be written again", || {
        attempt(server.port(), "POST", "/locks/again", &lock_body(0, 3600)).unwrap().0 == 201
    });
    let (first, rest) = held.split_first().unwrap();
    assert_eq!(server.delete(first).status, 204);
    server.signal("-KILL");
    drop(server);

    let server = host.start();
    assert_held(&server, rest);
    assert_eq!(server.get(first).status, 404);
    assert!(server.locks(&refused).is_empty());
    assert_eq!(server.locks("again").len(), 1);
}

/// How long a file of the server may be.
fn limit_files(server: &Server, bytes: Option<u64>) {
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[test]
fn a_limit_of_the_file_s_size_refuses_changes_until_it_is_lifted() {
    let host = Host::new();
    let server = host.start();
    limit_files(&server, Some(200_000));
    survives_a_full_disk(&host, server, "File too large", |server| limit_files(server, None));
}

#[test]
fn a_disk_that_takes_nothing_at_all_refuses_changes_and_ends_nothing() {
    let host = Host::new();
    let server = host.start();
    let held = ["a", "b"].map(|resource| server.hold(resource));
    // The head alone can be written.
    limit_files(&server, Some(4096));
    for _ in 0..2 {
        assert!(server.delete(&held[0]).detail(503).contains("nothing has changed"));
        assert!(server.acquire("c", 0.0, 60.0).detail(503).contains("nothing has changed"));
        assert_held(&server, &held);
    }
    limit_files(&server, None);
    assert_eq!(server.delete(&held[0]).status, 204);
    assert_eq!(server.acquire("c", 0.0, 60.0).status, 201);
    server.signal("-KILL");
    drop(server);

    let server = host.start();
    assert_eq!(server.get(&held[0]).status, 404);
    assert_held(&server, &held[1..]);
    assert_eq!(server.locks("c").len(), 1);
}

#[test]
fn health_says_that_nothing_can_be_written_until_it_can() {
    let host = Host::new();
    let server = host.start();
    let held = server.hold("a");
    limit_files(&server, Some(4096));
    assert!(server.delete(&held).detail(503).contains("nothing has changed"));
    assert!(server.get("/health").detail(503).contains("File too large"));
    assert!(server.get("/metrics").text().contains("\nrdlm_writable 0\n"));
    assert_eq!(server.get(&held).status, 200, "a look needs no disk");
    limit_files(&server, None);
    // Nobody asks for anything else meanwhile.
    wait_until("it is well again", || server.get("/health").status == 200);
    assert!(server.get("/metrics").text().contains("\nrdlm_writable 1\n"));
    assert_eq!(server.delete(&held).status, 204);
}

/// A file system of its own, unmounted at the end.
pub(crate) struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Mounts a file system of so many MiB there; `None`, and says so, if none may be mounted here.
pub(crate) fn mount(dir: &Path, mebibytes: u32) -> Option<Mount> {
    let size = format!("size={mebibytes}m");
    let mut command = Command::new("mount");
    let command = command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir);
    if !command.output().is_ok_and(|output| output.status.success()) {
        needed::cannot_run("no tmpfs may be mounted here");
        return None;
    }
    Some(Mount(dir.into()))
}

/// A server on a file system of its own with a ballast of so many bytes; `None`, and says so,
/// if none may be mounted here.
fn on_a_small_disk(host: &Host, ballast: usize) -> Option<(PathBuf, Mount, Server)> {
    let data_dir = host.data_dir();
    let dir = PathBuf::from(&data_dir);
    fs::create_dir(&dir).unwrap();
    let mount = mount(&dir, 8)?;
    let path = dir.join("ballast");
    fs::write(&path, vec![1; ballast]).unwrap();
    Some((path, mount, host.start()))
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_room() {
    let host = Host::new();
    let Some((ballast, _mount, server)) = on_a_small_disk(&host, 4_000_000) else { return };
    survives_a_full_disk(&host, server, "No space left on device", |_| {
        fs::remove_file(ballast).unwrap();
    });
}

/// Releases and expiries make room on a full disk; with that, locks are granted again.
#[test]
fn a_full_disk_takes_releases_and_expiries() {
    let host = Host::new();
    let Some((_ballast, _mount, server)) = on_a_small_disk(&host, 4_000_000) else { return };
    let expires = server.acquire("expires", 0.0, 3.0).lock_path();
    let (held, _) = fill(&server, "a");
    let active = || {
        let metrics = server.get("/metrics");
        let line = metrics.text().lines().find(|line| line.contains("rdlm_locks{state=\"active\""));
        line.unwrap().rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    wait_until("a lock has expired", || server.get(&expires).status == 404);
    wait_until("its end is written", || active() == held.len());
    let (released, rest) = held.split_at(held.len() / 2);
    for (n, path) in released.iter().enumerate() {
        let released = server.delete(path);
        assert_eq!(released.status, 204, "release {n}: {}", released.text());
    }
    assert_eq!(active(), rest.len());
    assert_eq!(server.acquire("again", 0.0, 600.0).status, 201);
    server.signal("-KILL");
    drop(server);

    let server = host.start();
    assert_held(&server, rest);
    assert!(released.iter().all(|path| server.get(path).status == 404));
    assert_eq!(server.locks("again").len(), 1);
}

/// A write or a new name that fails refuses one change; a sync that fails ends the server.
#[test]
fn a_failed_sync_ends_the_server_and_a_failed_write_does_not() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    for (fault, ends) in [
        ("pwrite64:error=EIO:when=1", false),
        ("pwrite64:error=ENOSPC:when=1", false),
        // When a segment is full, the next one is begun; the one before ends with a record.
        ("/^rename:error=EIO:when=1", false),
        ("/^rename:error=ENOSPC:when=1", false),
        ("fdatasync:error=EIO:when=1", true),
        ("fdatasync:error=ENOSPC:when=20", true),
        ("fsync:error=EIO:when=1", true),
    ] {
        let host = Host::new();
        let mut server = host.start();
        let mut held = Vec::new();
        let mut strace = Strace::attach(&server, &host, &[fault]);
        let title = "x".repeat(1000);
        let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":3600}}"#);
        let answer = (0..1_500).find_map(|n| {
            match attempt(server.port(), "POST", &format!("/locks/r{n}"), &body) {
                Some((201, body)) => {
                    held.push(lock_of(&body).0);
                    None
                }
                answer => Some(answer),
            }
        });
        let answer = answer.unwrap_or_else(|| panic!("{fault}: nothing failed"));
        if ends {
            assert_eq!(answer, None, "{fault}: nothing is acknowledged");
            assert_eq!(server.wait().code(), Some(1), "{fault}");
        } else {
            let (status, problem) = answer.unwrap();
            assert_eq!(status, 503, "{fault}: {problem}");
            assert!(problem.contains("nothing has changed"), "{problem}");
            assert!(server.locks(&format!("r{}", held.len())).is_empty(), "{fault}");
            // strace counts for each thread, and a few of them write.
            let after = (0..5).find_map(|_| {
                let answer = attempt(server.port(), "POST", "/locks/after", &body).unwrap();
                (answer.0 == 201).then(|| lock_of(&answer.1).0)
            });
            held.push(after.unwrap_or_else(|| panic!("{fault}: refused again and again")));
            assert_held(&server, &held);
            server.signal("-KILL");
        }
        strace.wait();
        drop(server);
        let server = host.start();
        assert_held(&server, &held);
        let resources = server.get("/resources").json().to_string();
        let found = resources.matches("\"name\"").count();
        // What had no answer may be there or not.
        assert!((held.len()..=held.len() + usize::from(ends)).contains(&found), "{fault}");
    }
}

/// A grant whose commit took long is written once more, with more grace. If that fails, nobody
/// hears of the grant, which would end early after a restart; what was written stands. A release
/// has no lifetime, and is not repeated.
#[test]
fn what_is_answered_stands_also_if_it_cannot_be_repeated() {
    if !needed::are_installed(&["strace"]) {
        return;
    }
    let slow = ["fdatasync:delay_enter=1300000:when=1", "pwrite64:delay_enter=1300000:when=1"];
    // A record, its acknowledgement, and then the record again.
    let fails = ["pwrite64:error=EIO:when=3", "fdatasync:error=EIO:when=2"];
    for faults in [[slow[0], fails[0]], [slow[1], fails[1]]] {
        let host = Host::new();
        let mut server = host.start();
        let held = server.hold("r");
        let mut strace = Strace::attach(&server, &host, &faults);
        assert_eq!(attempt(server.port(), "POST", "/locks/other", &lock_body(0, 60)), None);
        assert_eq!(server.wait().code(), Some(1));
        strace.wait();
        let failed = faults[1].split(':').next().unwrap();
        assert_eq!(strace.injected(failed), 1, "the repetition failed");
        drop(server);
        let server = host.start();
        assert_eq!(server.get(&held).status, 200, "{faults:?}");
        assert_eq!(server.locks("other").len(), 1, "{faults:?}");
        server.signal("-KILL");
        drop(server);

        let server = host.start();
        let mut strace = Strace::attach(&server, &host, &[slow[0]]);
        assert_eq!(server.delete(&held).status, 204);
        server.signal("-KILL");
        strace.wait();
        drop(server);
        assert_eq!(host.start().get(&held).status, 404, "{faults:?}");
    }
}
