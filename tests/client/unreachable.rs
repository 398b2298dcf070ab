//! Servers and name servers that are silent: nothing refuses a connection, nothing answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::{Running, rdlm};
use crate::harness::{Server, lock_body, wait_until};

/// What `wait_until` has no say in: that a thread is scheduled and a process starts.
const MARGIN: Duration = Duration::from_secs(2);

/// A way to a server, until it is cut: then its connections are silent, and new ones do not come
/// about, because the queue of the listener is full.
struct Way {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    _listener: TcpListener,
}

impl Way {
    /// Takes one connection, or none.
    fn to(server: Option<&Server>) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        if let Some(server) = server {
            let (port, cut) = (server.port(), Arc::clone(&is_cut));
            let listener = listener.try_clone().unwrap();
            thread::spawn(move || {
                let (client, _) = listener.accept().unwrap();
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let also_cut = Arc::clone(&cut);
                thread::spawn(move || pass(back.0, back.1, &also_cut));
                pass(client, server, &cut);
            });
        }
        Self { address, is_cut, _listener: listener }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        // Until one is not taken any more.
        while let Ok(stream) = TcpStream::connect_timeout(&self.address, Duration::from_millis(300))
        {
            std::mem::forget(stream);
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !is_cut.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// Five ways to one server, of which the first leads there until all are cut.
fn ways(server: &Server) -> (Vec<Way>, String) {
    let ways: Vec<_> = (0..5).map(|way| Way::to((way == 0).then_some(server))).collect();
    ways[1..].iter().for_each(Way::cut);
    let urls: Vec<_> = ways.iter().map(Way::url).collect();
    (ways, urls.join(","))
}

/// The command is told before another client has the lock, however many servers there are.
#[test]
fn a_partition_from_all_servers_is_told_before_the_lock_is_granted_again() {
    let server = Server::start();
    let (ways, urls) = ways(&server);
    let script = "trap 'echo told; exit' TERM; echo ready; sleep 100 & wait";
    let args = ["run", "--lifetime", "6", "--url", &urls, "foo", "--", "sh", "-c", script];
    let mut run = Running::start(&mut rdlm(1, &args));
    assert_eq!(run.line(), "ready");
    ways[0].cut();
    let mut next = server.connect();
    next.send_request("POST", "/locks/foo", &lock_body(600, 600));
    let granted = thread::spawn(move || {
        assert_eq!(next.response().status, 201);
        Instant::now()
    });
    assert_eq!(run.line(), "told");
    let told = Instant::now();
    let granted = granted.join().unwrap();
    assert!(told < granted + MARGIN, "{:?} late", told.saturating_duration_since(granted));
    // What remains is the end of the command: nothing is asked of a server any more.
    assert_eq!(run.end().0, Some(74));
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
}

#[test]
fn a_signal_ends_the_wait_in_three_seconds_however_many_servers_are_silent() {
    let server = Server::start();
    server.hold("b");
    let (ways, urls) = ways(&server);
    // One lock that is held, and one that is waited for.
    let args = ["run", "--url", &urls, "a", "b", "--", "true"];
    let mut run = Running::start(&mut rdlm(1, &args));
    wait_until("it waits", || server.locks("b").len() == 2);
    ways[0].cut();
    let began = Instant::now();
    run.signal("-TERM");
    assert_eq!(run.wait(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(3) + MARGIN, "{:?}", began.elapsed());
}

/// A second server, whose name is looked up without an end: the C library opens the file of aliases
/// first, which is a pipe that nobody writes to.
struct Nameless {
    _directory: TempDir,
}

impl Nameless {
    /// Has a command ask a server, and when that is gone, the one without an address.
    fn behind(server: &Server, command: &mut Command) -> Self {
        let directory = TempDir::new().unwrap();
        let aliases = directory.path().join("aliases");
        assert!(Command::new("mkfifo").arg(&aliases).status().unwrap().success());
        let urls = format!("http://127.0.0.1:{},http://nameless:8888", server.port());
        command.env("HOSTALIASES", &aliases).env("RDLM_URL", urls);
        Self { _directory: directory }
    }
}

#[test]
fn a_name_server_that_is_silent_delays_neither_the_loss_nor_the_end() {
    let server = Server::start();
    let script = "trap 'echo told; exit' TERM; echo ready; sleep 100 & wait";
    let mut command = rdlm(1, &["run", "--lifetime", "6", "foo", "--", "sh", "-c", script]);
    let _nameless = Nameless::behind(&server, &mut command);
    let mut run = Running::start(&mut command);
    assert_eq!(run.line(), "ready");
    let began = Instant::now();
    server.signal("-KILL");
    assert_eq!(run.line(), "told");
    assert!(began.elapsed() < Duration::from_secs(6) + MARGIN, "{:?}", began.elapsed());
    let told = Instant::now();
    let (code, errors) = run.end();
    assert_eq!(code, Some(74));
    assert!(errors.contains("the lock on foo is lost"), "{errors}");
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
}

/// Nor the end of a wait.
#[test]
fn a_name_server_that_is_silent_is_given_up() {
    let server = Server::start();
    server.hold("b");
    let mut command = rdlm(1, &["run", "a", "b", "--", "true"]);
    let _nameless = Nameless::behind(&server, &mut command);
    let mut run = Running::start(&mut command);
    wait_until("it waits", || server.locks("b").len() == 2);
    server.signal("-KILL");
    let began = Instant::now();
    run.signal("-TERM");
    assert_eq!(run.wait(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(3) + MARGIN, "{:?}", began.elapsed());
}
