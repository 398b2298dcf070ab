//! rdlm, a lock manager over HTTP.
//!
//! Data flows one way: socket → [`http`] → [`doors`] → [`lock`] → outcome → response. [`client`]
//! is a library for programs that talk to a server, and knows nothing of it but the API;
//! [`commands`] are the first of them. ARCHITECTURE.md walks
//! through the rooms and lists the invariants.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod appended;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod current_locks;
pub mod doors;
mod etcd_store;
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

/// The day of this version, as in CHANGELOG.md; or `unreleased`.
const RELEASED: &str = "2026-11-25";
