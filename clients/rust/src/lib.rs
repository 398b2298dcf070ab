//! A client of rdlm, the lock manager over HTTP.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use rdlm_client::{Client, Error, LockOptions};
//!
//! fn nightly_backup() -> Result<(), Error> {
//!     let client = Client::new("http://locks:8888")?;
//!     let options = LockOptions { wait: Some(Duration::from_secs(60)), ..LockOptions::default() };
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
mod gone;
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

/// What to ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LockOptions {
    /// Who asks and what for, cut to 1024 bytes. `None`: the user, the host and the process ID.
    pub title: Option<String>,
    /// How long to wait for the lock, up to [`LockOptions::LONGEST`]. `None`: as long as it takes,
    /// also where the server limits a single wait.
    pub wait: Option<Duration>,
    /// How long the lock lives without a renewal: over 0, up to [`LockOptions::LONGEST`]. If this
    /// host dies, others wait until then. `None`: a minute, or less if the server allows only that.
    pub lifetime: Option<Duration>,
    /// One of `NL`, `CR`, `CW`, `PR`, `PW` and `EX`, or `shared` or `exclusive`; `None`: exclusive.
    pub mode: Option<String>,
    /// How many clients may hold the resource at a time, 1 to 10⁶; `None`: one.
    pub limit: Option<u32>,
    /// The `Idempotency-Key` of the request, to send one again whose outcome is unknown; `None`: a
    /// new one.
    pub key: Option<String>,
}

impl LockOptions {
    /// The longest wait and lifetime that any server accepts.
    pub const LONGEST: Duration = Duration::from_secs(1_000_000_000);

    /// The lifetime of a lock for which none was asked.
    pub(crate) const LIFETIME: Duration = Duration::from_secs(60);
}

/// A time that a server may limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// How long a request waits.
    Wait,
    /// How long a lock lives without a renewal.
    Lifetime,
}

/// Why something was not done. Displays as one line, which may contain text from a server: before
/// printing it to a terminal, escape control characters.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// The server cannot be reached, does not respond, or failed.
    NoServer(String),
    /// The same, and the request for the lock may have been granted.
    Unknown(String),
    /// What responded is not an rdlm server.
    NotRdlm(String),
    /// The request, or the configuration, is not valid.
    Usage(String),
    /// The server allows only less of this time.
    TooLong(Time, String),
    /// The server refuses these credentials, or wants some.
    NotPermitted(String),
    /// The lock was not granted; it may be if asked for again.
    NotGranted(String),
    /// The lock was lost, or what was named no longer exists.
    Gone(String),
    /// The operating system refused something.
    System(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer(text)
            | Self::Unknown(text)
            | Self::NotRdlm(text)
            | Self::Usage(text)
            | Self::TooLong(_, text)
            | Self::NotPermitted(text)
            | Self::NotGranted(text)
            | Self::Gone(text)
            | Self::System(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
