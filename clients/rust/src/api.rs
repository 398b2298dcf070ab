//! The API: one method for each request.

use std::cell::Cell;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use ureq::http;

use super::answer::{Answer, Expected, Failure};
use super::client::is_tls;
use super::deadline::{Deadline, Wait};
use super::events::{Following, Span};
use super::lock_path::LockPath;
use super::retry::retry;
use super::transport::{Call, Transport};
use super::{Client, Error, LockOptions, Target};

/// What is escaped in the path of a URL.
const IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'~').remove(b'@').remove(b'-');

/// The time-out of a request that only a message depends on.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A lock that was granted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lock {
    pub(super) path: LockPath,
    pub(super) fencing_token: Option<u64>,
    /// As granted, at most as requested.
    pub(super) lifetime: Duration,
}

/// Single requests: see [`crate::raw`].
#[doc(hidden)]
impl Client {
    /// A client that may also be used for a lock at another server.
    pub fn about(target: &Target, lock: &LockPath) -> Result<Self, Error> {
        let servers = target.servers.iter().map(|server| &*server.url);
        Self::with_tls(target, servers.chain(lock.base.as_deref()).any(is_tls))
    }

    /// Whether a lock is at one of this client's servers.
    pub fn is_for(&self, lock: &LockPath) -> bool {
        self.transports.iter().any(|server| lock.base.as_deref() == Some(&*server.url))
    }

    /// Whether the server is healthy.
    pub fn health(&self) -> Result<(), Failure> {
        self.send(&Call::new(http::Method::GET, "/health", Expected::Health)).map(drop)
    }

    /// The server that is asked first.
    pub fn server(&self) -> &str {
        &self.transport().url
    }

    /// The URL of a lock, as this client reaches it.
    pub fn url_of(&self, lock: &LockPath) -> String {
        let base = lock.base.as_deref().unwrap_or(self.server());
        format!("{base}{}", lock.path)
    }

    /// Sends one request for a lock. The server responds when it is granted or `wait` is over.
    pub(super) fn ask_once(
        &self,
        resource: &str,
        options: &LockOptions,
        key: &str,
        (wait, lifetime): (Wait, Duration),
        by: Deadline,
    ) -> Result<Lock, Failure> {
        let mut body = json!({
            "title": options.title.as_deref().unwrap_or_default(),
            "lifetime": lifetime.as_secs_f64(),
        });
        if let Some(mode) = &options.mode {
            body["mode"] = mode.as_str().into();
        }
        if let Some(limit) = options.limit {
            body["limit"] = limit.into();
        }
        let path = format!("/locks/{}", utf8_percent_encode(resource, IN_PATH));
        let answer = self.send(&Call {
            body: Some(body),
            key: key.into(),
            by,
            wait: Some(wait),
            ..Call::new(http::Method::POST, &path, Expected::NewLock)
        })?;
        // Only the uid of `Location` is used: its host is what the server believes to be called,
        // which this client may be unable to reach.
        let uid = answer.uid.as_deref().unwrap_or_default();
        Ok(Lock {
            path: LockPath { base: None, path: format!("{path}/{uid}") },
            fencing_token: answer.json["fencing_token"].as_u64(),
            lifetime: granted_lifetime(&answer, lifetime),
        })
    }

    /// Withdraws the request with this key: its place in line, or the lock if it was granted.
    pub(super) fn withdraw(&self, resource: &str, key: &str, by: Deadline) -> Result<(), Failure> {
        let path = format!("/locks/{}", utf8_percent_encode(resource, IN_PATH));
        let call = Call::new(http::Method::DELETE, &path, Expected::NoContent);
        self.send(&Call { key: key.into(), by, ..call }).map(drop)
    }

    /// Renews a lock. Without a lifetime, for a minute, or as long as the server allows.
    pub fn renew(&self, lock: &LockPath, lifetime: Option<Duration>) -> Result<(), Failure> {
        let renew = |lifetime| self.retry(&renewal(lock, lifetime)).map(drop);
        match renew(lifetime.unwrap_or(LockOptions::LIFETIME)) {
            Err(Failure::TooLong { longest, .. }) if lifetime.is_none() => renew(longest),
            result => result,
        }
    }

    /// Renews a lock by a deadline. Returns the new lifetime.
    pub(super) fn renew_by(
        &self,
        lock: &LockPath,
        lifetime: Duration,
        by: Deadline,
    ) -> Result<Duration, Failure> {
        let answer = self.send(&Call { by, ..renewal(lock, lifetime) })?;
        Ok(granted_lifetime(&answer, lifetime))
    }

    /// Converts a lock to another mode.
    pub fn convert(
        &self,
        lock: &LockPath,
        mode: &str,
        wait: Duration,
        lifetime: Option<Duration>,
    ) -> Result<(), Failure> {
        let mut body = json!({ "mode": mode });
        if let Some(lifetime) = lifetime {
            body["lifetime"] = lifetime.as_secs_f64().into();
        }
        let wait = Some(Wait::of(Some(wait)));
        let call = on_lock(http::Method::PATCH, lock, Expected::Lock(lock.uid()));
        self.retry(&Call { body: Some(body), wait, ..call }).map(drop)
    }

    /// Releases a lock.
    pub fn release(&self, lock: &LockPath) -> Result<(), Failure> {
        self.delete_once_or_again(&on_lock(http::Method::DELETE, lock, Expected::NoContent))
    }

