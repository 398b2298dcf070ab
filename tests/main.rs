//! Runs the real server and talks raw HTTP to it. One module a theme.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may fail and wait, in its helpers, too"
)]

mod authority;
mod harness;
mod needed;
mod wire;

mod admin;
mod answers;
mod bad_input;
mod client;
mod cluster;
mod connections;
mod conversions;
mod crash;
mod daemon;
mod documents;
mod doors;
mod edge;
mod events;
mod history;
mod http;
mod http_conformance;
mod lists;
mod locks;
mod metrics;
mod modes;
mod nginx;
mod packaged_tls;
mod packaging;
mod page;
mod python;
mod recipes;
mod resources_used;
mod retries;
mod rolling_upgrade;
mod settings;
mod shown;
mod slashes;
mod threads;
mod tidy;
mod tls;
mod upgrades;
mod users;
mod who;
mod wrong_clock;
