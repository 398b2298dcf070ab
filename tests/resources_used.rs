//! What locks cost: memory, processor time, threads.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::harness::{Server, wait_until};

/// How often the threads of the server were given the processor.
fn context_switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    tasks.map(|task| of_task(task.unwrap())).sum()
}

#[test]
fn an_idle_server_does_nothing() {
    let server = Server::start();
    let mut idle = server.connect();
    idle.acquire("foo", 0.0, 3600.0).lock_path();
    // The reaper has had something to do before.
    idle.acquire("short", 0.0, 0.01).lock_path();
    wait_until("a lock expires", || server.locks("short").is_empty());
    let _waiter = server.join_line("foo");
    // Threads that wait for another connection end after a while.
    wait_until("only busy threads are left", || server.threads_named("connection") == 2);
    let before = context_switches(server.pid());
    thread::sleep(Duration::from_secs(2));
    assert_eq!(context_switches(server.pid()), before, "somebody woke up");
}

#[test]
fn released_locks_leave_no_memory_behind() {
    let server = Server::start();
    let mut client = server.connect();
    let mut pairs = |count: usize| {
        for n in 0..count {
            let lock = client.acquire(&format!("r{}", n % 100), 0.0, 3600.0).lock_path();
            assert_eq!(client.request("DELETE", &lock, "").status, 204);
        }
        server.status_field("VmRSS:")
    };
    let before = pairs(2_000);
    let after = pairs(20_000);
    // A leak of the 300 bytes that a held lock takes would be 6 MB.
    assert!(after < before + 2_000, "{before} KiB before, {after} KiB after");
}

#[test]
fn threads_end_with_their_connections() {
    let server = Server::start();
    let idle = server.threads_named("connection");
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.request("GET", "/", "").status, 200);
    }
    assert!(server.threads_named("connection") >= idle + 50);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    drop(clients);
    wait_until("threads end", || server.threads_named("connection") <= idle);
    wait_until("sockets are closed", || descriptors() < 20);
}
