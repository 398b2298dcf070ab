//! Doors: the protocols by which clients ask for locks, each a file over [`http`](crate::http) and
//! the [`LockManager`](crate::lock::LockManager), with an entry in the table of `routes`.
//!
//! [`Service`] takes a request from the connection to its door.

pub mod access;
mod acquire;
mod admin;
mod at_most;
mod body;
mod call;
mod caller;
mod context;
mod door;
pub mod event_log;
mod event_writer;
mod events;
mod fleetlock;
mod forwarded;
mod forwarded_client;
mod gone;
mod gzip;
mod hal;
mod health;
pub mod history;
mod identity;
mod lists;
mod origin;
mod page;
mod past;
mod refusals;
mod rest;
mod rights;
mod routes;
mod rules;
mod selection;
mod service;
mod settings;
mod slots;
mod sorted;
mod subscribers;
mod terraform;
#[cfg(test)]
mod tests;
pub mod users;

pub use acquire::IF_UNDELIVERED;
pub use door::AnsweredBy;
pub use forwarded_client::ForwardedClient;
pub use past::Past;
pub(crate) use refusals::{not_writable, refused};
pub use service::{Handling, Service};
pub use settings::{Environment, RequestLimits, Settings};
pub use slots::Slots;
