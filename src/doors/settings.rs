//! How requests are answered: what the operator has said on the command line.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access::Access;
use super::hal;
use super::slots::Slots;
use super::users::Users;
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

/// How requests are answered.
#[derive(Clone)]
pub struct Settings {
    /// Who may send administrative requests.
    pub access: Access,
    /// Who there is and may do what; in place of that.
    pub users: Option<Arc<Users>>,
    /// Whether everybody may read metrics, also where there are users.
    pub open_metrics: bool,
    /// Limits of what clients ask for.
    pub limits: RequestLimits,
    /// What precedes `/locks/…` in a Location, without a slash at its end; if there is none,
    /// the host that the client named.
    pub base_url: Option<String>,
    /// Names of this server, beside localhost, that of its host and that of the base URL.
    pub hosts: Vec<String>,
    /// The name of the host that it is on.
    pub own_host: String,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How many may follow events at a time.
    pub max_subscribers: usize,
    /// How many nodes may reboot at a time, if FleetLock is served.
    pub fleetlock: Option<Slots>,
}
