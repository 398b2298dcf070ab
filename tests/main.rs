//! Runs the real server and talks raw HTTP to it. One module a theme.

// Helpers outside of #[test] functions may fail a test, too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

mod admin;
mod bad_input;
mod daemon;
mod http;
mod locks;
mod resources_used;
mod tidy;
