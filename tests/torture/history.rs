//! What the clients of one run saw: each call with its times and its outcome, and what was done
//! to the server meanwhile. A checker needs nothing else.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment on the host's monotonic clock, in nanoseconds: the same clock for all processes, so
/// that a client in a process of its own can log to the same history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Time(u64);

impl Time {
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self::default() + Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
    }

    pub(crate) fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The six modes of the VMS distributed lock manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Mode {
    Nl,
    Cr,
    Cw,
    Pr,
    Pw,
    Ex,
}

impl Mode {
    pub(crate) const ALL: [Self; 6] = [Self::Nl, Self::Cr, Self::Cw, Self::Pr, Self::Pw, Self::Ex];

    pub(crate) fn name(self) -> &'static str {
        ["NL", "CR", "CW", "PR", "PW", "EX"][self as usize]
    }

    /// Whether two locks in these modes must not be held at once. Written as the list of the
    /// pairs that conflict, so that it shares nothing with the server's table.
    pub(crate) fn conflicts(self, other: Self) -> bool {
        use Mode::{Cr, Cw, Ex, Pr, Pw};
        const PAIRS: [(Mode, Mode); 9] = [
            (Cr, Ex),
            (Cw, Pr),
            (Cw, Pw),
            (Cw, Ex),
            (Pr, Pw),
            (Pr, Ex),
            (Pw, Pw),
            (Pw, Ex),
            (Ex, Ex),
        ];
        PAIRS.contains(&(self, other)) || PAIRS.contains(&(other, self))
    }
}

/// A request for a lock. Its title is its own, except that all requests with one key have one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) title: String,
    pub(crate) mode: Mode,
    /// How many may hold in the mode EX.
    pub(crate) limit: usize,
    pub(crate) wait: Duration,
    pub(crate) lifetime: Duration,
    pub(crate) key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Action {
    Acquire(Wish),
    Get {
        uid: String,
    },
    Renew {
        uid: String,
        lifetime: Duration,
    },
    Release {
        uid: String,
    },
    /// `GET /resources/{resource}`
    List,
    /// `DELETE /resources/{resource}`
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// 201
    Granted { uid: String, token: u64 },
    /// What a GET of a lock or of a resource showed.
    Shown(Vec<Seen>),
    /// 200 or 204 for a change.
    Done,
    /// Another status: the call has had no effect.
    Refused(u16),
    /// The client ended the connection while it waited. `returned` is when that was done.
    Left,
    /// No whole answer: it may have happened, or may happen later, or never.
    Unknown,
}

/// A lock as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) uid: String,
    pub(crate) title: String,
    pub(crate) active: bool,
    pub(crate) token: Option<u64>,
    pub(crate) mode: Mode,
    pub(crate) limit: usize,
    /// As the latest of the requests with its key has it.
    pub(crate) wait: Duration,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) client: u32,
    pub(crate) resource: String,
    pub(crate) action: Action,
    /// Before the first byte was sent.
    pub(crate) sent: Time,
    /// After the last byte of the answer had come, or its failure was noticed.
    pub(crate) returned: Time,
    pub(crate) outcome: Outcome,
    /// Nothing of the test's own delays it: no proxy is on the way, and nobody stops the client.
    pub(crate) timely: bool,
}

impl Call {
    pub(crate) fn wish(&self) -> Option<&Wish> {
        match &self.action {
            Action::Acquire(wish) => Some(wish),
            _ => None,
        }
    }

    /// The lock that it names.
    pub(crate) fn uid(&self) -> Option<&str> {
        match &self.action {
            Action::Get { uid } | Action::Renew { uid, .. } | Action::Release { uid } => Some(uid),
            _ => None,
        }
    }

