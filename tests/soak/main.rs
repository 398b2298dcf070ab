//! Mixed load for a given time, with clients that leave, stall and are killed. At no time are
//! there two holders, and at the end nothing is left over.
//!
//! `cargo bench --bench soak -- --minutes 20 --seed 1`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a soak waits, fails, and tells how it ended"
)]

mod client;
mod load;
mod record;
mod server;
#[path = "../wire.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod wire;
mod witness;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use fastrand::Rng;
use pico_args::Arguments;
use tempfile::TempDir;

use load::Worker;
use record::Record;
use server::{Server, Usage};

/// How many workers do what.
const WORKERS: [(usize, Round); 8] = [
    (6, load::steady),
    (2, load::churn),
    (4, load::leave_line),
    (2, load::leave_early),
    (2, load::kill_process),
    (2, load::expire),
    (1, load::administrate),
    (1, load::talk_nonsense),
];

type Round = fn(&mut Worker<'_>) -> io::Result<()>;

fn main() -> ExitCode {
    let mut args = env::args().skip_while(|arg| arg != load::VICTIM).skip(1);
    if env::args().any(|arg| arg == load::VICTIM) {
        load::be_a_victim(&mut args);
        return ExitCode::SUCCESS;
    }
    let mut args = Arguments::from_env();
    let minutes: f64 = args.value_from_str("--minutes").unwrap_or(20.0);
    let seed: u64 = args.value_from_str("--seed").unwrap_or_else(|_| Rng::new().u64(..));
    println!("soaking for {minutes} minutes, --seed {seed}");

    let dir = TempDir::new().unwrap();
    let holds = soak(Duration::from_secs_f64(minutes * 60.0), seed, dir.path());
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether all that has to hold did hold.
fn soak(time: Duration, seed: u64, dir: &Path) -> bool {
    let server = Server::start();
    let record = Record::default();
    let before = server.usage();
    let warm = load_for(time, seed, dir, &server, &record);
    let (after, left) = wait_until_nothing_is_left(&server, before);
    record.print();
    print_usage(&[("before", before), ("warm", warm), ("after", after)]);
    if let Some(what) = &left {
        println!("VIOLATED: left over: {what}");
    }
    let grown = after.memory_kib > warm.memory_kib * 6 / 5 + 4096;
    if grown {
        println!("VIOLATED: the memory has grown");
    }
    let stopped = server.stop();
    println!("stopped by SIGTERM after {stopped:?}");
    let holds = left.is_none() && !grown && stopped.is_some() && !record.is_violated();
    println!("{}", if holds { "all held" } else { "FAILED" });
    holds
}

/// Runs all workers; what the server takes after a fourth of the time.
fn load_for(time: Duration, seed: u64, dir: &Path, server: &Server, record: &Record) -> Usage {
    let end = AtomicBool::new(false);
    let rounds = WORKERS.iter().flat_map(|(count, round)| vec![*round; *count]);
    thread::scope(|scope| {
        for (number, round) in rounds.enumerate() {
            let address = server.address;
            let rng = Rng::with_seed(seed ^ number as u64);
            let (end, mut worker) =
                (&end, Worker { number, address, dir, record, rng, kept: None, round: 0 });
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) && !record.is_violated() {
                    worker.round += 1;
                    if let Err(error) = round(&mut worker) {
                        record.require(false, || format!("worker {number}: {error}"));
                    }
                }
            });
        }
        sleep_unless_violated(time / 4, record);
        let warm = server.usage();
        sleep_unless_violated(time * 3 / 4, record);
        end.store(true, Ordering::Relaxed);
        warm
    })
}

fn sleep_unless_violated(time: Duration, record: &Record) {
    let end = Instant::now() + time;
    while Instant::now() < end && !record.is_violated() {
        thread::sleep(Duration::from_millis(200).min(end - Instant::now()));
    }
}

/// All clients are gone: the locks of those that were killed expire, threads end. What the server
/// takes then, and what is still there after half a minute.
fn wait_until_nothing_is_left(server: &Server, before: Usage) -> (Usage, Option<String>) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        // Before the look at the locks, which takes a connection.
        let now = server.usage();
        let left = left_over(server, before, now);
        if left.is_none() || Instant::now() > end {
            return (now, left);
        }
        // Threads wait a second for another connection.
        thread::sleep(Duration::from_secs(2));
    }
}

fn left_over(server: &Server, before: Usage, now: Usage) -> Option<String> {
    if now.threads > before.threads || now.descriptors > before.descriptors {
        return Some(format!("{now:?}"));
    }
    let resources = client::connect(server.address)
        .and_then(|mut client| client.request("GET", "/resources", ""))
        .map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
    match resources {
        Ok(list) if !list.contains("\"name\"") => None,
        Ok(list) => Some(list),
        Err(error) => Some(error.to_string()),
    }
}

fn print_usage(usages: &[(&str, Usage)]) {
    println!("\n| the server | threads | descriptors | memory, KiB |\n|---|---|---|---|");
    for (when, usage) in usages {
        let Usage { threads, descriptors, memory_kib } = usage;
        println!("| {when} | {threads} | {descriptors} | {memory_kib} |");
    }
    println!();
}
