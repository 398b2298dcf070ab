//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use smol_str::SmolStr;

use super::at_most::AtMost;
use super::gzip::Gzip;
use super::origin::Site;
use super::past::Past;
use super::settings::{Environment, Settings};
use super::subscribers::Subscribers;
use super::users::Users;
use crate::current_locks::CurrentLocks;
use crate::metrics::{Metrics, RequestTimes};
use crate::passwords::Passwords;

pub(super) struct Context {
    pub(super) locks: Arc<dyn CurrentLocks>,
    pub(super) settings: Settings,
    pub(super) users: Option<Arc<Users>>,
    pub(super) past: Past,
    pub(super) metrics: Arc<Metrics>,
    pub(super) request_times: RequestTimes,
    pub(super) passwords: Passwords,
    pub(super) site: Site,
    /// What precedes the paths of links: the path of the base URL.
    pub(super) prefix: SmolStr,
    pub(super) subscribers: Arc<Subscribers>,
    pub(super) gzip: Gzip,
    /// Walks through all resources for sorted lists.
    pub(super) walks: AtMost<2>,
    pub(super) shutting_down: AtomicBool,
}

impl Context {
    pub(super) fn new(
        locks: Arc<dyn CurrentLocks>,
        settings: Settings,
        environment: Environment,
        metrics: Arc<Metrics>,
        request_times: RequestTimes,
    ) -> Self {
        let Environment { users, own_host, past } = environment;
        Self {
            passwords: Passwords::new(),
            site: Site::new(&settings.hosts, &own_host, settings.base_url.as_deref()),
            prefix: settings.base_url.as_deref().map_or("", path_of).into(),
            subscribers: Arc::new(Subscribers::new(settings.max_subscribers)),
            gzip: Gzip::default(),
            walks: AtMost::default(),
            shutting_down: AtomicBool::new(false),
            locks,
            settings,
            users,
            past,
            metrics,
            request_times,
        }
    }
}

/// The path of a URL; empty if it has none.
fn path_of(url: &str) -> &str {
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    behind_scheme.find('/').map_or("", |at| &behind_scheme[at..])
}
