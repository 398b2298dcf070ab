//! What was acknowledged survives whatever ends the server.

mod disk;
mod kills;
mod restarts;
mod stall;
mod strace;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{PATIENCE, Server, TempDir};

/// A place for a data directory, and the servers that use it one after the other.
struct Host {
    temp: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { temp: TempDir::new() }
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
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    if head.contains("\r\nTransfer-Encoding: chunked\r\n") {
        return Some((status, whole_of_chunks(body)?));
    }
    let whole = length.is_none_or(|length| length.parse() == Ok(body.len()));
    whole.then(|| (status, body.to_string()))
}

/// A body without its chunks, if they have an end.
fn whole_of_chunks(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, data) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body += data.get(..size)?;
        rest = data[size..].strip_prefix("\r\n")?;
    }
}

/// The path and the token of the lock that an answer shows.
fn lock_of(body: &str) -> (String, u64) {
    let lock: Value = serde_json::from_str(body).unwrap();
    let path = lock["_links"]["self"]["href"].as_str().unwrap().to_string();
    (path, lock["fencing_token"].as_u64().unwrap())
}
