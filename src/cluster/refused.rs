//! Why a server that is not the active one refuses a request.

use std::borrow::Cow;

use super::member::Peer;
use crate::doors::refused;
use crate::http::{Problem, Status};
use crate::lock::{Reason, Refusal};

/// Why it may be that the server which etcd names goes on refusing.
pub(super) const NOT_THE_ACTIVE_ONE: &str = "it is not the active server, although etcd names it; another one \
                                  may have the same --advertise-url";

/// Why this server does not have a request answered.
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) problem: Problem,
}

impl Refused {
    /// What was sent before may have been done.
    pub(super) fn is_unknown(&self) -> bool {
        self.reason == Reason::OutcomeUnknown
    }

    /// The reason that goes for the whole request, of an earlier attempt and the latest.
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

    pub(super) fn namesake(url: &str) -> Self {
        Self::because(format!(
            "another server is active that has the URL of this one, {url}: each needs an \
             --advertise-url of its own; nothing was done"
        ))
    }

    pub(super) fn unusable() -> Self {
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

    /// Who has closed its sending side alone reads it.
    pub(super) fn departed() -> Self {
        Self { reason: Reason::Departed, problem: refused(Refusal::Departed) }
    }
}
