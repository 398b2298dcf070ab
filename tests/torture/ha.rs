//! The same with three servers on three etcd: clients at every server, every link to etcd by way
//! of a proxy, and an audit of all that was ever written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::Value;

use crate::auditor::{self, Audit};
use crate::client::Client;
use crate::control_group::ControlGroup;
use crate::credentials::Credentials;
use crate::etcd::Etcd;
use crate::history::{Fault, FaultKind, Log, Outcome as Answered, Span, Time};
use crate::proxy::{Cut, Proxy};
use crate::run::{self, Ending, Outcome, Worker};
use crate::server::{Server, Setup};
use crate::wire::Connection;
use crate::witness;
use crate::workloads::{self, Round};

/// How many clients do what; they are spread over the servers.
pub(crate) type Clients = &'static [(u32, Round)];

const CLIENTS: Clients = &[
    (6, workloads::mixed),
    (2, workloads::line),
    (1, workloads::keys),
    (1, workloads::comeback),
    (2, workloads::expiry),
    (3, workloads::keeper),
    (3, workloads::deletion),
    (1, workloads::observer),
];

/// How far the monotonic clock of each server is ahead of this process's, where that can be had:
/// as if their hosts had been started at different times.
const CLOCKS_AHEAD: [Duration; 3] =
    [Duration::ZERO, Duration::from_secs(86_417), Duration::from_secs(400_000_000)];

const MEMBERS: usize = 3;

/// `--failover-after` of all servers at first.
const FAILOVER: Duration = Duration::from_secs(1);

/// What it may be changed to, in seconds.
const PACES: [&str; 3] = ["1", "2", "3"];

const PACE: &str = "--failover-after";

const ACCEPT: &str = "--etcd-accept-restored";

/// By then all servers have seen what etcd shows, and refuse it if they know better.
const ALL_REFUSE: Duration = Duration::from_secs(15);

/// By then one is active again, and all know it.
const RECOVERY: Duration = Duration::from_secs(60);

/// Those of every run; some only in some, because nothing can be audited after them.
const FAULTS: [FaultKind; 18] = [
    FaultKind::Kill,
    FaultKind::Terminate,
    FaultKind::StopServer,
    FaultKind::StopServerForLong,
    FaultKind::CutOffFromEtcd,
    FaultKind::EtcdIsHeardNoMore,
    FaultKind::OneMemberSwallows,
    FaultKind::MemberKilled,
    FaultKind::LeaderFrozen,
    FaultKind::MajorityAway,
    FaultKind::EtcdSlow,
    FaultKind::CutConnections,
    FaultKind::StandbyKilled,
    FaultKind::EtcdEmptied,
    FaultKind::EtcdRestored,
    FaultKind::EtcdRekeyed,
    FaultKind::PaceChanged,
    FaultKind::NoMoreThreads,
];

/// How one run goes.
#[derive(Debug, Clone)]
pub(crate) struct HaPlan {
    pub(crate) binary: PathBuf,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) faults: Vec<FaultKind>,
    pub(crate) clients: Clients,
}

impl HaPlan {
    pub(crate) fn new(seed: u64, time: Duration, faults: &[FaultKind]) -> Self {
        Self { binary: run::binary(), seed, time, faults: faults.to_vec(), clients: CLIENTS }
    }

    /// As the seed says.
    pub(crate) fn random(seed: u64, time: Duration) -> Self {
        let mut faults = FAULTS.to_vec();
        if Rng::with_seed(seed).u8(..3) == 0 {
            faults.extend([FaultKind::Compacted, FaultKind::EtcdFull]);
        }
        Self::new(seed, time, &faults)
    }
}

/// Servers with their ways to etcd.
struct Cluster {
    etcd: Etcd,
    nodes: Vec<Node>,
    credentials: Credentials,
    /// When the operator accepted that etcd had lost writes.
    accepted: Vec<Time>,
}

struct Node {
    server: Server,
    /// One to each member.
    proxies: Vec<Proxy>,
    /// Where it gets no more threads; `None` where the test may make no control groups.
    group: Option<ControlGroup>,
}

