//! The API, as a client sees it: one method a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use ureq::http;

use super::events::Following;
use super::retry::{TRIES, retry};
use super::transport::{ANSWER, Answer, Call, Failure, Transport};
use super::{Error, LockOptions, Lost, Target};

/// What stays as it is in the path of a URL.
const IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'~').remove(b'@').remove(b'-');

/// A server, or several of which any will do. Clones share what they know of which answers.
#[derive(Clone)]
pub struct Client {
    transports: Arc<[Transport]>,
    /// The one that is asked first: the last that answered.
    current: Arc<AtomicUsize>,
    on_loss: Option<Sender<Lost>>,
}

/// A lock that was granted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lock {
    pub(super) path: LockPath,
    pub(super) fencing_token: Option<u64>,
}

/// Where a lock is: `/locks/{resource}/{uid}` on the server, or on another one that its URL names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LockPath {
    base: Option<String>,
    path: String,
}

impl Client {
    /// A client of a server, `http://locks:8888`, or of several, separated by commas: the next one
    /// is asked when one cannot be reached or is not the active one. A URL may have a name and a
    /// password. No connection is opened yet.
    ///
    /// # Errors
    /// [`Error::Usage`]: it is no such URL.
    pub fn new(urls: &str) -> Result<Self, Error> {
        Self::of(&urls.parse()?)
    }

    /// The same, with certificates and an administrator's password.
    ///
    /// # Errors
    /// [`Error::Usage`]: the certificates cannot be read.
    pub fn of(target: &Target) -> Result<Self, Error> {
        Self::with_tls(target, target.servers.iter().any(|server| is_tls(&server.url)))
    }

    /// The same for whoever asks about a lock by its URL, too.
    pub(crate) fn about(target: &Target, lock: &LockPath) -> Result<Self, Error> {
        let servers = target.servers.iter().map(|server| &*server.url);
        Self::with_tls(target, servers.chain(lock.base.as_deref()).any(is_tls))
    }

    fn with_tls(target: &Target, tls: bool) -> Result<Self, Error> {
        let transports = target.servers.iter().map(|server| Transport::new(target, server, tls));
        let transports = transports.collect::<Result<Arc<[_]>, _>>()?;
        if transports.is_empty() {
            return Err(Error::Usage("there is no server to talk to".into()));
        }
        Ok(Self { transports, current: Arc::default(), on_loss: None })
    }

    /// From now on, each lock that this client acquires and loses is told of by this channel.
    #[must_use]
    pub fn tell_of_loss(self, sender: Sender<Lost>) -> Self {
        Self { on_loss: Some(sender), ..self }
    }

    pub(super) fn lost(&self, lost: Lost) {
        // Nobody has to listen.
        self.on_loss.as_ref().into_iter().for_each(|sender| drop(sender.try_send(lost.clone())));
    }

    fn transport(&self) -> &Transport {
        &self.transports[self.current.load(Ordering::Relaxed) % self.transports.len()]
    }

