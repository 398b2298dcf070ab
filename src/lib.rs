//! rdlm, a lock manager over HTTP.
//!
//! Data flows one way: socket → [`http`] → [`doors`] → [`lock`] → outcome → response. [`client`]
//! is a library for programs that talk to a server, and knows nothing of it but the API;
//! [`commands`] are the first of them. ARCHITECTURE.md walks
//! through the rooms and lists the invariants.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod appended;
pub mod cli;
pub mod client;
mod clock;
pub mod cluster;
pub mod commands;
pub mod doors;
pub mod http;
pub mod lock;
pub mod logging;
pub mod metrics;
mod own_certificate;
pub mod passwords;
pub mod reloaded;
pub mod server;
pub mod signals;
mod url;