    pub(crate) fn shown(&self) -> &[Seen] {
        match &self.outcome {
            Outcome::Shown(seen) => seen,
            _ => &[],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum FaultKind {
    /// SIGKILL, and a new server on the same port.
    Kill,
    /// SIGTERM, and a new server: who waits is told, and locks are as after a kill.
    Terminate,
    StopServer,
    StopClient,
    CutConnections,
    DelayConnections,
    /// The proxy swallows what is sent, and then cuts.
    Blackhole,
    /// A limit of the file's size makes every write fail.
    DiskRefuses,
    /// A real file system without room.
    DiskFull,
    /// The active one of several servers, for three times `--failover-after`.
    StopServerForLong,
    /// The active server and etcd: nothing passes between them.
    CutOffFromEtcd,
    /// What etcd says does not come to the active server, which it hears.
    EtcdIsHeardNoMore,
    OneMemberSwallows,
    /// SIGKILL to a member of etcd, and the same one again.
    MemberKilled,
    /// SIGSTOP to the leader of etcd.
    LeaderFrozen,
    /// SIGSTOP to all members but one.
    MajorityAway,
    EtcdSlow,
    StandbyKilled,
    /// etcd forgets its history.
    Compacted,
    /// etcd has used up its quota, and is given room again.
    EtcdFull,
    /// The data of all members of etcd is removed, and the operator accepts that.
    EtcdEmptied,
    /// etcd goes back to a snapshot, and the operator accepts that.
    EtcdRestored,
    /// Authentication is switched on in etcd, or the servers' password changes.
    EtcdRekeyed,
    /// A server is started again with another `--failover-after`.
    PaceChanged,
    /// The active server gets no more threads from its control group.
    NoMoreThreads,
}

impl FaultKind {
    /// The server is another process afterwards.
    pub(crate) fn is_restart(self) -> bool {
        match self {
            Self::StopServer
            | Self::StopClient
            | Self::CutConnections
            | Self::DelayConnections
            | Self::Blackhole
            | Self::DiskRefuses
            | Self::DiskFull => false,
            // With several servers, another one may be active.
            _ => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) from: Time,
    pub(crate) to: Time,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// From before its first effect until the server had recovered.
    pub(crate) span: Span,
}

/// One run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct History {
    /// Locks survive a kill.
    pub(crate) durable: bool,
    /// What a lock gets at least after a restart.
    pub(crate) restart_grace: Duration,
    pub(crate) calls: Vec<Call>,
    pub(crate) faults: Vec<Fault>,
    /// When the machine did not let the test run, or its disk was slow.
    pub(crate) hiccups: Vec<Span>,
    /// When the operator accepted that the servers' store had lost writes: until then the servers
    /// have to refuse, afterwards nothing is certain that was before.
    #[serde(default)]
    pub(crate) accepted: Vec<Time>,
}

impl History {
    pub(crate) fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, serde_json::to_vec(self).unwrap()).unwrap();
    }

    /// What is to be judged together: the time between two losses that the operator accepted. Of
    /// what was answered before or after, only the request is known.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let starts = [Time::default()].into_iter().chain(self.accepted.iter().copied());
        let ends = self.accepted.iter().copied().chain([Time::NEVER]);
        starts.zip(ends).map(|(start, end)| self.part(start, end)).collect()
    }

    fn part(&self, start: Time, end: Time) -> Self {
        let asked = self.calls.iter().filter(|call| call.sent < end);
        let calls = asked.map(|call| match call.returned >= start && call.returned < end {
            true => call.clone(),
            false => Call { outcome: Outcome::Unknown, ..call.clone() },
        });
        Self { calls: calls.collect(), accepted: Vec::new(), ..self.clone() }
    }

    pub(crate) fn read(path: &Path) -> Self {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }
}

/// Where all threads of a run write.
#[derive(Default)]
pub(crate) struct Log {
    calls: Mutex<Vec<Call>>,
    hiccups: Mutex<Vec<Span>>,
}

impl Log {
    pub(crate) fn call(&self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    pub(crate) fn hiccup(&self, span: Span) {
        self.hiccups.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    pub(crate) fn into_history(
        self,
        durable: bool,
        restart_grace: Duration,
        faults: Vec<Fault>,
    ) -> History {
        let mut calls = self.calls.into_inner().unwrap();
        calls.sort_by_key(|call| call.sent);
        let hiccups = self.hiccups.into_inner().unwrap();
        History { durable, restart_grace, calls, faults, hiccups, accepted: Vec::new() }
    }
}
