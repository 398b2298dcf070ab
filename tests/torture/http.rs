//! A connection, and answers in the words of a history. Nothing here fails a test: what goes
//! wrong is an outcome.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::history::{Action, Mode, Outcome, Seen, Wish};
use crate::wire::{self, Response};

/// More than the server is ever stopped for, and what a proxy delays.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) struct Connection(wire::Connection);

/// How a client leaves.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    Close,
    Reset,
    HalfClose,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        wire::Connection::open(address, PATIENCE).map(Self)
    }

    /// Sends what `action` says; `wait` is what the answer may take besides.
    pub(crate) fn send(&mut self, resource: &str, action: &Action) -> io::Result<()> {
        let wait = match action {
            Action::Acquire(wish) => wish.wait,
            _ => Duration::ZERO,
        };
        self.0.stream().set_read_timeout(Some(PATIENCE + wait))?;
        self.0.send(request(resource, action))
    }

    /// Whether the server has ended it, so that nothing that is sent can have an effect.
    pub(crate) fn has_ended(&self) -> bool {
        let stream = self.0.stream();
        let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let again = stream.set_nonblocking(false);
        let silent = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        !silent || again.is_err()
    }

    pub(crate) fn answer(&mut self) -> io::Result<Response> {
        self.0.response()
    }

    /// Ends the connection. The result is to be dropped some time later: after a half-close it
    /// is still open in the other direction.
    pub(crate) fn leave(self, manner: Manner) -> Option<Self> {
        match manner {
            Manner::Close => None,
            Manner::Reset => {
                let _ = self.0.reset();
                None
            }
            Manner::HalfClose => {
                let _ = self.0.half_close();
                Some(self)
            }
        }
    }
}

/// What became of `action`.
pub(crate) fn outcome(response: &Response, action: &Action) -> Outcome {
    known_outcome(response, action).unwrap_or(Outcome::Unknown)
}

fn known_outcome(response: &Response, action: &Action) -> Option<Outcome> {
    let json = || serde_json::from_slice::<Value>(&response.body).ok();
    Some(match (response.status, action) {
        (201, Action::Acquire(_)) => {
            let uid = response.header("Location")?.rsplit('/').next()?.to_string();
            let token = response.header("RDLM-Fencing-Token")?.parse().ok()?;
            Outcome::Granted { uid, token }
        }
        (200, Action::Get { .. }) => Outcome::Shown(vec![seen(&json()?)?]),
        (200, Action::List) => {
            let list = json()?;
            let locks = list["_embedded"]["locks"].as_array().map_or(&[][..], Vec::as_slice);
            Outcome::Shown(locks.iter().map(seen).collect::<Option<_>>()?)
        }
        (200..300, _) => Outcome::Done,
        // The server says that it does not know what it has done.
        (503, _) if json().is_some_and(|problem| problem["outcome"] == "unknown") => return None,
        (status, _) => Outcome::Refused(status),
    })
}

fn seen(lock: &Value) -> Option<Seen> {
    let mode = lock["mode"].as_str().unwrap_or("EX");
    Some(Seen {
        uid: lock["uid"].as_str()?.to_string(),
        title: lock["title"].as_str()?.to_string(),
        active: lock["active"].as_bool()?,
        token: lock["fencing_token"].as_u64(),
        mode: *Mode::ALL.iter().find(|known| known.name() == mode)?,
        limit: lock["limit"].as_u64().map_or(1, |limit| limit as usize),
        wait: Duration::from_secs_f64(lock["wait"].as_f64()?),
    })
}

fn request(resource: &str, action: &Action) -> String {
    let lock = |uid: &str| format!("/locks/{resource}/{uid}");
    let (method, path, body, headers) = match action {
        Action::Acquire(wish) => {
            let key = wish.key.as_ref();
            let key = key.map(|key| format!("\r\nIdempotency-Key: {key}")).unwrap_or_default();
            ("POST", format!("/locks/{resource}"), wish_body(wish), key)
        }
        Action::Get { uid } => ("GET", lock(uid), String::new(), String::new()),
        Action::Renew { uid, lifetime } => {
            let body = format!(r#"{{"lifetime":{}}}"#, lifetime.as_secs_f64());
            ("PATCH", lock(uid), body, String::new())
        }
        Action::Release { uid } => ("DELETE", lock(uid), String::new(), String::new()),
        Action::List => ("GET", format!("/resources/{resource}"), String::new(), String::new()),
        Action::Delete => {
            ("DELETE", format!("/resources/{resource}"), String::new(), String::new())
        }
    };
    wire::request(method, &path, &format!("Host: t{headers}"), &body)
}

fn wish_body(wish: &Wish) -> String {
    let mut body = serde_json::json!({
        "title": wish.title,
        "wait": wish.wait.as_secs_f64(),
        "lifetime": wish.lifetime.as_secs_f64(),
        "mode": wish.mode.name(),
    });
    if wish.mode == Mode::Ex && wish.limit > 1 {
        body["limit"] = wish.limit.into();
    }
    body.to_string()
}
