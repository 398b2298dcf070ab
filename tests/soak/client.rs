//! What the workers say to the server. What goes wrong is told, and fails nothing by itself.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::wire::{self, Connection, Response};

/// Longer than any wait that the soak asks for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn connect(address: SocketAddr) -> io::Result<Connection> {
    Connection::open(address, PATIENCE)
}

impl Connection {
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        self.send(wire::request(method, path, "Host: soak", body))?;
        self.response()
    }

    pub(crate) fn acquire(&mut self, what: &Wish) -> io::Result<Response> {
        self.send(what.to_request())?;
        self.response()
    }
}

impl Response {
    /// The path of the lock that was granted.
    pub(crate) fn lock_path(&self) -> Option<&str> {
        let location = self.header("Location")?;
        location.find("/locks/").map(|start| &location[start..])
    }
}

/// A request for a lock.
pub(crate) struct Wish<'a> {
    pub(crate) resource: &'a str,
    pub(crate) title: &'a str,
    pub(crate) wait: Duration,
    pub(crate) lifetime: Duration,
}

impl Wish<'_> {
    pub(crate) fn to_request(&self) -> String {
        let (wait, lifetime) = (self.wait.as_secs_f64(), self.lifetime.as_secs_f64());
        let title = self.title;
        let body = format!(r#"{{"title":"{title}","wait":{wait},"lifetime":{lifetime}}}"#);
        wire::request("POST", &format!("/locks/{}", self.resource), "Host: soak", &body)
    }
}
