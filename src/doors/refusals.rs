//! What the lock core refuses, as clients see it.

use std::fmt::Display;

use crate::http::{Problem, Status};
use crate::lock::{NotWritten, Refusal};

/// A name or key that cannot be one.
pub(super) fn invalid(error: impl Display) -> Problem {
    Problem::bad_request(error.to_string())
}

pub(super) fn not_found() -> Problem {
    let detail = "there is nothing here; try /locks/{resource}, /locks/{resource}/{uid}, \
                  /resources, /resources/{resource}, /status or /events; /openapi.json describes \
                  them";
    Problem::new(Status::NotFound, detail)
}

/// What `/health` says while locks cannot be changed.
pub(crate) fn not_writable(why: &NotWritten) -> Problem {
    let detail = format!("locks cannot be changed for now: {why}");
    Problem::new(Status::ServiceUnavailable, detail)
}

/// A refusal of the lock core.
pub(crate) fn refused(refusal: Refusal) -> Problem {
    let status = match &refusal {
        Refusal::TimedOut | Refusal::Departed => Status::RequestTimeout,
        Refusal::Deleted(_)
        | Refusal::Superseded
        | Refusal::StillWaiting
        | Refusal::Converting
        | Refusal::Deadlock => Status::Conflict,
        Refusal::OtherLimit(_) | Refusal::OtherMode(_) | Refusal::NotConvertible => {
            Status::UnprocessableContent
        }
        Refusal::NoSuchLock => Status::NotFound,
        Refusal::TooManyWaiting
        | Refusal::TooManyLocks
        | Refusal::NotWritten(_)
        | Refusal::ShuttingDown => Status::ServiceUnavailable,
    };
    let problem = Problem::new(status, refusal.to_string()).because(refusal.name());
    match refusal {
        // A client that has closed only its sending side can still read it.
        Refusal::Departed => problem.closing(),
        // Closed, to keep connections free for releases.
        Refusal::TooManyWaiting | Refusal::ShuttingDown => {
            problem.with_header("Retry-After", "1").closing()
        }
        Refusal::NotWritten(NotWritten::Unknown) => {
            problem.with_header("Retry-After", "1").unknown()
        }
        Refusal::TooManyLocks | Refusal::NotWritten(_) => problem.with_header("Retry-After", "1"),
        _ => problem,
    }
}
