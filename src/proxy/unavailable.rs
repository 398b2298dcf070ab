//! Why a request gets no answer from the active server.

use std::borrow::Cow;

use crate::cluster::role::Peer;
use crate::doors::refused;
use crate::http::{Problem, Status};
use crate::lock::{Reason, Refusal};

/// Why the server that etcd names may keep refusing.
pub(super) const NOT_THE_ACTIVE_ONE: &str = "it is not the active server, although etcd names it; another one \
                                  may have the same --advertise-url";

/// Why a request gets no answer from the active server.
pub(super) struct Unavailable {
    pub(super) reason: Reason,
    pub(super) problem: Problem,
}

impl Unavailable {
    /// Whether an earlier attempt may have been carried out.
    pub(super) fn is_unknown(&self) -> bool {
        self.reason == Reason::OutcomeUnknown
    }

    /// The reason for the whole request, after an earlier attempt and the latest.
    pub(super) fn or(self, latest: Self) -> Self {
        if self.is_unknown() { self } else { latest }
    }

    /// Nothing was done.
    pub(super) fn because(detail: impl Into<Cow<'static, str>>) -> Self {
        let problem = Problem::new(Status::ServiceUnavailable, detail).because("not_active");
        Self { reason: Reason::NotActive, problem: problem.with_header("Retry-After", "1") }
    }

    pub(super) fn nobody() -> Self {
        Self::because("there is no active server for now, and nothing was done")
    }

    pub(super) fn this_one() -> Self {
        Self::because("this server is not the active one for now, and nothing was done")
    }

    pub(super) fn not_reached(peer: &Peer) -> Self {
        let url = &peer.url;
        Self::because(format!(
            "the active server ({url}) cannot be reached from this one, and nothing was done"
        ))
    }

    pub(super) fn not_active(peer: &Peer) -> Self {
        let url = &peer.url;
        Self::because(format!("the server at {url} has done nothing: {NOT_THE_ACTIVE_ONE}"))
    }

    pub(super) fn duplicate_url(url: &str) -> Self {
        Self::because(format!(
            "another server is active that has the URL of this one, {url}: each needs an \
             --advertise-url of its own; nothing was done"
        ))
    }

    pub(super) fn halted() -> Self {
        Self::because(
            "no lock is granted until an operator has acted, and nothing was done: /health says why",
        )
    }

    pub(super) fn unknown() -> Self {
        let detail = "the active server is gone, and it is not known whether this was done: look, \
                      or send it again with its Idempotency-Key";
        let problem = Problem::new(Status::ServiceUnavailable, detail).because("outcome_unknown");
        let problem = problem.with_header("Retry-After", "1").unknown();
        Self { reason: Reason::OutcomeUnknown, problem }
    }

    /// For a client that has closed only its sending side, and still reads.
    pub(super) fn departed() -> Self {
        Self { reason: Reason::Departed, problem: refused(Refusal::Departed) }
    }
}
