//! A server process a test, and a client that fails the test if anything goes wrong.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::wire::Response;
use crate::wire::{self, Connection};

/// Long enough for anything on a busy machine. A test that reaches it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free port, ended with the test.
pub(crate) struct Server {
    process: Child,
    log: Option<BufReader<ChildStderr>>,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(options: &[&str]) -> Self {
        // Another program that serves the same, to see which tests it fails: `make tiny-http`.
        let other = std::env::var_os("RDLM_SERVER");
        let program = other.unwrap_or_else(|| env!("CARGO_BIN_EXE_rdlm").into());
        Self::start_command(Command::new(program).arg("serve").args(options))
    }

    /// Adds `--port 0` and waits until the server listens.
    pub(crate) fn start_command(command: &mut Command) -> Self {
        Self::start_command_on(0, command)
    }

    /// Adds `--port` and waits until the server listens.
    pub(crate) fn start_command_on(port: u16, command: &mut Command) -> Self {
        let command =
            command.args(["--port", &port.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on ") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server did not start");
        }
        let address = line.split("listening on ").nth(1).unwrap().split(',').next().unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Self { process, log: Some(log), port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::new(TcpStream::connect(("127.0.0.1", self.port)).unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Response {
        self.connect().request(method, path, body)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    pub(crate) fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, "")
    }

    /// Asks for a lock.
    pub(crate) fn acquire(&self, resource: &str, wait: f64, lifetime: f64) -> Response {
        self.connect().acquire(resource, wait, lifetime)
    }

    /// Acquires a lock that is free and returns its path.
    pub(crate) fn hold(&self, resource: &str) -> String {
        self.acquire(resource, 0.0, 600.0).lock_path()
    }

    /// Asks for a held lock on a connection of its own and returns when the request waits.
    pub(crate) fn join_line(&self, resource: &str) -> Client {
        let waiting = self.locks(resource).len();
        let mut client = self.connect();
        client.send_acquire(resource, 600.0, 600.0);
        wait_until("the request waits", || self.locks(resource).len() > waiting);
        client
    }

    /// Asks for a held lock with a key and returns when the request waits.
    pub(crate) fn join_line_with_key(&self, resource: &str, key: &str) -> Client {
        let waiting = self.locks(resource).len();
        let mut client = self.connect();
        client.send_acquire_with_key(resource, key);
        wait_until("the request waits", || self.locks(resource).len() > waiting);
        client
    }

    /// Asks for a lock with these fields beside the title.
    pub(crate) fn acquire_with(&self, resource: &str, fields: &str) -> Response {
        let body = format!(r#"{{"title":"a test",{fields}}}"#);
        self.request("POST", &format!("/locks/{resource}"), &body)
    }

    /// The locks of a resource, as the server lists them.
    pub(crate) fn locks(&self, resource: &str) -> Vec<Value> {
        let response = self.get(&format!("/resources/{resource}"));
        assert_eq!(response.status, 200);
        response.json()["_embedded"]["locks"].as_array().cloned().unwrap_or_default()
    }

    /// A number from /proc/PID/status.
    pub(crate) fn status_field(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How many of its threads have this name.
    pub(crate) fn threads_named(&self, name: &str) -> usize {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let names = threads.map(|thread| fs::read(thread.unwrap().path().join("comm")));
        names.filter(|it| it.as_ref().is_ok_and(|it| it.trim_ascii() == name.as_bytes())).count()
    }

    /// The processor time that it has used, in clock ticks.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Ends the server and returns what it logged.
    pub(crate) fn into_log(mut self) -> String {
        // Not by SIGKILL: the last lines may be on their way.
        self.signal("-TERM");
        let mut text = String::new();
        self.log.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Reads the log up to a line that contains `text`.
    pub(crate) fn read_log_to(&mut self, text: &str) {
        let log = self.log.as_mut().unwrap();
        let found = log.lines().any(|line| line.unwrap().contains(text));
        assert!(found, "the log ended without {text:?}");
    }

    /// Closes the other end of the server's standard error.
    pub(crate) fn close_log(&mut self) {
        self.log = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection. What goes wrong fails the test.
pub(crate) struct Client<S = TcpStream>(Connection<S>);

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Connection::on(stream, PATIENCE).unwrap())
    }

    /// A connection to a server that may not be there.
    pub(crate) fn try_connect(port: u16) -> Option<Self> {
        TcpStream::connect(("127.0.0.1", port)).ok().map(Self::new)
    }

    /// Ends the sending side.
    pub(crate) fn half_close(&self) {
        self.0.half_close().unwrap();
    }

    /// Ends the connection as a client does that crashes.
    pub(crate) fn reset(self) {
        self.0.reset().unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self(Connection::over(stream))
    }

    /// The socket, or the session of TLS.
    pub(crate) fn stream(&self) -> &S {
        self.0.stream()
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        self.0.stream_mut()
    }

    /// Sends bytes to a server that may have closed the connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send(bytes)
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes).unwrap();
    }

    pub(crate) fn send_request(&mut self, method: &str, path: &str, body: &str) {
        self.send_with_headers(method, path, "Host: localhost", body);
    }

    /// Sends a request with these header lines and a Content-Length.
    pub(crate) fn send_with_headers(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &str,
    ) {
        self.send(wire::request(method, target, headers, body));
    }

    pub(crate) fn send_acquire(&mut self, resource: &str, wait: f64, lifetime: f64) {
        self.send_request("POST", &format!("/locks/{resource}"), &lock_body(wait, lifetime));
    }

    /// Asks for a lock with a key of a retry, waiting up to 600 s.
    pub(crate) fn send_acquire_with_key(&mut self, resource: &str, key: &str) {
        let (path, headers) =
            (format!("/locks/{resource}"), format!("Host: localhost\r\nIdempotency-Key: {key}"));
        self.send_with_headers("POST", &path, &headers, &lock_body(600, 600));
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str) -> Response {
        self.send_request(method, path, body);
        self.response()
    }

    pub(crate) fn acquire(&mut self, resource: &str, wait: f64, lifetime: f64) -> Response {
        self.send_acquire(resource, wait, lifetime);
        self.response()
    }

    /// Sends a request with these header lines; `None` if the connection ends without a byte of
    /// an answer.
    pub(crate) fn try_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &str,
    ) -> Option<Response> {
        self.0.send(wire::request(method, target, headers, body)).ok()?;
        if self.is_closed() { None } else { Some(self.response()) }
    }

    /// Reads one response, which says that it is rdlm's.
    pub(crate) fn response(&mut self) -> Response {
        let response = self.try_response().unwrap();
        response.assert_from_rdlm();
        response
    }

    pub(crate) fn try_response(&mut self) -> io::Result<Response> {
        self.0.response()
    }

    pub(crate) fn try_head(&mut self) -> io::Result<Response> {
        self.0.head()
    }

    /// Reads the head of a response, which says that it is rdlm's.
    pub(crate) fn head(&mut self) -> Response {
        let head = self.try_head().unwrap();
        head.assert_from_rdlm();
        head
    }

    /// Reads one chunk; `None` at the end.
    pub(crate) fn try_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.0.chunk()
    }

