//! What the lock core refuses, as clients see it.

use crate::http::{Problem, Status};
use crate::lock::{InvalidIdempotencyKey, InvalidResourceName, NotWritten, Refusal};

impl From<InvalidResourceName> for Problem {
    fn from(error: InvalidResourceName) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<InvalidIdempotencyKey> for Problem {
    fn from(error: InvalidIdempotencyKey) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::TimedOut | Refusal::Departed => Status::RequestTimeout,
            Refusal::Deleted
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
        let problem = Self::new(status, refusal.to_string()).because(refusal.name());
        match refusal {
            // Whoever has closed only its sending side gets to read it.
            Refusal::Departed => problem.closing(),
            // Closing, because connections are kept free for releases.
            Refusal::TooManyWaiting | Refusal::ShuttingDown => {
                problem.with_header("Retry-After", "1").closing()
            }
            Refusal::NotWritten(NotWritten::Unknown) => {
                problem.with_header("Retry-After", "1").unknown()
            }
            Refusal::TooManyLocks | Refusal::NotWritten(_) => {
                problem.with_header("Retry-After", "1")
            }
            _ => problem,
        }
    }
}
