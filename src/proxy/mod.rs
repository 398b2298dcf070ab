//! The proxy in front of the active server: a standby forwards requests, and the active server
//! answers those of its own clients and those that standbys forward.
//!
//! A standby forwards on a connection of its own for each client, and relays the response as it
//! comes. The active server takes a response for delivered when the standby has it, so one that
//! tells of a lock has the header `RDLM-If-Undelivered` with the lock's path, which the standby
//! removes. If the client has left, or does not take the response, the standby sends that path
//! back, to the server that is active by then: but not again once it may have been received,
//! because a second time could count for another response, which the client did get. If it is lost,
//! or the standby ends, the lock stays: it is never taken from a client that was told of it.
//!
//! A client that leaves while it waits is passed on as the end of the sending side of the standby's
//! connection, so the active server answers as it answers its own clients.

mod forward;
mod framing;
mod front;
mod health;
mod sent;
mod trust;
mod unavailable;
mod unreachable;
mod upstream;

pub(crate) use forward::Forwarding;
pub(crate) use front::Proxy;
pub(crate) use sent::Answered;
pub(crate) use unreachable::Unreachable;
