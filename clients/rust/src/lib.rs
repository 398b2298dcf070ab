//! A client for Rust programs, and for the commands of this one. It knows the API alone, nothing
//! of the server behind it.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use rdlm_client::{Client, Error, LockOptions};
//!
//! fn nightly_backup() -> Result<(), Error> {
//!     let client = Client::new("http://locks:8888")?;
//!     let options = LockOptions { wait: Duration::from_secs(60), ..LockOptions::default() };
//!     let guard = client.acquire("nightly-backup", &options)?;
//!     // It is renewed in the background. Before each step that must not be done by two:
//!     if !guard.is_lost() {
//!         // …
//!     }
//!     guard.release()
//! }
//! ```

#![warn(missing_docs)]

mod alarm;
mod answer;
mod api;
mod client;
mod clock;
mod deadline;
mod events;
mod guard;
mod lease;
mod lock_path;
pub mod raw;
mod request;
mod retry;
mod target;
mod tls;
mod transport;

use std::fmt;
use std::time::Duration;

pub use client::Client;
/// The channels of [`Client::tell_of_loss`] and [`Pending::answered`], which can be waited for
/// together with others.
pub use crossbeam_channel;
pub use guard::{Guard, Lost};
pub use request::Pending;
pub use target::{Credentials, PemFile, ServerUrl, Target, TlsFiles};

/// How a lock is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct LockOptions {
    /// Who asks and what for, at most 1024 bytes; a longer one is cut. `None`: the user, the host
    /// and the number of the process.
    pub title: Option<String>,
    /// How long to wait for the lock, up to [`LockOptions::FOR_EVER`].
    pub wait: Duration,
    /// How long the lock lives without a renewal: over 0, up to 10⁹ seconds. If this host dies,
    /// others wait for so long.
    pub lifetime: Duration,
    /// One of `NL`, `CR`, `CW`, `PR`, `PW` and `EX`, or `shared` or `exclusive`; `None`: exclusive.
    pub mode: Option<String>,
    /// How many may hold the resource at a time, 1 to 10⁶; `None`: one.
    pub limit: Option<u32>,
}

impl LockOptions {
    /// A wait that has no end: the longest that a server accepts.
    pub const FOR_EVER: Duration = Duration::from_secs(1_000_000_000);
}

impl Default for LockOptions {
    /// An exclusive lock, as long as it takes, with a lifetime of a minute.
    fn default() -> Self {
        let lifetime = Duration::from_secs(60);
        Self { title: None, wait: Self::FOR_EVER, lifetime, mode: None, limit: None }
    }
}

/// Why something was not done; says so in one line, in which a server may have a say: print it
/// where control characters do no harm.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// The server cannot be reached, does not answer, or has a fault.
    NoServer(String),
    /// What answers there is not an rdlm server.
    NotRdlm(String),
    /// The request is not one that the server accepts.
    Usage(String),
    /// The server wants another user, or nobody.
    NotPermitted(String),
    /// The lock was not granted; it may be later.
    NotGranted(String),
    /// The lock, or what else was named, is not there any more.
    Gone(String),
    /// The operating system refused something.
    System(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer(text)
            | Self::NotRdlm(text)
            | Self::Usage(text)
            | Self::NotPermitted(text)
            | Self::NotGranted(text)
            | Self::Gone(text)
            | Self::System(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
