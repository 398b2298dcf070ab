//! The chain of heads: each write replaces exactly the one before it, so that nobody writes who
//! has been taken over from.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{info, warn};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use super::batch::Op;
use super::etcd::wire::{self, TxnAnswer};
use super::etcd::{Etcd, Failure};
use super::history::{History, Version};
use super::records::{FORMAT, Head, Keys, TenureRecord, bytes};
use super::tenure::{Answer, ClusterClock, Pace, Verdict};
use crate::lock::clock;

/// How long to wait when no member has answered.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends when the server is to leave the cluster.
pub(super) type Leaving = Receiver<Infallible>;

/// The time for which this server is active, as all its threads know it.
pub(super) struct Tenure {
    pace: Pace,
    pub(super) record: TenureRecord,
    /// When the latest `head` that was acknowledged had been sent, in nanoseconds.
    confirmed: AtomicU64,
    closed: AtomicBool,
    over: AtomicBool,
}

impl Tenure {
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn new(pace: Pace, url: &str) -> io::Result<Self> {
        let mut secret = [0; 16];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let record = TenureRecord {
            by: Uuid::new_v4().simple().to_string(),
            url: url.into(),
            secret: format!("{:032x}", u128::from_be_bytes(secret)),
            vacant: false,
            failover_after: Some(pace.failover_after),
        };
        let (closed, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { pace, record, confirmed: AtomicU64::new(0), closed, over })
    }

    /// From now on the locks that this server shows are not all there are.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether what this server has looked at is what there is: no other server can have taken
    /// over yet, and this one has its locks.
    pub(super) fn may_show(&self) -> bool {
        self.may_answer() && !self.closed.load(Ordering::SeqCst)
    }

    /// Whether no other server can have taken over yet.
    pub(super) fn may_answer(&self) -> bool {
        !self.over.load(Ordering::SeqCst) && self.pace.may_answer(self.confirmed(), clock::now())
    }

    /// How long ago this server knew that it was active.
    pub(super) fn unconfirmed_for(&self) -> Duration {
        clock::now().saturating_sub(self.confirmed())
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn confirm(&self, sent: Duration) {
        let nanos = u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX);
        self.confirmed.store(nanos, Ordering::SeqCst);
    }

    fn confirmed(&self) -> Duration {
        Duration::from_nanos(self.confirmed.load(Ordering::SeqCst))
    }
}

/// Another server has written `head`, or this one is leaving and does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// A `head` as it is in etcd.
pub(super) struct StoredHead {
    pub(super) revision: i64,
    /// What it consists of.
    pub(super) value: Vec<u8>,
    pub(super) head: Head,
}

/// The right to write, as long as nobody else does.
pub(super) struct Chain {
    pub(super) etcd: Arc<Etcd>,
    pub(super) keys: Keys,
    history: Arc<History>,
    pub(super) pace: Pace,
    pub(super) tenure: Arc<Tenure>,
    pub(super) clock: ClusterClock,
    leaving: Leaving,
    /// Dropped when nobody uses the locks any more, and etcd knows.
    _over: Sender<Infallible>,
    /// The latest one; `None`: there was none.
    stored: Option<StoredHead>,
    sent: Duration,
    /// No member answers, and the log says so.
    failing: bool,
}

impl Chain {
    /// Takes over from this `head`, as it was first seen then.
    ///
    /// # Errors
    /// Another server was faster.
    pub(super) fn take_over(
        etcd: Arc<Etcd>,
        keys: Keys,
        history: Arc<History>,
        tenure: Tenure,
        stored: Option<StoredHead>,
        first_seen: Duration,
        leaving: Leaving,
        over: Sender<Infallible>,
    ) -> Result<Self, Lost> {
        let clock = stored.as_ref().map_or(Duration::ZERO, |stored| stored.head.clock);
        let clock = ClusterClock::taken_over(clock, first_seen);
        let (pace, tenure) = (tenure.pace, Arc::new(tenure));
        let record = Op::Put(keys.tenure(), bytes(&tenure.record));
        let mut chain = Self {
            etcd,
            keys,
            history,
            pace,
            tenure,
            clock,
            leaving,
            _over: over,
            stored,
            sent: Duration::ZERO,
            failing: false,
        };
        chain.write(0, &[record])?;
        Ok(chain)
    }

