//! The disk refuses what is written.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{Host, attempt, lock_of};
use crate::harness::{Server, lock_body, wait_until};

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

#[test]
fn a_limit_of_the_file_s_size_refuses_changes_until_it_is_lifted() {
    let host = Host::new();
    let server = host.start();
    let limit = |bytes| {
        let pid = Pid::from_raw(server.pid().try_into().unwrap());
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    limit(Some(200_000));
    let pid = server.pid();
    survives_a_full_disk(&host, server, "File too large", |_| {
        let pid = Pid::from_raw(pid.try_into().unwrap());
        prlimit(pid, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    });
}

/// A file system of its own, unmounted at the end.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_room() {
    let host = Host::new();
    let data_dir = host.data_dir();
    let dir = Path::new(&data_dir);
    fs::create_dir(dir).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", &data_dir];
    if !Command::new("mount").args(options).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: may not mount a tmpfs here");
        return;
    }
    let _mount = Mount(dir);
    fs::write(dir.join("ballast"), vec![1; 500_000]).unwrap();
    let server = host.start();
    survives_a_full_disk(&host, server, "No space left on device", |_| {
        fs::remove_file(dir.join("ballast")).unwrap();
    });
}

/// With strace, which makes system calls fail for real.
#[test]
fn a_failed_sync_ends_the_server_and_a_failed_write_does_not() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: there is no strace");
        return;
    }
    for (fault, survives) in
        [("fdatasync:error=EIO:when=1", false), ("pwrite64:error=EIO:when=1", true)]
    {
        let host = Host::new();
        let mut server = host.start();
        let held = server.hold("before");
        let pid = server.pid().to_string();
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-o", "/dev/null", "-e"])
            .arg(format!("inject={fault}"))
            .args(["-p", &pid])
            .spawn()
            .unwrap();
        wait_until("strace is attached", || server.status_field("TracerPid") != 0);
        // The journal's thread may be attached after the first one.
        wait_until("all threads are traced", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.filter_map(Result::ok).all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            })
        });
        let answer = attempt(server.port(), "POST", "/locks/r", &lock_body(0, 3600));
        if survives {
            let (status, body) = answer.unwrap();
            assert_eq!(status, 503, "{body}");
            assert!(body.contains("Input/output error"), "{body}");
            assert!(server.locks("r").is_empty());
            assert_eq!(server.acquire("r", 0.0, 60.0).status, 201);
            assert_held(&server, std::slice::from_ref(&held));
            server.signal("-KILL");
        } else {
            assert_eq!(answer, None, "nothing is acknowledged");
            assert_eq!(server.wait().code(), Some(1));
        }
        strace.wait().unwrap();
        drop(server);
        assert_held(&host.start(), &[held]);
    }
}
