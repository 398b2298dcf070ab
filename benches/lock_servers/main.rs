//! How fast locks are, beside what else people take for locks.
//!
//! Starts this server, the same listener with an answer that does nothing (what the machine
//! and the listener allow), and redis-server and etcd where they are installed. Each
//! figure is the median of some rounds; in a round all servers take their turn, so that a
//! noisy machine is noisy for all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark waits, and may fail"
)]

mod clients;
mod servers;
#[path = "../../tests/wire.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod wire;
mod workloads;

use servers::{Kind, Server};
use workloads::{Sharing, hand_over, pairs};

const ROUNDS: usize = 5;

fn main() {
    if std::env::args().any(|arg| arg == servers::NO_OP) {
        return servers::run_no_op();
    }
    // 4,000 clients have as many sockets.
    rdlm::server::limits::raise_open_files_limit();
    in_memory();
    println!();
    on_disk();
}

fn in_memory() {
    use Kind::{Etcd, NoOp, Rdlm, Redis, TinyHttp};
    let table = Table::begin(
        &[Rdlm, NoOp, TinyHttp, Redis, Etcd],
        "rdlm | no-op | on tiny_http | Redis | etcd",
    );
    for (clients, who) in CLIENTS {
        let what = format!("acquire and release/s, {who}");
        table.line(&what, &table.kinds, &|server| pairs(server, clients, Sharing::Nothing));
    }
    let what = "acquire and release/s, 16 clients, one resource";
    table.line(what, &[Rdlm, Redis, Etcd], &|server| pairs(server, 16, Sharing::Exclusive));
    let what = "acquire and release/s, 16 readers of one resource";
    table.line(what, &[Rdlm], &|server| pairs(server, 16, Sharing::Readers));
    let what = "acquire and release/s, 64 clients, a semaphore of 8";
    table.line(what, &[Rdlm], &|server| pairs(server, 64, Sharing::SemaphoreOf8));
    for waiters in [100, 4000] {
        let among = if waiters > 1000 { &[Rdlm][..] } else { &[Rdlm, Etcd] };
        let what = format!("hand-over/s, {waiters} waiting");
        table.line(&what, among, &|server| hand_over(server, waiters));
    }
}

/// Redis has `appendfsync always`.
fn on_disk() {
    let kinds = [Kind::RdlmOnDisk, Kind::RedisOnDisk];
    let table = Table::begin(&kinds, "rdlm on disk | Redis on disk");
    for (clients, who) in CLIENTS {
        let what = format!("acquire and release/s, {who}");
        table.line(&what, &kinds, &|server| pairs(server, clients, Sharing::Nothing));
    }
    let what = "acquire and release/s, 16 clients, one resource";
    table.line(what, &kinds, &|server| pairs(server, 16, Sharing::Exclusive));
}

const CLIENTS: [(usize, &str); 3] =
    [(1, "1 client"), (16, "16 clients, a resource each"), (64, "64 clients, a resource each")];

/// Servers that are measured side by side.
struct Table {
    kinds: Vec<Kind>,
    servers: Vec<Option<Server>>,
}

impl Table {
    fn begin(kinds: &[Kind], titles: &str) -> Self {
        println!("| median of {ROUNDS} rounds | {titles} | rdlm / Redis |");
        println!("|---|{}---|", "---|".repeat(kinds.len()));
        let servers = kinds.iter().map(|kind| Server::start(*kind)).collect();
        Self { kinds: kinds.to_vec(), servers }
    }

    fn line(&self, what: &str, among: &[Kind], work: &dyn Fn(&Server) -> f64) {
        let mut rates = vec![Vec::new(); self.kinds.len()];
        for _ in 0..ROUNDS {
            for (server, rates) in self.servers.iter().zip(&mut rates) {
                if let Some(server) = server.as_ref().filter(|s| among.contains(&s.kind)) {
                    rates.push(work(server));
                }
            }
        }
        let medians: Vec<_> = rates.into_iter().map(median).collect();
        let of = |wanted: [Kind; 2]| {
            let at = self.kinds.iter().position(|kind| wanted.contains(kind));
            at.and_then(|at| medians[at])
        };
        let cell = |rate: &Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.0}"));
        let cells: Vec<_> = medians.iter().map(cell).collect();
        let ratio = match (of([Kind::Rdlm, Kind::RdlmOnDisk]), of([Kind::Redis, Kind::RedisOnDisk]))
        {
            (Some(rdlm), Some(redis)) => format!("{:.2}", rdlm / redis),
            _ => String::new(),
        };
        println!("| {what} | {} | {ratio} |", cells.join(" | "));
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
