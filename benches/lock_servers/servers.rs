//! The servers that are measured, each a process on a free port.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use rdlm_http::connection::Next;
use rdlm_http::listener::Listener;
use rdlm_http::{Response, Status};
use tempfile::TempDir;

/// The argument that makes this program a server that does nothing.
pub(crate) const NO_OP: &str = "no-op-server";

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Rdlm,
    NoOp,
    /// examples/tiny_http.rs
    TinyHttp,
    Redis,
    Etcd,
    /// With each change on disk before it is answered.
    RdlmOnDisk,
    /// The same.
    RedisOnDisk,
}

pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    process: Child,
    _dir: TempDir,
}

impl Server {
    /// `None` when it is not installed.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let address = free_address();
        let port = address.port().to_string();
        let dir = TempDir::new().unwrap();
        let mut command = match kind {
            Kind::Rdlm | Kind::RdlmOnDisk => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
                command.args(["serve", "--logging", "warning", "--port", &port]);
                if kind == Kind::RdlmOnDisk {
                    command.arg("--data-dir").arg(dir.path());
                }
                command
            }
            Kind::NoOp => {
                let mut command = Command::new(env::current_exe().unwrap());
                command.args([NO_OP, &port]);
                command
            }
            Kind::TinyHttp => {
                let built = env::current_exe().unwrap();
                let built = built.ancestors().nth(2).unwrap().join("examples/tiny_http");
                let mut command = Command::new(built);
                command.args(["serve", "--port", &port]);
                command
            }
            Kind::Redis | Kind::RedisOnDisk => {
                let mut command = Command::new("redis-server");
                let on_disk = if kind == Kind::RedisOnDisk { "yes" } else { "no" };
                command.args(["--port", &port, "--save", "", "--appendonly", on_disk]);
                command.args(["--appendfsync", "always"]);
                command
            }
            Kind::Etcd => {
                let client = format!("http://{address}");
                let peer = format!("http://{}", free_address());
                let mut command = Command::new("etcd");
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer]);
                command.args(["--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("default={peer}"), "--data-dir"]);
                command.arg(dir.path());
                command
            }
        };
        let quiet = command.current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(process) = quiet.spawn() else {
            println!("skipped: {kind:?} is not installed\n");
            return None;
        };
        let server = Self { kind, address, process, _dir: dir };
        server.wait_until_up();
        Some(server)
    }

    fn wait_until_up(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < end, "{:?} did not start", self.kind);
            thread::sleep(Duration::from_millis(20));
        }
        // etcd elects itself before it answers.
        if self.kind == Kind::Etcd {
            thread::sleep(Duration::from_secs(3));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves without a lock manager, by the same listener and with answers of the same size.
pub(crate) fn run_no_op() {
    let port: u16 = env::args().next_back().unwrap().parse().unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], port).into(), IDLE_TIMEOUT).unwrap();
    let location = "http://127.0.0.1:8888/locks/r0/aa4e181e17374148a21b30d9dcb941f9";
    loop {
        let mut connection = listener.accept().unwrap();
        thread::spawn(move || {
            while let Ok(Some(incoming)) = connection.next_request() {
                let Ok(exchange) = incoming.receive() else { return };
                let response = match exchange.request.method {
                    "POST" => Response::new(Status::Created)
                        .header("Location", location)
                        .body("application/hal+json", vec![b' '; 300]),
                    _ => Response::no_content(),
                };
                if !matches!(exchange.respond(response), Ok(Next::Request)) {
                    return;
                }
            }
        });
    }
}
