//! The chain of heads: each write replaces exactly the one before it, so a server that has been
//! replaced cannot write.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{info, warn};
use uuid::Uuid;

use super::batch::Op;
use super::etcd::wire::{self, TxnAnswer};
use super::etcd::{Etcd, Failure};
use super::failover::{ClusterClock, SwapAnswer, WriteResult};
use super::history::{History, Version};
use super::records::{FORMAT, Head, Keys, TermRecord, bytes};
use crate::cluster::term::{Pace, Term};
use crate::lock::clock;

/// How long to wait when no member has answered.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends when the server is to leave the cluster.
pub(super) type Leaving = Receiver<Infallible>;

/// What a server of this service needs to read and write in etcd.
#[derive(Clone)]
pub(super) struct Backend {
    pub(super) etcd: Arc<Etcd>,
    pub(super) keys: Keys,
    pub(super) history: Arc<History>,
    pub(super) leaving: Leaving,
}

/// Another server has written `head`, or this one is leaving and cannot find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

/// A `head` in etcd.
pub(super) struct StoredHead {
    pub(super) revision: i64,
    /// Its bytes, which the next write compares.
    pub(super) value: Vec<u8>,
    pub(super) head: Head,
}

/// A `head` that a standby has watched.
pub(super) struct Predecessor {
    /// `None`: there was none.
    pub(super) head: Option<StoredHead>,
    pub(super) first_seen: Duration,
}

/// The right to write, until another server takes over.
pub(super) struct Chain {
    pub(super) backend: Backend,
    pub(super) pace: Pace,
    pub(super) term: Arc<Term>,
    pub(super) clock: ClusterClock,
    record: TermRecord,
    /// The latest `head`; `None`: there was none.
    stored: Option<StoredHead>,
    /// When the latest write was sent.
    sent: Duration,
    /// etcd does not answer, and this has been logged.
    failing: bool,
    /// Dropped when nobody uses the locks any more, and etcd knows.
    _over: Sender<Infallible>,
}

impl Chain {
    /// Takes over from this `head`.
    ///
    /// # Errors
    /// Another server was faster.
    pub(super) fn take_over(
        backend: Backend,
        term: Term,
        url: &str,
        Predecessor { head, first_seen }: Predecessor,
        over: Sender<Infallible>,
    ) -> Result<Self, Fenced> {
        let clock = head.as_ref().map_or(Duration::ZERO, |stored| stored.head.clock);
        let record = TermRecord::new(&term, url);
        let put = Op::Put(backend.keys.term(), bytes(&record));
        let mut chain = Self {
            backend,
            pace: term.pace,
            term: Arc::new(term),
            clock: ClusterClock::taken_over(clock, first_seen),
            record,
            stored: head,
            sent: Duration::ZERO,
            failing: false,
            _over: over,
        };
        chain.write(0, &[put])?;
        Ok(chain)
    }

    /// The largest fencing token that was ever written.
    pub(super) fn last_token(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.head.last_token)
    }

    /// The revision of the latest write. Nobody else has written since the take-over, so the rows
    /// at this revision are the current ones.
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
    /// Whether they were written is unknown, and nothing will be from now on.
    pub(super) fn write(&mut self, last_token: u64, ops: &[Op]) -> Result<(), Fenced> {
        if self.term.is_over() {
            return Err(Fenced);
        }
        let first_sent = clock::now();
        let known = self.stored.as_ref();
        let head = Head {
            format: FORMAT,
            number: known.map_or(0, |known| known.head.number).saturating_add(1),
            id: Uuid::new_v4().simple().to_string(),
            by: self.term.id.clone(),
            last_token: self.last_token().max(last_token),
            clock: self.clock.at(first_sent),
        };
        let (value, revision) = (bytes(&head), self.revision());
        let replaced = known.map(|known| &known.value[..]);
        let body =
            wire::compare_and_swap(&self.backend.keys.head(), revision, replaced, &value, ops);
        let known = self.backend.history.latest();
        let (revision, sent) = self.send(&body, &head.id, first_sent, known.as_ref())?;
        self.backend
            .history
            .show(known.as_ref(), Some(&head.version(revision)))
            .map_err(|_| self.fenced())?;
        self.stored = Some(StoredHead { revision, value, head });
        self.sent = sent;
        self.term.confirm(sent);
        Ok(())
    }

    /// Says that nobody is active any more.
    pub(super) fn step_down(&mut self) -> Result<(), Fenced> {
        let vacant = TermRecord { vacant: true, ..self.record.clone() };
        let record = Op::Put(self.backend.keys.term(), bytes(&vacant));
        let written = self.write(0, &[record]);
        self.term.end();
        written
    }

    /// Sends the bytes of the write `id` until its outcome is known. Returns its revision, and the
    /// earliest time at which the attempt that succeeded can have been sent.
    fn send(
        &mut self,
        body: &[u8],
        id: &str,
        first_sent: Duration,
        known: Option<&Version>,
    ) -> Result<(i64, Duration), Fenced> {
        let mut attempts = 0;
        loop {
            let sent = if attempts == 0 { first_sent } else { clock::now() };
            let answered = self.backend.etcd.txn(body, self.pace.attempt());
            attempts += 1;
            let failure = answered.as_ref().err().cloned();
            let answer = answer(answered);
            match WriteResult::of(&answer, id) {
                WriteResult::Done(revision) => {
                    self.note_answer();
                    return Ok((revision, sent));
                }
                WriteResult::DoneEarlier(revision) => {
                    self.note_answer();
                    return Ok((revision, first_sent));
                }
                WriteResult::Fenced => {
                    if let SwapAnswer::Other(shown) = &answer {
                        // The history remembers one that is no successor.
                        let _ = self.backend.history.show(known, shown.as_ref());
                    }
                    return Err(self.fenced());
                }
                WriteResult::Unknown => {}
            }
            if attempts % self.backend.etcd.members() == 0 {
                self.note_failure(failure);
                if !self.pause() && attempts >= 2 * self.backend.etcd.members() {
                    return Err(self.fenced());
                }
            }
        }
    }

    fn fenced(&self) -> Fenced {
        self.term.end();
        Fenced
    }

    /// Waits a moment. `false`: the server leaves.
    fn pause(&self) -> bool {
        self.backend.leaving.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout)
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

/// What etcd says about `head`.
fn answer(answered: Result<TxnAnswer, Failure>) -> SwapAnswer {
    match answered {
        Ok(answer) if answer.succeeded => SwapAnswer::Swapped(answer.header.revision),
        Ok(answer) => match answer.found().next() {
            Some(Some(found)) => match Head::read(&found.value) {
                Some(head) => SwapAnswer::Other(Some(head.version(found.mod_revision))),
                None => SwapAnswer::Foreign,
            },
            // Somebody has deleted it.
            Some(None) => SwapAnswer::Other(None),
            None => SwapAnswer::Unclear,
        },
        Err(_) => SwapAnswer::Unclear,
    }
}