/// `None` where etcd is not installed.
pub(crate) fn run(plan: &HaPlan) -> Option<(Outcome, Option<Audit>)> {
    let quota = plan.faults.contains(&FaultKind::EtcdFull);
    let mut options = vec!["--bcrypt-cost", "4"];
    options.extend(["--quota-backend-bytes", "33554432"].iter().filter(|_| quota));
    let etcd = Etcd::start_with(MEMBERS, &options)?;
    let credentials = Credentials::new();
    let nodes = CLOCKS_AHEAD.map(|ahead| Node::start(&etcd, &plan.binary, ahead, &credentials));
    let mut cluster = Cluster { etcd, nodes: nodes.into(), credentials, accepted: Vec::new() };
    cluster.wait_until_well();
    let (log, ended) = (Log::default(), AtomicBool::new(false));
    let end = Instant::now() + plan.time;
    let mut rng = Rng::with_seed(plan.seed);
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.server.address()).collect();
    let faults = thread::scope(|scope| {
        let ending = Ending(&ended);
        scope.spawn(|| witness::watch_the_processor(&log, &ended));
        let clients = run::start(scope, clients(plan.clients, &log, &addresses, &mut rng), end);
        let faults = cluster.rage(rng.fork(), &plan.faults, end);
        clients.into_iter().for_each(|client| client.join().unwrap());
        drop(ending);
        faults
    });
    let ended = cluster.nodes.iter_mut().any(|node| !node.server.is_running());
    let mut history = log.into_history(true, Duration::ZERO, faults);
    history.accepted = cluster.accepted.clone();
    // What was granted before etcd lost it is not in its history.
    let kept = history.accepted.last().copied().unwrap_or_default();
    let granted = history.calls.iter().filter_map(|call| match call.outcome {
        Answered::Granted { token, .. } if call.returned >= kept => Some(token),
        _ => None,
    });
    let granted: Vec<_> = granted.collect();
    let lost = history
        .faults
        .iter()
        .any(|fault| matches!(fault.kind, FaultKind::Compacted | FaultKind::EtcdFull));
    let audit = (!lost).then(|| auditor::audit(&cluster.etcd, &granted));
    let said = cluster.nodes.iter().flat_map(|node| node.server.log()).collect();
    Some((Outcome { history, log: said, ended }, audit))
}

fn clients<'r>(
    kinds: Clients,
    log: &'r Log,
    addresses: &[SocketAddr],
    rng: &mut Rng,
) -> Vec<Worker<'r>> {
    let kinds = kinds.iter().enumerate();
    let each =
        kinds.flat_map(|(kind, (count, round))| (0..*count).map(move |n| (kind as u32, n, *round)));
    let clients = each.enumerate().map(|(place, (kind, n, round))| {
        let address = addresses[place % addresses.len()];
        (Client::new(log, (kind + 1) * 100 + n, address, false, rng.u64(..)), n, round)
    });
    clients.collect()
}

impl Node {
    fn start(etcd: &Etcd, binary: &Path, clock_ahead: Duration, credentials: &Credentials) -> Self {
        let proxies: Vec<_> = addresses(etcd).into_iter().map(Proxy::start).collect();
        let urls = proxies.iter().map(|proxy| format!("http://{}", proxy.address()));
        let urls = urls.collect::<Vec<_>>().join(",");
        let mut options = ["--etcd", &urls, PACE, PACES[0]].map(String::from).to_vec();
        options.extend(credentials.options());
        let (binary, data_dir, restart_grace) = (binary.into(), None, Duration::ZERO);
        let setup = Setup { binary, data_dir, restart_grace, options, clock_ahead };
        Self { server: Server::start(setup), proxies, group: ControlGroup::new() }
    }

    /// What `/health` says, if it answers.
    fn health(&self) -> Option<Value> {
        let mut connection =
            Connection::open(self.server.address(), Duration::from_secs(1)).ok()?;
        connection.send("GET /health HTTP/1.1\r\nHost: t\r\n\r\n").ok()?;
        serde_json::from_slice(&connection.response().ok()?.body).ok()
    }

    /// The number of the `head` that it asks the operator to accept, if it does.
    fn asks_to_accept(&self) -> Option<String> {
        let health = self.health()?;
        let (_, number) = health["detail"].as_str()?.split_once(ACCEPT)?;
        Some(number.trim_start().split(':').next()?.into())
    }

    /// What `/health` says of its role, if it answers.
    fn role(&self) -> Option<String> {
        let answer = self.health()?;
        // A standby is well if it knows who is active.
        let known = answer["active"].is_string();
        known.then(|| answer["role"].as_str().unwrap_or_default().into())
    }
}

