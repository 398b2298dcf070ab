//! What the operator has said about requests on the command line.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access::Access;
use super::hal;
use super::past::Past;
use super::slots::Slots;
use super::users::{UserFile, Users};
use crate::http::Problem;

/// What clients may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestLimits {
    /// The longest `wait`.
    pub max_wait: Duration,
    /// The longest `lifetime`.
    pub max_lifetime: Duration,
}

impl RequestLimits {
    /// What no server goes beyond.
    pub const LONGEST: Duration = Duration::from_secs(1_000_000_000);

    /// Adds the limits to the refusal of a `wait` or `lifetime`, for programs.
    pub(super) fn shown_in(self, problem: Problem) -> Problem {
        let limits = [("max_wait", self.max_wait), ("max_lifetime", self.max_lifetime)];
        let members = limits.map(|(name, limit)| (name.into(), hal::in_seconds(limit)));
        problem.with_members(members.into_iter().collect())
    }
}

/// The options of the doors.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who may send administrative requests.
    pub access: Access,
    /// Who there is and may do what; in place of that.
    pub users: Option<UserFile>,
    /// Whether everybody may read metrics, also where there are users.
    pub open_metrics: bool,
    /// Limits of what clients ask for.
    pub limits: RequestLimits,
    /// What precedes `/locks/…` in a Location, without a slash at its end; `None`: the host that
    /// the client named.
    pub base_url: Option<String>,
    /// Names of this server for browsers, beside localhost, the host's own and that of the base
    /// URL.
    pub hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How many may follow events at a time.
    pub max_subscribers: usize,
    /// How many nodes may reboot at a time; `None`: FleetLock is not served.
    pub fleetlock: Option<Slots>,
}

impl Default for Settings {
    /// Everybody may do everything, except follow events.
    fn default() -> Self {
        let longest = RequestLimits::LONGEST;
        Self {
            access: Access::Open,
            users: None,
            open_metrics: false,
            limits: RequestLimits { max_wait: longest, max_lifetime: longest },
            base_url: None,
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            max_subscribers: 0,
            fleetlock: None,
        }
    }
}

/// What the server finds when it starts.
pub struct Environment {
    /// The file of users, loaded.
    pub users: Option<Arc<Users>>,
    /// The name of the host that it runs on.
    pub own_host: String,
    /// What it knows of the past.
    pub past: Past,
}
