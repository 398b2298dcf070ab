//! How fast locks are, beside what else people take for locks.
//!
//! Starts this server, the same listener with an answer that does nothing (what the machine
//! and the listener allow), and redis-server and etcd where they are installed. Each
//! figure is the median of some rounds; in a round all servers take their turn, so that a
//! noisy machine is noisy for all of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails may panic")]

mod clients;
mod servers;
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
    let kinds = [Kind::Rdlm, Kind::NoOp, Kind::Redis, Kind::Etcd];
    let servers: Vec<Option<Server>> = kinds.into_iter().map(Server::start).collect();
    let measure = |what: &str, among: &[Kind], work: &dyn Fn(&Server) -> f64| {
        let mut rates = vec![Vec::new(); kinds.len()];
        for _ in 0..ROUNDS {
            for (server, rates) in servers.iter().zip(&mut rates) {
                if let Some(server) = server.as_ref().filter(|s| among.contains(&s.kind)) {
                    rates.push(work(server));
                }
            }
        }
        let medians: Vec<_> = rates.into_iter().map(median).collect();
        println!("{}", line(what, &medians));
    };
    use Kind::{Etcd, NoOp, Rdlm, Redis};
    println!("| median of {ROUNDS} rounds | rdlm | no-op | Redis | etcd | rdlm / Redis |");
    println!("|---|---|---|---|---|---|");
    for (clients, who) in
        [(1, "1 client"), (16, "16 clients, a resource each"), (64, "64 clients, a resource each")]
    {
        let what = format!("acquire and release/s, {who}");
        let work = |server: &_| pairs(server, clients, Sharing::Nothing);
        measure(&what, &[Rdlm, NoOp, Redis, Etcd], &work);
    }
    let what = "acquire and release/s, 16 clients, one resource";
    measure(what, &[Rdlm, Redis, Etcd], &|server| pairs(server, 16, Sharing::Exclusive));
    let what = "acquire and release/s, 16 readers of one resource";
    measure(what, &[Rdlm], &|server| pairs(server, 16, Sharing::Readers));
    let what = "acquire and release/s, 64 clients, a semaphore of 8";
    measure(what, &[Rdlm], &|server| pairs(server, 64, Sharing::SemaphoreOf8));
    for waiters in [100, 4000] {
        let among = if waiters > 1000 { &[Rdlm][..] } else { &[Rdlm, Etcd] };
        let what = format!("hand-over/s, {waiters} waiting");
        measure(&what, among, &|server| hand_over(server, waiters));
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A line of the table; a server that was not measured has an empty cell.
fn line(what: &str, per_second: &[Option<f64>]) -> String {
    let cell = |rate: &Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.0}"));
    let cells: Vec<_> = per_second.iter().map(cell).collect();
    let ratio = match (per_second[0], per_second[2]) {
        (Some(rdlm), Some(redis)) => format!("{:.2}", rdlm / redis),
        _ => String::new(),
    };
    format!("| {what} | {} | {ratio} |", cells.join(" | "))
}
