//! Several servers on etcd: one is active, the others are standbys.
//!
//! The active server holds all locks in memory, and its journal is in etcd. Every write there is
//! one compare-and-swap of the key `head`, which each write replaces: a server that has been
//! taken over from cannot write any more, whatever it believes. A standby passes requests on, and
//! takes over when `head` has not changed for a while.

mod batch;
mod chain;
mod etcd;
mod forward;
mod framing;
mod front;
mod history;
mod loading;
mod member;
mod middle;
#[cfg(test)]
mod model;
mod records;
mod refused;
mod role;
mod store;
mod tenure;
mod trust;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::system::uname;

pub use forward::Forwarding;
pub use front::Answered;
pub use member::{Member, Tables};

/// How a server takes part.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The members of etcd, each as a URL without a path.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// The certificates by which etcd is known.
    pub ca: Option<PathBuf>,
    /// This server's certificate for etcd, and its key.
    pub cert: Option<PathBuf>,
    /// See [`Options::cert`].
    pub key: Option<PathBuf>,
    /// The user of etcd, and the file with the password in its first line.
    pub user: Option<String>,
    /// See [`Options::user`].
    pub password_file: Option<PathBuf>,
    /// Where the other servers reach this one.
    pub advertise_url: Option<String>,
    /// The certificates by which the servers know each other.
    pub advertise_ca: Option<PathBuf>,
    /// After how much silence of the active server another one takes over.
    pub failover_after: Duration,
    /// What a standby does with requests.
    pub standby: Standby,
    /// The number of the `head` that etcd shows after it was restored, which the operator has
    /// accepted; 0: that there is none.
    pub accept_restored: Option<u64>,
}

impl Options {
    /// How many descriptors the connection of a client uses at most.
    pub fn descriptors_per_connection(&self) -> u64 {
        match self.standby {
            Standby::Forward => Forwarding::DESCRIPTORS,
            Standby::Redirect => 1,
        }
    }

    /// Where the other servers reach this one, which listens on `local` and speaks TLS there, or
    /// not.
    pub fn url(&self, local: SocketAddr, encrypted: bool) -> String {
        if let Some(url) = &self.advertise_url {
            return url.clone();
        }
        let scheme = if encrypted { "https" } else { "http" };
        let port = local.port();
        match local.ip().to_canonical() {
            ip if !ip.is_unspecified() => format!("{scheme}://{}", SocketAddr::new(ip, port)),
            _ => {
                let name = uname();
                format!("{scheme}://{}:{port}", name.nodename().to_string_lossy())
            }
        }
    }
}

/// What a standby does with requests that are for the active server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// It passes them on.
    Forward,
    /// It says where the active server is.
    Redirect,
}
