//! rdlm, a lock manager over HTTP.
//!
//! Data flows one way: socket → [`http`] → [`lock`] → outcome → response. ARCHITECTURE.md
//! walks through the rooms and lists the invariants.

#![forbid(unsafe_code)]

pub mod cli;
pub mod http;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod server;
