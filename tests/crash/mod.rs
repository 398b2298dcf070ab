//! What was acknowledged survives whatever ends the server.

pub(crate) mod disk;
mod kills;
mod restarts;
mod stall;
mod strace;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Server};
use crate::wire::{self, Connection};

/// A place for a data directory, and the servers that use it one after the other.
pub(crate) struct Host {
    temp: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { temp: TempDir::new().unwrap() }
    }

    fn data_dir(&self) -> String {
        self.temp.path().join("data").to_str().unwrap().to_string()
    }

    pub(crate) fn start(&self) -> Server {
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
    pub(crate) fn file(&self) -> PathBuf {
        Path::new(&self.data_dir()).join("00000001.log")
    }

    /// What the server says that does not start: one line, with the exit code 1.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        let mut command = self.command();
        let command = command.args(["--port", "0"]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut text = Vec::new();
        for line in BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap) {
            if line.contains("listening on ") {
                server.kill().unwrap();
            }
            text.push(line);
        }
        assert_eq!(server.wait().unwrap().code(), Some(1), "{text:?}");
        assert_eq!(text.len(), 1, "{text:?}");
        text.concat()
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
