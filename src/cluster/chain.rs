//! The chain of heads: each write replaces exactly the one before it, so that nobody writes who
//! has been taken over from.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};
use uuid::Uuid;

use super::batch::Op;
use super::etcd::wire::{self, TxnAnswer};
use super::etcd::{Etcd, Failure};
use super::records::{FORMAT, Head, Keys, TenureRecord, bytes};
use super::tenure::{Answer, ClusterClock, Pace, Sighting, Verdict};
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
    fn new(pace: Pace, url: &str) -> Self {
        let random = || Uuid::new_v4().simple().to_string();
        let record =
            TenureRecord { by: random(), url: url.into(), secret: random(), vacant: false };
        let (closed, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { pace, record, confirmed: AtomicU64::new(0), closed, over }
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

    fn end(&self) {
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

/// The right to write, as long as nobody else does.
pub(super) struct Chain {
    pub(super) etcd: Arc<Etcd>,
    pub(super) keys: Keys,
    pub(super) pace: Pace,
    pub(super) tenure: Arc<Tenure>,
    pub(super) clock: ClusterClock,
    leaving: Leaving,
    /// Of the latest write.
    head: Head,
    revision: i64,
    sent: Duration,
    /// No member answers, and the log says so.
    failing: bool,
}

impl Chain {
    /// Takes over from `head`, as it was seen.
    ///
    /// # Errors
    /// Another server was faster.
    pub(super) fn take_over(
        etcd: Arc<Etcd>,
        keys: Keys,
        pace: Pace,
        url: &str,
        sighting: Sighting,
        head: Option<Head>,
        leaving: Leaving,
    ) -> Result<Self, Lost> {
        let tenure = Arc::new(Tenure::new(pace, url));
        let head = head.unwrap_or_else(|| Head {
            format: FORMAT,
            number: 0,
            id: String::new(),
            by: String::new(),
            last_token: 0,
            clock: Duration::ZERO,
        });
        let clock = ClusterClock::taken_over(head.clock, sighting.first_seen);
        let record = Op::Put(keys.tenure(), bytes(&tenure.record));
        let mut chain = Self {
            etcd,
            keys,
            pace,
            tenure,
            clock,
            leaving,
            head,
            revision: sighting.revision,
            sent: Duration::ZERO,
            failing: false,
        };
        chain.write(0, &[record])?;
        Ok(chain)
    }

    /// The largest fencing token that was ever written.
    pub(super) fn last_token(&self) -> u64 {
        self.head.last_token
    }

    /// The revision of the latest write. Nobody else has written since the take-over, so every
    /// row at this revision is true.
    pub(super) fn revision(&self) -> i64 {
        self.revision
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
        let head = Head {
            format: FORMAT,
            number: self.head.number + 1,
            id: Uuid::new_v4().simple().to_string(),
            by: self.tenure.record.by.clone(),
            last_token: self.head.last_token.max(last_token),
            clock: self.clock.at(first_sent),
        };
        let body = wire::compare_and_swap(&self.keys.head(), self.revision, &bytes(&head), ops);
        let (revision, sent) = self.send(&body, &head.id, first_sent)?;
        self.revision = revision;
        self.sent = sent;
        self.head = head;
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
    ) -> Result<(i64, Duration), Lost> {
        let mut attempts = 0;
        loop {
            let sent = if attempts == 0 { first_sent } else { clock::now() };
            let answered = self.etcd.txn(body, self.pace.attempt());
            attempts += 1;
            let failure = answered.as_ref().err().cloned();
            match Verdict::of(&answer(answered), id) {
                Verdict::Done(revision) => {
                    self.note_answer();
                    return Ok((revision, sent));
                }
                Verdict::DoneEarlier(revision) => {
                    self.note_answer();
                    return Ok((revision, first_sent));
                }
                Verdict::Deposed => {
                    self.tenure.end();
                    return Err(Lost);
                }
                Verdict::Unknown => {}
            }
            if attempts % self.etcd.members() == 0 {
                self.note_failure(failure);
                if !self.pause() && attempts >= 2 * self.etcd.members() {
                    self.tenure.end();
                    return Err(Lost);
                }
            }
        }
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
            Some(Some(found)) => {
                let head: Option<Head> = serde_json::from_slice(&found.value).ok();
                Answer::Other(found.mod_revision, head.map(|head| head.id))
            }
            // It was deleted: nobody may write who believes it is there.
            Some(None) => Answer::Other(0, None),
            None => Answer::Unclear,
        },
        Err(_) => Answer::Unclear,
    }
}
