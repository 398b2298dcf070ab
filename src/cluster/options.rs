//! What a server is started with that is one of several.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::system::uname;

use super::term::Pace;
use crate::lock::{Limits, Observer};
use crate::metrics::ClusterMetrics;

/// The options of the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The members of etcd, each as a URL without a path.
    pub endpoints: Vec<String>,
    /// The prefix of all keys.
    pub prefix: String,
    /// The authorities of etcd's certificates (PEM).
    pub ca: Option<PathBuf>,
    /// This server's client certificate for etcd.
    pub cert: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
    /// A user of etcd.
    pub user: Option<String>,
    /// The file with that user's password in its first line.
    pub password_file: Option<PathBuf>,
    /// Where the other servers reach this one.
    pub advertise_url: Option<String>,
    /// The authorities of the servers' own certificates (PEM).
    pub advertise_ca: Option<PathBuf>,
    /// How long the active server is silent before another one takes over.
    pub failover_after: Duration,
    /// What a standby does with requests.
    pub standby: Standby,
    /// The number of the `head` that etcd shows after a restore, which the operator has accepted;
    /// 0: there is no `head`.
    pub accept_restored: Option<u64>,
}

impl Options {
    pub(crate) fn pace(&self) -> Pace {
        Pace { failover_after: self.failover_after }
    }

    /// How many descriptors a client's connection uses at most: its own, and one to the active
    /// server. The look-up of that server's name and the watch for a departure use none.
    pub fn descriptors_per_connection(&self) -> u64 {
        match self.standby {
            Standby::Forward => 2,
            Standby::Redirect => 1,
        }
    }

    /// The URL at which the others reach this server, which listens on `local`, with TLS or not.
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

/// What a standby does with requests for the active server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// It forwards them.
    Forward,
    /// It answers with a redirect.
    Redirect,
}

/// What the tables of this server are made with, one for each of its terms.
pub struct Tables {
    /// How many locks there may be.
    pub limits: Limits,
    /// How long the place of a client is kept that has sent a key and is gone.
    pub reconnect_grace: Duration,
    /// Is told of locks that end.
    pub observer: Arc<dyn Observer>,
    /// Counts take-overs, commits and failures.
    pub metrics: Arc<ClusterMetrics>,
}

#[cfg(test)]
impl Options {
    /// A server on this member of etcd, without credentials.
    pub(crate) fn of_member(endpoint: String, failover_after: Duration) -> Self {
        Self {
            endpoints: vec![endpoint],
            prefix: "/rdlm/".into(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            advertise_url: None,
            advertise_ca: None,
            failover_after,
            standby: Standby::Forward,
            accept_restored: None,
        }
    }
}
