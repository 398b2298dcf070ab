//! What was acknowledged survives whatever ends the server.

mod disk;
mod kills;
mod restarts;
mod stall;
mod strace;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Server};
use crate::wire::{self, Connection};

/// A place for a data directory, and the servers that use it one after the other.
struct Host {
    temp: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { temp: TempDir::new().unwrap() }
    }

    fn data_dir(&self) -> String {
        self.temp.path().join("data").to_str().unwrap().to_string()
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, options: &[&str]) -> Server {
        Server::start_command(self.command().args(options))
    }

    /// The server's command; it is to be ended by [`Server::start_command`].
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        command.args(["serve", "--data-dir", &self.data_dir()]);
        command
    }

    /// The first segment of the journal.
    fn file(&self) -> std::path::PathBuf {
        Path::new(&self.data_dir()).join("00000001.log")
    }
}

/// One request to a server that may end at any moment: `None` if there was no whole answer.
fn attempt(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut connection = Connection::open(([127, 0, 0, 1], port).into(), PATIENCE).ok()?;
    let headers = "Host: x\r\nConnection: close";
    connection.send(wire::request(method, path, headers, body)).ok()?;
    let response = connection.response().ok()?;
    assert!(connection.is_closed(), "more than one answer");
    Some((response.status, response.text().to_string()))
}

/// The path and the token of the lock that an answer shows.
fn lock_of(body: &str) -> (String, u64) {
    let lock: Value = serde_json::from_str(body).unwrap();
    let path = lock["_links"]["self"]["href"].as_str().unwrap().to_string();
    (path, lock["fencing_token"].as_u64().unwrap())
}
