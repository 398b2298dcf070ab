//! One run: a server, clients, faults, and the history of it.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::client::{Client, Record};
use crate::history::{Call, FaultKind, History, Log, Span};
use crate::nemesis::{Nemesis, Scratch};
use crate::proxy::Proxy;
use crate::server::{Server, Setup};
use crate::witness;
use crate::workloads::{self, Round};

/// How many clients do what, and whether they come through the proxy.
pub(crate) type Clients = &'static [(u32, Way, Round)];

const CLIENTS: Clients = &[
    (4, Way::Direct, workloads::mixed),
    (4, Way::Proxy, workloads::mixed),
    (2, Way::Direct, workloads::line),
    (2, Way::Direct, workloads::departure),
    (1, Way::Direct, workloads::keys),
    (1, Way::Proxy, workloads::keys),
    (1, Way::Direct, workloads::comeback),
    (2, Way::Direct, workloads::expiry),
    (2, Way::Direct, workloads::keeper),
    (3, Way::Direct, workloads::deletion),
    (1, Way::Direct, workloads::observer),
];

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Direct,
    Proxy,
}

/// Says which client a process of its own is: address, number and seed, milliseconds.
pub(crate) const VICTIM: &str = "RDLM_TORTURE_CLIENT";

/// Another build of the server, to put that to the torture.
const BINARY: &str = "RDLM_TORTURE_BINARY";

pub(crate) fn binary() -> PathBuf {
    env::var_os(BINARY).unwrap_or(env!("CARGO_BIN_EXE_rdlm").into()).into()
}

/// How one run goes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) binary: PathBuf,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) durable: bool,
    /// On a file system of its own, which can be filled.
    pub(crate) small_disk: bool,
    pub(crate) faults: Vec<FaultKind>,
    pub(crate) clients: Clients,
}

impl Plan {
    pub(crate) fn new(seed: u64, time: Duration, durable: bool, faults: &[FaultKind]) -> Self {
        let (binary, faults) = (binary(), faults.to_vec());
        Self { binary, seed, time, durable, small_disk: false, faults, clients: CLIENTS }
    }

    /// As the seed says.
    pub(crate) fn random(seed: u64, time: Duration) -> Self {
        use FaultKind::{
            Blackhole, CutConnections, DelayConnections, DiskFull, DiskRefuses, Kill, StopClient,
            StopServer, Terminate,
        };
        let mut rng = Rng::with_seed(seed);
        let durable = rng.u8(..3) > 0;
        let mut faults = vec![CutConnections, DelayConnections, Blackhole, StopClient];
        // Faults that make everything uncertain are not part of every run.
        if rng.bool() {
            faults.extend([Kill, Kill, Kill, Terminate]);
        }
        if rng.bool() {
            faults.push(StopServer);
        }
        let small_disk = durable && rng.u8(..4) == 0;
        if durable && rng.u8(..3) == 0 {
            faults.push(DiskRefuses);
        }
        if small_disk {
            faults.extend([DiskFull, DiskFull]);
        }
        Self { small_disk, ..Self::new(seed, time, durable, &faults) }
    }
}

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) history: History,
    /// What the server said that is worth reading.
    pub(crate) log: Vec<String>,
    /// It ended by itself, or did not start again.
    pub(crate) ended: bool,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let scratch = Scratch::new(plan.small_disk);
    let mut faults = plan.faults.clone();
    faults.retain(|kind| *kind != FaultKind::DiskFull || scratch.is_small());
    let data_dir = plan.durable.then(|| scratch.path().join("data"));
    let restart_grace = Duration::from_secs(1);
    let mut server = Server::start(Setup {
        binary: plan.binary.clone(),
        data_dir,
        restart_grace,
        options: Vec::new(),
        clock_ahead: Duration::ZERO,
    });
    let proxy = Proxy::start(server.address());
    let pid = server.pid();
    let (log, ended) = (Log::default(), AtomicBool::new(false));
    let end = Instant::now() + plan.time;
    let mut rng = Rng::with_seed(plan.seed);
    let mut victims: Vec<_> =
        (0..2).map(|n| victim(server.address(), n, rng.u64(..), plan.time)).collect();
    let faults = thread::scope(|scope| {
        // Also if a client panics, or its witnesses would watch for ever.
        let ending = Ending(&ended);
        scope.spawn(|| witness::watch_the_processor(&log, &ended));
        scope.spawn(|| witness::watch_the_threads(&log, &pid, &ended));
        if plan.durable {
            scope.spawn(|| witness::watch_the_disk(&log, scratch.path(), &ended));
        }
        for errors in victims.iter_mut().filter_map(|victim| victim.stderr.take()) {
            scope.spawn(|| collect(BufReader::new(errors), &log));
        }
        let addresses = [server.address(), proxy.address()];
        let clients = start(scope, clients(plan.clients, &log, addresses, &mut rng), end);
        let rng = rng.fork();
        let (server, victims) = (&mut server, &victims);
        let nemesis = Nemesis { rng, kinds: &faults, server, proxy: &proxy, victims };
        let faults = nemesis.rage(end);
        clients.into_iter().for_each(|client| client.join().unwrap());
        drop(ending);
        faults
    });
    victims.iter_mut().for_each(|victim| drop(victim.wait()));
    let ended = !server.is_running();
    let history = log.into_history(plan.durable, restart_grace, faults);
    Outcome { history, log: server.log(), ended }
}

