//! How a door declares itself: its paths, the methods of each, and what the server and the proxy
//! of several servers have to know of a request without understanding it.

use super::call::{Call, HandlerResult, PendingResult};
use super::refusals::not_found;
use super::rights::Requirement;
use super::settings::Settings;
use crate::http::{Problem, Request, Response};
use crate::lock::{LockId, ResourceName};

/// A protocol that the server speaks.
pub(super) struct Door {
    /// Whether this server has it.
    pub(super) is_enabled: fn(&Settings) -> bool,
    /// How this protocol writes an error.
    pub(super) error: fn(Problem) -> Response,
    pub(super) paths: &'static [Path],
}

/// Where a door is.
pub(super) struct Path {
    /// A segment in braces stands for a name: the first for a resource, the second for a lock.
    pub(super) pattern: &'static str,
    pub(super) answered_by: AnsweredBy,
    pub(super) operations: &'static [Operation],
}

impl Door {
    /// One that every server has, with errors as problem documents.
    pub(super) const fn new(paths: &'static [Path]) -> Self {
        Self { is_enabled: |_| true, error: Response::from, paths }
    }
}

impl Path {
    pub(super) const fn new(
        pattern: &'static str,
        answered_by: AnsweredBy,
        operations: &'static [Operation],
    ) -> Self {
        Self { pattern, answered_by, operations }
    }
}

/// Which of several servers answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The one that received it: it is about this server.
    Receiver,
    /// The one that received it, with its role among the others.
    Role,
    /// The active one, which has the locks.
    Active,
}

/// What a method does with a path.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) requires: Requirement,
    /// The label of its requests in the metrics.
    pub(super) kind: &'static str,
    pub(super) outcome: Outcome,
    pub(super) is_stream: bool,
    /// Whether the last name in the path is all that is left of it, with its slashes.
    pub(super) takes_rest: bool,
    repeatable: Repeatable,
    handler: Handler,
}

/// How an operation is counted, beside its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Uncounted,
    Acquisition,
    /// A renewal or a conversion: the body says which.
    Change,
}

/// When a request does no harm if it was carried out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeatable {
    Never,
    /// If it has an idempotency key.
    WithKey,
    Always,
}

/// The function that carries out an operation, with what the path names.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    Plain(fn(&Call<'_>) -> PendingResult),
    Resource(fn(&Call<'_>, &ResourceName) -> PendingResult),
    Lock(fn(&Call<'_>, &ResourceName, LockId) -> PendingResult),
}

/// What the names in a path stand for.
#[derive(Debug)]
pub(super) enum Named {
    Nothing,
    Resource(ResourceName),
    Lock(ResourceName, LockId),
}

/// For requests that no door declares.
pub(super) const OTHER: &str = "other";

impl Operation {
    pub(super) const fn new(
        method: &'static str,
        requires: Requirement,
        kind: &'static str,
        handler: Handler,
    ) -> Self {
        let (outcome, repeatable) = (Outcome::Uncounted, Repeatable::Never);
        Self {
            method,
            requires,
            kind,
            outcome,
            is_stream: false,
            takes_rest: false,
            repeatable,
            handler,
        }
    }

    /// A request whose body or path says all that it is to bring about, or who sends it.
    pub(super) const fn repeatable(self) -> Self {
        Self { repeatable: Repeatable::Always, ..self }
    }

    pub(super) const fn repeatable_with_key(self) -> Self {
        Self { repeatable: Repeatable::WithKey, ..self }
    }

    /// Its response goes on for as long as the client likes.
    pub(super) const fn stream(self) -> Self {
        Self { is_stream: true, ..self }
    }

    /// For clients that cannot write a slash of a name as `%2F`.
    pub(super) const fn taking_rest(self) -> Self {
        Self { takes_rest: true, ..self }
    }

    pub(super) const fn counted_as(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    pub(super) fn may_be_repeated(&self, request: &Request<'_>) -> bool {
        match self.repeatable {
            Repeatable::Always => true,
            Repeatable::WithKey => request.headers.all("Idempotency-Key").next().is_some(),
            Repeatable::Never => self.method == "GET",
        }
    }

    pub(super) fn run(&self, call: &Call<'_>, named: &Named) -> PendingResult {
        match (self.handler, named) {
            (Handler::Plain(handler), _) => handler(call),
            (Handler::Resource(handler), Named::Resource(resource)) => handler(call, resource),
            (Handler::Lock(handler), Named::Lock(resource, id)) => handler(call, resource, *id),
            // A test compares each handler with the pattern of its path.
            (Handler::Resource(_) | Handler::Lock(_), _) => Err(not_found()),
        }
    }

    /// How many names the path has.
    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        match self.handler {
            Handler::Plain(_) => 0,
            Handler::Resource(_) => 1,
            Handler::Lock(_) => 2,
        }
    }
}

/// The result of a handler that has nothing to wait for.
pub(super) fn at_once(result: HandlerResult) -> PendingResult {
    Ok(result.into())
}