    /// The largest fencing token that was ever written.
    pub(super) fn last_token(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.head.last_token)
    }

    /// The revision of the latest write. Nobody else has written since the take-over, so every
    /// row at this revision is true.
    pub(super) fn revision(&self) -> i64 {
        self.stored.as_ref().map_or(0, |stored| stored.revision)
    }

    /// How long ago the latest write was sent.
    pub(super) fn idle(&self) -> Duration {
        clock::now().saturating_sub(self.sent)
    }

    /// Writes these rows, and sends the same bytes until it is known what became of them.
    ///
    /// # Errors
    /// It is not known whether they were written, and nothing will be from now on.
    pub(super) fn write(&mut self, last_token: u64, ops: &[Op]) -> Result<(), Lost> {
        if self.tenure.is_over() {
            return Err(Lost);
        }
        let first_sent = clock::now();
        let known = self.stored.as_ref();
        let head = Head {
            format: FORMAT,
            number: known.map_or(0, |known| known.head.number).saturating_add(1),
            id: Uuid::new_v4().simple().to_string(),
            by: self.tenure.record.by.clone(),
            last_token: self.last_token().max(last_token),
            clock: self.clock.at(first_sent),
        };
        let (value, revision) = (bytes(&head), self.revision());
        let replaced = known.map(|known| &known.value[..]);
        let body = wire::compare_and_swap(&self.keys.head(), revision, replaced, &value, ops);
        let known = self.history.latest();
        let (revision, sent) = self.send(&body, &head.id, first_sent, known.as_ref())?;
        self.history
            .show(known.as_ref(), Some(&head.version(revision)))
            .map_err(|_| self.lost())?;
        self.stored = Some(StoredHead { revision, value, head });
        self.sent = sent;
        self.tenure.confirm(sent);
        Ok(())
    }

    /// Says that nobody is active any more.
    pub(super) fn step_down(&mut self) -> Result<(), Lost> {
        let vacant = TenureRecord { vacant: true, ..self.tenure.record.clone() };
        let record = Op::Put(self.keys.tenure(), bytes(&vacant));
        let written = self.write(0, &[record]);
        self.tenure.end();
        written
    }

    /// Sends the bytes of the write `id` until its outcome is known: the revision, and when the
    /// attempt was sent that has done it at the earliest.
    fn send(
        &mut self,
        body: &[u8],
        id: &str,
        first_sent: Duration,
        known: Option<&Version>,
    ) -> Result<(i64, Duration), Lost> {
        let mut attempts = 0;
        loop {
            let sent = if attempts == 0 { first_sent } else { clock::now() };
            let answered = self.etcd.txn(body, self.pace.attempt());
            attempts += 1;
            let failure = answered.as_ref().err().cloned();
            let answer = answer(answered);
            match Verdict::of(&answer, id) {
                Verdict::Done(revision) => {
                    self.note_answer();
                    return Ok((revision, sent));
                }
                Verdict::DoneEarlier(revision) => {
                    self.note_answer();
                    return Ok((revision, first_sent));
                }
                Verdict::Deposed => {
                    if let Answer::Other(shown) = &answer {
                        // If that is no successor, the history remembers it.
                        let _ = self.history.show(known, shown.as_ref());
                    }
                    return Err(self.lost());
                }
                Verdict::Unknown => {}
            }
            if attempts % self.etcd.members() == 0 {
                self.note_failure(failure);
                if !self.pause() && attempts >= 2 * self.etcd.members() {
                    return Err(self.lost());
                }
            }
        }
    }

    fn lost(&self) -> Lost {
        self.tenure.end();
        Lost
    }

    /// Waits a moment; whether the server stays.
    fn pause(&self) -> bool {
        self.leaving.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout)
    }

    /// Ends when the server is to leave the cluster.
    pub(super) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// One line in the log when etcd ceases to answer, and one when it does again.
    pub(super) fn note_failure(&mut self, failure: Option<Failure>) {
        if let Some(failure) = failure.filter(|_| !self.failing) {
            warn!("locks cannot be changed until etcd answers: {failure}");
            self.failing = true;
        }
    }

    pub(super) fn note_answer(&mut self) {
        if self.failing {
            info!("etcd answers again");
            self.failing = false;
        }
    }
}

/// What an answer says of `head`.
fn answer(answered: Result<TxnAnswer, Failure>) -> Answer {
    match answered {
        Ok(answer) if answer.succeeded => Answer::Swapped(answer.header.revision),
        Ok(answer) => match answer.found().next() {
            Some(Some(found)) => match Head::read(&found.value) {
                Some(head) => Answer::Other(Some(head.version(found.mod_revision))),
                None => Answer::Foreign,
            },
            // Nobody may write who believes that it is there.
            Some(None) => Answer::Other(None),
            None => Answer::Unclear,
        },
        Err(_) => Answer::Unclear,
    }
}