impl Cluster {
    /// Until one is active and all know it.
    fn wait_until_well(&self) {
        let end = Instant::now() + RECOVERY;
        while !self.is_well() {
            let health: Vec<_> = self.nodes.iter().map(Node::health).collect();
            assert!(Instant::now() < end, "the servers do not recover: {health:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_well(&self) -> bool {
        let roles: Vec<_> = self.nodes.iter().filter_map(Node::role).collect();
        let active = roles.iter().filter(|role| *role == "active").count();
        roles.len() == self.nodes.len() && active == 1
    }

    fn active(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.role().as_deref() == Some("active"))
    }

    fn rage(&mut self, mut rng: Rng, kinds: &[FaultKind], end: Instant) -> Vec<Fault> {
        let mut faults = Vec::new();
        while !kinds.is_empty() {
            let quiet = Duration::from_millis(rng.u64(300..1500));
            if Instant::now() + quiet + FAILOVER * 3 > end {
                break;
            }
            thread::sleep(quiet);
            let kind = kinds[rng.usize(..kinds.len())];
            let from = Time::now();
            self.inflict(kind, &mut rng);
            self.wait_until_well();
            // What was on its way has come to an end.
            thread::sleep(Duration::from_millis(300));
            faults.push(Fault { kind, span: Span { from, to: Time::now() } });
        }
        faults
    }

    fn inflict(&mut self, kind: FaultKind, rng: &mut Rng) {
        let Some(active) = self.active() else { return };
        let member = rng.usize(..MEMBERS);
        let for_a_while = |shares: u32| thread::sleep(FAILOVER * shares / 2);
        let node = &mut self.nodes[active];
        match kind {
            FaultKind::Kill => assert!(node.server.restart(Signal::KILL)),
            FaultKind::Terminate => assert!(node.server.restart(Signal::TERM)),
            FaultKind::StandbyKilled => {
                let servers = self.nodes.len();
                let standby = (active + 1 + rng.usize(..servers - 1)) % servers;
                assert!(self.nodes[standby].server.restart(Signal::KILL));
            }
            FaultKind::StopServer | FaultKind::StopServerForLong => {
                node.server.signal(Signal::STOP);
                for_a_while(if kind == FaultKind::StopServer { 1 } else { 6 });
                node.server.signal(Signal::CONT);
            }
            FaultKind::CutOffFromEtcd => {
                node.proxies.iter().for_each(|proxy| proxy.swallow(true));
                for_a_while(6);
                node.mend();
            }
            FaultKind::EtcdIsHeardNoMore => {
                node.proxies.iter().for_each(|proxy| proxy.swallow_answers(true));
                for_a_while(rng.u32(2..7));
                node.mend();
            }
            FaultKind::OneMemberSwallows => {
                node.proxies[member].swallow(true);
                for_a_while(3);
                node.mend();
            }
            FaultKind::CutConnections => {
                for proxy in &node.proxies {
                    let kinds = [None, Some(Cut::AtOnce), Some(Cut::InTheNextMessage)];
                    proxy.cut(|| kinds[rng.usize(..3)]);
                }
            }
            FaultKind::EtcdSlow => {
                let delay = Duration::from_millis(rng.u64(20..400));
                let all = self.nodes.iter().flat_map(|node| &node.proxies);
                all.clone().for_each(|proxy| proxy.delay(delay));
                for_a_while(4);
                all.for_each(|proxy| proxy.delay(Duration::ZERO));
            }
            FaultKind::MemberKilled => {
                self.etcd.kill(member);
                for_a_while(2);
                self.etcd.start_again(member);
                // The next fault may ask each member for something.
                self.etcd.wait_until_healthy();
            }
            FaultKind::LeaderFrozen => {
                let leader = leader(&self.etcd).unwrap_or(member);
                self.etcd.signal(leader, "-STOP");
                for_a_while(4);
                self.etcd.signal(leader, "-CONT");
            }
            FaultKind::MajorityAway => {
                let away = [member, (member + 1) % MEMBERS];
                away.iter().for_each(|member| self.etcd.signal(*member, "-STOP"));
                for_a_while(rng.u32(2..10));
                away.iter().for_each(|member| self.etcd.signal(*member, "-CONT"));
            }
            FaultKind::EtcdEmptied => {
                self.etcd.empty();
                self.credentials.are_on = false;
                self.accept_loss();
            }
            FaultKind::EtcdRestored => {
                let snapshot = self.etcd.save_snapshot();
                for_a_while(rng.u32(2..5));
                self.etcd.restore_snapshot(&snapshot);
                self.accept_loss();
            }
            FaultKind::EtcdRekeyed => self.credentials.change(&self.etcd, rng),
            FaultKind::PaceChanged => {
                let node = &mut self.nodes[rng.usize(..CLOCKS_AHEAD.len())];
                assert!(node.server.restart_with(PACE, rng.choice(PACES)));
            }
            FaultKind::NoMoreThreads => {
                let Some(group) = &node.group else { return };
                group.hold(&node.server, rng.u64(..4));
                for_a_while(rng.u32(2..8));
                group.let_go();
            }
            FaultKind::Compacted => compact(&self.etcd),
            FaultKind::EtcdFull => {
                fill(&self.etcd);
                for_a_while(2);
                make_room(&self.etcd);
            }
            other => unreachable!("{other:?} is not for several servers"),
        }
    }

    /// As docs/high-availability.md says, after all servers have refused what etcd shows. One that
    /// saw only what the snapshot has goes on instead, and those that refuse are told to follow.
    fn accept_loss(&mut self) {
        let began = Instant::now();
        let mut has_accepted = false;
        loop {
            let waited = began.elapsed();
            let asked: Vec<_> = self.nodes.iter().map(Node::asks_to_accept).collect();
            if asked.iter().all(Option::is_some) || waited > ALL_REFUSE {
                has_accepted |= self.accept(asked);
            }
            if (has_accepted || waited > ALL_REFUSE) && self.is_well() {
                return;
            }
            let health: Vec<_> = self.nodes.iter().map(Node::health).collect();
            assert!(waited < RECOVERY, "the servers do not accept the loss: {health:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Restarts those that ask for it, and returns whether there is one.
    fn accept(&mut self, asked: Vec<Option<String>>) -> bool {
        if asked.iter().all(Option::is_none) {
            return false;
        }
        self.accepted.push(Time::now());
        for (node, number) in self.nodes.iter_mut().zip(asked) {
            if number.is_some() {
                assert!(node.server.restart_with(ACCEPT, number.as_deref()));
                node.server.set_option(ACCEPT, None);
            }
        }
        true
    }
}

impl Node {
    fn mend(&self) {
        for proxy in &self.proxies {
            proxy.swallow(false);
            proxy.swallow_answers(false);
            proxy.cut(|| Some(Cut::AtOnce));
        }
    }
}

/// Which member leads, if that can be told.
fn leader(etcd: &Etcd) -> Option<usize> {
    let status = etcd.ctl(&["endpoint", "status", "-w", "json"])?;
    let status: Value = serde_json::from_str(&status).ok()?;
    let leads = |of: &&Value| of["Status"]["leader"] == of["Status"]["header"]["member_id"];
    let leader = status.as_array()?.iter().find(leads)?;
    let leader = leader["Endpoint"].as_str()?.to_string();
    etcd.endpoints().split(',').position(|endpoint| endpoint == leader)
}

/// Has it forget all but the latest revision.
fn compact(etcd: &Etcd) {
    let revision = etcd.ctl(&["get", "/", "-w", "json"]).and_then(|answer| {
        let answer: Value = serde_json::from_str(&answer).ok()?;
        answer["header"]["revision"].as_u64()
    });
    // It may not answer at this moment.
    if let Some(revision) = revision {
        etcd.ctl(&["compact", &revision.to_string()]);
    }
}

/// Writes until there is no room any more.
fn fill(etcd: &Etcd) {
    let ballast = "x".repeat(100_000);
    let put = |n: u32| etcd.ctl(&["put", &format!("/ballast/{n}"), &ballast]).is_some();
    let full = (0..1000).position(|n| !put(n));
    assert!(full.is_some(), "etcd is never full");
}

/// As docs/high-availability.md says.
fn make_room(etcd: &Etcd) {
    etcd.ctl(&["del", "--prefix", "/ballast/"]);
    compact(etcd);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
}

fn addresses(etcd: &Etcd) -> Vec<SocketAddr> {
    let endpoints = etcd.endpoints();
    let each = endpoints.split(',').filter_map(|endpoint| endpoint.strip_prefix("http://"));
    each.map(|address| address.parse().unwrap()).collect()
}
