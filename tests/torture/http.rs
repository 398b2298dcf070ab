//! A connection, and answers in the words of a history. Nothing here fails a test: what goes
//! wrong is an outcome.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;

use crate::history::{Action, Mode, Outcome, Seen, Wish};

/// More than the server is ever stopped for, and what a proxy delays.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) struct Connection(BufReader<TcpStream>);

pub(crate) struct Answer {
    status: u16,
    location: Option<String>,
    token: Option<u64>,
    body: Vec<u8>,
}

/// How a client leaves.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    Close,
    Reset,
    HalfClose,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends what `action` says; `wait` is what the answer may take besides.
    pub(crate) fn send(&mut self, resource: &str, action: &Action) -> io::Result<()> {
        let wait = match action {
            Action::Acquire(wish) => wish.wait,
            _ => Duration::ZERO,
        };
        self.0.get_ref().set_read_timeout(Some(PATIENCE + wait))?;
        self.0.get_mut().write_all(request(resource, action).as_bytes())
    }

    /// Whether the server has ended it, so that nothing that is sent can have an effect.
    pub(crate) fn has_ended(&self) -> bool {
        let stream = self.0.get_ref();
        let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let again = stream.set_nonblocking(false);
        let silent = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        !silent || again.is_err()
    }

    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        let mut answer = Answer { status, location: None, token: None, body: Vec::new() };
        let (mut len, mut chunked) = (0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name {
                "Location" => answer.location = Some(value.to_string()),
                "RDLM-Fencing-Token" => answer.token = value.parse().ok(),
                "Content-Length" => len = value.parse().map_err(io::Error::other)?,
                "Transfer-Encoding" => chunked = true,
                _ => {}
            }
        }
        if chunked {
            while self.chunk(&mut answer.body)? {}
        } else {
            self.read(&mut answer.body, len)?;
        }
        Ok(answer)
    }

    /// Reads a chunk; `false` at the end.
    fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let len = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
        self.read(body, len)?;
        self.line()?;
        Ok(len > 0)
    }

    fn read(&mut self, body: &mut Vec<u8>, len: usize) -> io::Result<()> {
        let from = body.len();
        body.resize(from + len, 0);
        self.0.read_exact(&mut body[from..])
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_string())
    }

    /// Ends the connection. The result is to be dropped some time later: after a half-close it
    /// is still open in the other direction.
    pub(crate) fn leave(self, manner: Manner) -> Option<Self> {
        match manner {
            Manner::Close => None,
            Manner::Reset => {
                let _ = SockRef::from(self.0.get_ref()).set_linger(Some(Duration::ZERO));
                None
            }
            Manner::HalfClose => {
                let _ = self.0.get_ref().shutdown(Shutdown::Write);
                Some(self)
            }
        }
    }
}

impl Answer {
    pub(crate) fn outcome(&self, action: &Action) -> Outcome {
        self.outcome_of(action).unwrap_or(Outcome::Unknown)
    }

    /// The server says that it does not know what it has done.
    fn is_unknown(&self) -> bool {
        let problem: Option<Value> = serde_json::from_slice(&self.body).ok();
        problem.is_some_and(|problem| problem["outcome"] == "unknown")
    }

    fn outcome_of(&self, action: &Action) -> Option<Outcome> {
        Some(match (self.status, action) {
            (201, Action::Acquire(_)) => {
                let uid = self.location.as_deref()?.rsplit('/').next()?.to_string();
                Outcome::Granted { uid, token: self.token? }
            }
            (200, Action::Get { .. }) => {
                let lock = serde_json::from_slice(&self.body).ok()?;
                Outcome::Shown(vec![seen(&lock)?])
            }
            (200, Action::List) => {
                let list: Value = serde_json::from_slice(&self.body).ok()?;
                let locks = list["_embedded"]["locks"].as_array().map_or(&[][..], Vec::as_slice);
                Outcome::Shown(locks.iter().map(seen).collect::<Option<_>>()?)
            }
            (200..300, _) => Outcome::Done,
            (503, _) if self.is_unknown() => return None,
            (status, _) => Outcome::Refused(status),
        })
    }
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
            let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
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
    let len = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: t\r\n{headers}Content-Length: {len}\r\n\r\n{body}")
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