    /// All that comes until the server ends the connection.
    pub(crate) fn rest(self) -> String {
        self.0.rest().unwrap()
    }

    /// Whether the server closes the connection without a further byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.is_closed()
    }
}

impl Response {
    /// An answer of the server says so, also behind a proxy that overwrites `Server`; an interim one
    /// is of the connection.
    fn assert_from_rdlm(&self) {
        let version = env!("CARGO_PKG_VERSION");
        if self.status >= 200 {
            assert_eq!(self.header("Server"), Some(&*format!("rdlm/{version}")), "{self:?}");
            assert_eq!(self.header("RDLM-Version"), Some(version), "{self:?}");
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The path of the lock that was granted.
    pub(crate) fn lock_path(&self) -> String {
        assert_eq!(self.status, 201, "{}", self.text());
        let location = self.header("Location").unwrap();
        location.strip_prefix("http://localhost").unwrap().to_string()
    }

    /// Checks that this is an error as RFC 9457 has it and returns its detail.
    pub(crate) fn detail(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"));
        let problem = self.json();
        let reason = problem["reason"].as_str().map_or_else(|| status.to_string(), str::to_string);
        assert_eq!(problem["type"], format!("urn:rdlm:problem:{reason}"));
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        problem["detail"].as_str().unwrap().to_string()
    }
}

pub(crate) fn lock_body(wait: impl Display, lifetime: impl Display) -> String {
    format!(r#"{{"title":"a test","wait":{wait},"lifetime":{lifetime}}}"#)
}

/// Looks again until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