    /// Sends a request to the server that answered last. If it cannot be reached, or is not the
    /// one to ask, it is sent to the next one. If its answer is lost, the next try begins there.
    fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        self.ask(call, Transport::send)
    }

    fn ask<T>(
        &self,
        call: &Call<'_>,
        ask: impl Fn(&Transport, &Call<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut result = ask(self.transport(), call);
        for _ in 1..self.transports.len() {
            match &result {
                Err(
                    Failure::Unreachable(_)
                    | Failure::Later { .. }
                    | Failure::Proxy { .. }
                    | Failure::Foreign(_),
                ) if call.base.is_none() => {}
                _ => break,
            }
            self.current.fetch_add(1, Ordering::Relaxed);
            result = ask(self.transport(), call);
        }
        match result {
            Err(Failure::Elsewhere(base)) if call.base.is_none() => {
                ask(self.transport(), &Call { base: Some(&base), ..call.clone() })
            }
            Err(Failure::Dropped(_)) if call.base.is_none() => {
                self.current.fetch_add(1, Ordering::Relaxed);
                result
            }
            result => result,
        }
    }

    /// Whether the server is well.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        self.send(&Call::new(http::Method::GET, "/health")).map(drop)
    }

    /// The URL of a lock, as this client reaches it.
    pub(crate) fn url_of(&self, lock: &LockPath) -> String {
        let base = lock.base.as_deref().unwrap_or(&self.transport().url);
        format!("{base}{}", lock.path)
    }

    /// Sends one request for a lock. The server answers when it is granted or `wait` is over.
    pub(super) fn ask_once(
        &self,
        resource: &str,
        options: &LockOptions,
        key: &str,
        wait: Duration,
        answer_within: Duration,
    ) -> Result<Lock, Failure> {
        let mut body = json!({
            "title": options.title.as_deref().unwrap_or_default(),
            "wait": wait.as_secs_f64(),
            "lifetime": options.lifetime.as_secs_f64(),
        });
        if let Some(mode) = &options.mode {
            body["mode"] = mode.as_str().into();
        }
        if let Some(limit) = options.limit {
            body["limit"] = limit.into();
        }
        let resource = utf8_percent_encode(resource, IN_PATH);
        let path = format!("/locks/{resource}");
        let answer = self.send(&Call {
            body: Some(body),
            key: key.into(),
            answer_within,
            ..Call::new(http::Method::POST, &path)
        })?;
        granted(&answer, &path).ok_or_else(|| self.transport().not_rdlm("the answer names no lock"))
    }

    /// Lets a lock live for another lifetime.
    pub(crate) fn renew(&self, lock: &LockPath, lifetime: Duration) -> Result<(), Failure> {
        self.retry(&renewal(lock, lifetime, ANSWER)).map(drop)
    }

    /// Converts a lock to another mode.
    pub(crate) fn convert(
        &self,
        lock: &LockPath,
        mode: &str,
        wait: Duration,
        lifetime: Option<Duration>,
    ) -> Result<(), Failure> {
        let mut body = json!({ "mode": mode, "wait": wait.as_secs_f64() });
        if let Some(lifetime) = lifetime {
            body["lifetime"] = lifetime.as_secs_f64().into();
        }
        let answer_within = wait.saturating_add(ANSWER);
        let call = on_lock(http::Method::PATCH, lock);
        self.retry(&Call { body: Some(body), answer_within, ..call }).map(drop)
    }

    /// Sends one renewal.
    pub(super) fn renew_once(
        &self,
        lock: &LockPath,
        lifetime: Duration,
        answer_within: Duration,
    ) -> Result<(), Failure> {
        self.send(&renewal(lock, lifetime, answer_within)).map(drop)
    }

    /// Releases a lock.
    pub(crate) fn release(&self, lock: &LockPath) -> Result<(), Failure> {
        self.delete_once_or_again(&on_lock(http::Method::DELETE, lock))
    }

    /// A lock, held or waiting.
    pub(crate) fn get(&self, lock: &LockPath) -> Result<Answer, Failure> {
        self.retry(&on_lock(http::Method::GET, lock))
    }

    /// All resources with all their locks.
    pub(crate) fn status(&self) -> Result<Answer, Failure> {
        self.retry(&Call::new(http::Method::GET, "/status").by_administrator())
    }

    /// Follows what happens, to one resource or to all: behind the event with the id `last`, or
    /// else from the `latest` that have happened already.
    pub(crate) fn follow(
        &self,
        resource: Option<&str>,
        latest: usize,
        last: Option<&str>,
    ) -> Result<Following, Failure> {
        let mut path = format!("/events?latest={latest}");
        if let Some(resource) = resource {
            path += &format!("&resource={}", utf8_percent_encode(resource, NON_ALPHANUMERIC));
        }
        let call = Call::new(http::Method::GET, &path).by_administrator();
        self.ask(&call, |transport, call| transport.follow(call, last))
    }

    /// The locks of a resource.
    pub(crate) fn locks(&self, resource: &str) -> Result<Answer, Failure> {
        let path = format!("/resources/{}", utf8_percent_encode(resource, IN_PATH));
        self.retry(&Call::new(http::Method::GET, &path).by_administrator())
    }

    /// The same, for a message that can do without.
    pub(crate) fn locks_at_once(&self, resource: &str) -> Result<Answer, Failure> {
        let path = format!("/resources/{}", utf8_percent_encode(resource, IN_PATH));
        let call = Call::new(http::Method::GET, &path).by_administrator();
        self.send(&Call { answer_within: Duration::from_secs(1), ..call })
    }

    /// Deletes the locks of a resource, or all locks.
    pub(crate) fn delete(&self, resource: Option<&str>) -> Result<(), Failure> {
        let path = match resource {
            Some(name) => format!("/resources/{}", utf8_percent_encode(name, IN_PATH)),
            None => "/resources".into(),
        };
        self.delete_once_or_again(&Call::new(http::Method::DELETE, &path).by_administrator())
    }

    /// A deletion whose answer was lost has been done; its repetition finds nothing.
    fn delete_once_or_again(&self, call: &Call<'_>) -> Result<(), Failure> {
        let mut dropped = false;
        let result = retry(TRIES, || {
            let result = self.send(call);
            // An answer of something on the way may have been made in place of the server's.
            dropped |= matches!(
                result,
                Err(Failure::Dropped(_) | Failure::Foreign(_) | Failure::Proxy { .. })
            );
            result
        });
        match result {
            Err(Failure::NotThere) if dropped => Ok(()),
            result => result.map(drop),
        }
    }

    fn retry(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        retry(TRIES, || self.send(call))
    }
}