/// Sets the mark when it is dropped.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client, its number among those that do the same, and what they do.
pub(crate) type Worker<'r> = (Client<'r>, u32, Round);

/// Each goes its rounds until the end.
pub(crate) fn start<'scope, 'r: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    workers: Vec<Worker<'r>>,
    end: Instant,
) -> Vec<ScopedJoinHandle<'scope, ()>> {
    let workers = workers.into_iter().map(|(mut client, number, round)| {
        scope.spawn(move || {
            while Instant::now() < end {
                round(&mut client, number);
            }
        })
    });
    workers.collect()
}

fn clients<'r>(
    kinds: Clients,
    log: &'r Log,
    [direct, proxied]: [SocketAddr; 2],
    rng: &mut Rng,
) -> Vec<Worker<'r>> {
    let kinds = kinds.iter().enumerate().flat_map(|(kind, (count, way, round))| {
        (0..*count).map(move |n| (kind as u32, n, *way, *round))
    });
    let clients = kinds.map(|(kind, n, way, round)| {
        let address = if way == Way::Direct { direct } else { proxied };
        let number = (kind + 1) * 100 + n;
        let client = Client::new(log, number, address, way == Way::Direct, rng.u64(..));
        // Proxied and direct clients do not share the resources that are for a few.
        let number = if way == Way::Direct { n } else { n + 10 };
        (client, number, round)
    });
    clients.collect()
}

/// A client in a process of its own, which may be stopped.
fn victim(address: SocketAddr, number: u32, seed: u64, time: Duration) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_client_in_a_process_of_its_own", "--nocapture"])
        .env(VICTIM, format!("{address} {number} {seed} {}", time.as_millis()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The body of that process: it writes its calls where its parent reads.
pub(crate) fn be_a_victim(orders: &str) {
    let mut orders = orders.split(' ');
    let address = orders.next().unwrap().parse().unwrap();
    let mut number = || orders.next().unwrap().parse::<u64>().unwrap();
    let (own, seed, time) = (number() as u32, number(), number());
    let end = Instant::now() + Duration::from_millis(time);
    let mut client = Client::new(&Parent, 1 + own, address, false, seed);
    while Instant::now() < end {
        workloads::mixed(&mut client, own);
    }
}

struct Parent;

impl Record for Parent {
    fn record(&self, call: Call) {
        eprintln!("{}", serde_json::to_string(&call).unwrap());
    }

    /// No bound on time is laid on its calls.
    fn held_up(&self, _: Span) {}
}

fn collect(lines: impl BufRead, log: &Log) {
    for line in lines.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(call) => log.call(call),
            Err(_) => println!("a client said: {line}"),
        }
    }
}