    /// Releases a lock by a deadline.
    pub(super) fn release_by(&self, lock: &LockPath, by: Deadline) -> Result<(), Failure> {
        let call = on_lock(http::Method::DELETE, lock, Expected::NoContent);
        self.delete_once_or_again(&Call { by, ..call })
    }

    /// A lock, held or waiting.
    pub fn get(&self, lock: &LockPath) -> Result<Answer, Failure> {
        self.retry(&on_lock(http::Method::GET, lock, Expected::Lock(lock.uid())))
    }

    /// All resources with all their locks.
    pub fn status(&self) -> Result<Answer, Failure> {
        let expected = Expected::Resources;
        self.retry(&Call::new(http::Method::GET, "/status", expected).by_administrator())
    }

    /// Follows the events of one resource, or of all: those after the event with the id `last`, or
    /// else the `latest` ones so far and all later ones.
    pub fn follow(
        &self,
        resource: Option<&str>,
        latest: usize,
        last: Option<&str>,
    ) -> Result<Following, Failure> {
        self.events(format!("/events?latest={latest}"), resource, last)
    }

    /// What was held at a time and has happened since, of one resource or of all.
    pub fn past(&self, resource: Option<&str>, span: &Span) -> Result<Following, Failure> {
        self.events(format!("/events?{}", span.query()), resource, None)
    }

    fn events(
        &self,
        mut path: String,
        resource: Option<&str>,
        last: Option<&str>,
    ) -> Result<Following, Failure> {
        if let Some(resource) = resource {
            path += &format!("&resource={}", utf8_percent_encode(resource, NON_ALPHANUMERIC));
        }
        let call = Call::new(http::Method::GET, &path, Expected::Events).by_administrator();
        self.ask(&call, |transport, call, limits| transport.follow(call, limits, last))
    }

    /// The locks of a resource.
    pub fn locks(&self, resource: &str) -> Result<Answer, Failure> {
        let path = path_of(resource);
        self.retry(&list_of_locks(&path, resource))
    }

    /// The same, with a short time-out and no repetition.
    pub fn locks_at_once(&self, resource: &str) -> Result<Answer, Failure> {
        let (path, by) = (path_of(resource), Deadline::after(AT_ONCE));
        self.send(&Call { by, ..list_of_locks(&path, resource) })
    }

    /// The resources whose names contain a text, at most 1000 of them, with their locks.
    pub fn search_at_once(&self, text: &str) -> Result<Answer, Failure> {
        let text = utf8_percent_encode(text, NON_ALPHANUMERIC);
        let (path, by) = (format!("/status?search={text}&limit=1000"), Deadline::after(AT_ONCE));
        let call = Call::new(http::Method::GET, &path, Expected::Resources).by_administrator();
        self.send(&Call { by, ..call })
    }

    /// Deletes the locks of a resource, or all locks.
    pub fn delete(&self, resource: Option<&str>, reason: Option<&str>) -> Result<(), Failure> {
        let mut path = resource.map_or("/resources".into(), path_of);
        if let Some(reason) = reason {
            path += &format!("?reason={}", utf8_percent_encode(reason, NON_ALPHANUMERIC));
        }
        let call = Call::new(http::Method::DELETE, &path, Expected::NoContent);
        self.delete_once_or_again(&call.by_administrator())
    }

    /// If the response to a deletion is lost, its repetition may find nothing, and has succeeded:
    /// also at another server.
    fn delete_once_or_again(&self, call: &Call<'_>) -> Result<(), Failure> {
        let may_be_done = Cell::new(false);
        let attempt = |transport: &Transport, call: &Call<'_>, limits| {
            let result = transport.send(call, limits);
            // An intermediary may have replaced the server's response.
            if let Err(Failure::Dropped(_) | Failure::Foreign(_) | Failure::Proxy { .. }) = result {
                may_be_done.set(true);
            }
            result
        };
        match retry(call.by, || self.ask(call, attempt)) {
            Err(Failure::NotThere(_)) if may_be_done.get() => Ok(()),
            result => result.map(drop),
        }
    }

    fn retry(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        retry(call.by, || self.send(call))
    }
}

fn on_lock<'a>(method: http::Method, lock: &'a LockPath, expected: Expected<'a>) -> Call<'a> {
    Call { base: lock.base.as_deref(), ..Call::new(method, &lock.path, expected) }
}

fn renewal(lock: &LockPath, lifetime: Duration) -> Call<'_> {
    let body = Some(json!({ "lifetime": lifetime.as_secs_f64() }));
    Call { body, ..on_lock(http::Method::PATCH, lock, Expected::Lock(lock.uid())) }
}

/// The lifetime in a response, or the requested one if that is shorter.
fn granted_lifetime(answer: &Answer, asked_for: Duration) -> Duration {
    let seconds = answer.json["lifetime"].as_f64();
    let granted = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    granted.map_or(asked_for, |granted| granted.min(asked_for))
}

fn path_of(resource: &str) -> String {
    format!("/resources/{}", utf8_percent_encode(resource, IN_PATH))
}

fn list_of_locks<'a>(path: &'a str, resource: &'a str) -> Call<'a> {
    Call::new(http::Method::GET, path, Expected::Resource(resource)).by_administrator()
}