impl Failure {
    /// The error that it is for whoever wanted something of a lock.
    pub(crate) fn about_lock(self, path: &LockPath) -> Error {
        match self {
            Self::NotThere => Error::Gone(format!(
                "{} is not held: it was released or deleted, it has expired, or it never was",
                path.path
            )),
            failure => failure.into(),
        }
    }
}

impl LockPath {
    /// The name of the resource.
    pub(crate) fn resource(&self) -> String {
        let name = self.path.split('/').nth(2).unwrap_or_default();
        percent_decode_str(name).decode_utf8_lossy().into_owned()
    }

    /// Understands the URL of a lock, or its path.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let expected = || {
            // It may have a password, which is not for messages.
            let shown = text.rsplit('@').next().unwrap_or_default();
            Error::Usage(format!("{shown:?}: expected the URL of a lock, as acquire prints it"))
        };
        // The base may have a path with `/locks/` in it.
        let (at, _) = text.rmatch_indices('/').nth(2).ok_or_else(expected)?;
        let (base, path) = text.split_at(at);
        let is_url = base.starts_with("http://") || base.starts_with("https://");
        let shape: Vec<_> = path.split('/').collect();
        match shape[..] {
            ["", "locks", resource, uid] if is_uid(uid) && !resource.is_empty() => {}
            _ => return Err(expected()),
        }
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        if !(base.is_empty() || is_url) || !text.bytes().all(legal) {
            return Err(expected());
        }
        let base = if is_url { Some(base.into()) } else { None };
        Ok(Self { base, path: path.into() })
    }
}

fn is_tls(url: &str) -> bool {
    url.starts_with("https://")
}

fn is_uid(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn on_lock(method: http::Method, lock: &LockPath) -> Call<'_> {
    Call { base: lock.base.as_deref(), ..Call::new(method, &lock.path) }
}

fn renewal(lock: &LockPath, lifetime: Duration, answer_within: Duration) -> Call<'_> {
    let body = Some(json!({ "lifetime": lifetime.as_secs_f64() }));
    Call { body, answer_within, ..on_lock(http::Method::PATCH, lock) }
}

/// The lock of a 201. Its host is what the server believes to be called; this client reached
/// it by its own URL, and keeps to that.
fn granted(answer: &Answer, resource: &str) -> Option<Lock> {
    let location = answer.location.as_deref()?;
    let uid = location.rsplit('/').next().filter(|uid| is_uid(uid))?;
    if answer.status != 201 || !location.contains("/locks/") {
        return None;
    }
    let lock: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Some(Lock {
        path: LockPath { base: None, path: format!("{resource}/{uid}") },
        fencing_token: lock["fencing_token"].as_u64(),
    })
}
