//! Several servers on a real etcd. Without one installed, each test is skipped.

mod credentials;
mod departures;
mod doors;
pub(crate) mod etcd;
mod failover;
mod faults;
mod front;
mod paces;
mod proxy;
mod refusals;
mod restored;
mod rows;
mod start;
mod tls;
mod users;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{PATIENCE, Response, Server, lock_body, wait_until};
use etcd::{Etcd, free_port};

/// Skips the test where etcd is not installed.
macro_rules! etcd_or_skip {
    ($members:expr) => {{
        let Some(etcd) = crate::cluster::etcd::Etcd::start($members) else { return };
        etcd
    }};
}
pub(crate) use etcd_or_skip;

/// `--failover-after` of the tests: as short as it goes.
const FAILOVER: Duration = Duration::from_secs(1);

/// The options of tests in which nobody is to be replaced, however busy the machine is.
const CALM: [&str; 2] = ["--failover-after", "10"];

/// A server on this etcd, by way of these endpoints.
fn join_by(endpoints: &str, options: &[&str]) -> Server {
    join_on(0, endpoints, options)
}

fn join_on(port: u16, endpoints: &str, options: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.args(["serve", "--bind", "127.0.0.1", "--etcd", endpoints]);
    if !options.contains(&CALM[0]) {
        command.args(["--failover-after", "1"]);
    }
    Server::start_command_on(port, command.args(options))
}

pub(crate) fn join(etcd: &Etcd) -> Server {
    join_by(&etcd.endpoints(), &[])
}

pub(crate) fn join_with(etcd: &Etcd, options: &[&str]) -> Server {
    join_by(&etcd.endpoints(), options)
}

/// What it says of its role, also where it is 503.
pub(crate) fn health(server: &Server) -> Value {
    server.get("/health").json()
}

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port())
}

/// The first is active, the second knows it.
fn two(etcd: &Etcd) -> (Server, Server) {
    two_with(etcd, &[])
}

fn two_with(etcd: &Etcd, options: &[&str]) -> (Server, Server) {
    let active = join_by(&etcd.endpoints(), options);
    wait_until("one is active", || health(&active)["role"] == "active");
    let standby = join_by(&etcd.endpoints(), options);
    wait_until("the other knows it", || health(&standby)["active"] == url(&active).as_str());
    (active, standby)
}

/// The value of a metric.
fn metric(server: &Server, name: &str) -> f64 {
    let response = server.get("/metrics");
    let line = response.text().lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

/// Asks again, with the same key, until there is an answer other than 503, as a client does that is
/// told so: on a busy machine, a grant may be written too late to be answered.
pub(crate) fn acquire_patiently(server: &Server, resource: &str) -> Response {
    static LAST_KEY: AtomicU64 = AtomicU64::new(0);
    let key = LAST_KEY.fetch_add(1, Ordering::Relaxed);
    let headers = format!("Host: localhost\r\nIdempotency-Key: patient-{key}");
    let end = Instant::now() + PATIENCE;
    loop {
        let mut client = server.connect();
        client.send_with_headers(
            "POST",
            &format!("/locks/{resource}"),
            &headers,
            &lock_body(0, 600),
        );
        let response = client.response();
        if response.status != 503 {
            return response;
        }
        assert!(Instant::now() < end, "still {}", response.text());
    }
}

fn tokens(server: &Server, resource: &str) -> Vec<u64> {
    let held = server.locks(resource).into_iter().filter(|lock| lock["active"] == true);
    held.map(|lock| lock["fencing_token"].as_u64().unwrap()).collect()
}
