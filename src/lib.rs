//! rdlm, a lock manager over HTTP.
//!
//! Data flows one way: socket → [`http`] → [`doors`] → [`lock`] → outcome → response. [`client`]
//! is a library for programs that talk to a server, of which it knows nothing but the API. The
//! [`commands`] are built on it. ARCHITECTURE.md describes the rooms and their invariants.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod appended;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod current_locks;
pub mod doors;
mod etcd_store;
pub mod history;
pub mod logging;
pub mod metrics;
pub mod passwords;
mod proxy;
pub mod server;
pub mod signals;
mod wall_clock;

pub use rdlm_client as client;
pub use rdlm_http as http;
pub use rdlm_lock as lock;

/// The release date of this version, as in CHANGELOG.md; or `unreleased`.
const RELEASED: &str = "2026-11-25";

#[cfg(test)]
#[path = "../tests/needed.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod needed;
