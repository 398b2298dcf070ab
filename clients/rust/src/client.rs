//! The servers of a client, and which one a request is sent to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use super::answer::{Answer, Failure};
use super::raw::net::{Names, agent};
use super::transport::{Call, Limits, Transport};
use super::{Error, Lost, Target, TlsFiles, tls};

/// A client of one server, or of several equivalent ones. Clones share their connections, and which
/// server is asked first.
#[derive(Clone)]
pub struct Client {
    pub(super) transports: Arc<[Transport]>,
    /// The one asked first: the last that responded.
    current: Arc<AtomicUsize>,
    on_loss: Option<Sender<Lost>>,
}

impl Client {
    /// A client of the server at a URL, as `http://locks:8888`, or of several, separated by commas:
    /// if one cannot be reached or is not active, the next one is asked. A URL may have a user and
    /// a password. Opens no connection yet.
    ///
    /// # Errors
    /// [`Error::Usage`]: not such a URL.
    pub fn new(urls: &str) -> Result<Self, Error> {
        Self::of(&urls.parse()?)
    }

    /// The same, with credentials and certificates.
    ///
    /// # Errors
    /// [`Error::Usage`]: the certificates cannot be read.
    pub fn of(target: &Target) -> Result<Self, Error> {
        Self::with_tls(target, target.servers.iter().any(|server| is_tls(&server.url)))
    }

    /// Without `tls`, the files for it are not read, and need not exist.
    pub(super) fn with_tls(target: &Target, tls: bool) -> Result<Self, Error> {
        let none = TlsFiles::default();
        let config = tls::config(if tls { &target.tls } else { &none })?;
        let agent = agent(Names::default(), config);
        let transports = target.servers.iter();
        let transports = transports.map(|server| Transport::new(target, server, agent.clone()));
        let transports = transports.collect::<Result<Arc<[_]>, _>>()?;
        if transports.is_empty() {
            return Err(Error::Usage("there is no server to talk to".into()));
        }
        Ok(Self { transports, current: Arc::default(), on_loss: None })
    }

    /// Reports each lock that is acquired from now on and lost by this channel, if it has room.
    #[must_use]
    pub fn tell_of_loss(self, sender: Sender<Lost>) -> Self {
        Self { on_loss: Some(sender), ..self }
    }

    pub(super) fn on_loss(&self) -> Option<Sender<Lost>> {
        self.on_loss.clone()
    }

    /// Whether there is more than one server.
    pub(super) fn has_others(&self) -> bool {
        self.transports.len() > 1
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transports[self.current.load(Ordering::Relaxed) % self.transports.len()]
    }

    /// Sends a request to the server that responded last. If that cannot be reached or is not
    /// active, sends it to the next one. If the response is lost, the next attempt begins there.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        self.ask(call, Transport::send)
    }

    pub(super) fn ask<T>(
        &self,
        call: &Call<'_>,
        ask: impl Fn(&Transport, &Call<'_>, Limits) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // A lock whose URL names a server is only there.
        let servers = if call.base.is_some() { 1 } else { self.transports.len() };
        let mut left = u32::try_from(servers).unwrap_or(u32::MAX);
        let result = loop {
            let result = ask(self.transport(), call, call.limits(left));
            left = left.saturating_sub(1);
            match &result {
                Err(
                    Failure::Unreachable(_)
                    | Failure::Later { .. }
                    | Failure::Proxy { .. }
                    | Failure::Foreign(_),
                ) if left > 0 => {}
                _ => break result,
            }
            self.current.fetch_add(1, Ordering::Relaxed);
            if call.by.is_over() {
                break result;
            }
        };
        match result {
            Err(Failure::Elsewhere(base)) if call.base.is_none() => {
                ask(self.transport(), &Call { base: Some(&base), ..call.clone() }, call.limits(1))
            }
            Err(Failure::Dropped(_)) if call.base.is_none() => {
                self.current.fetch_add(1, Ordering::Relaxed);
                result
            }
            result => result,
        }
    }
}

pub(super) fn is_tls(url: &str) -> bool {
    url.starts_with("https://")
}
