//! A service is upgraded from 1.0.0 under load, one server after the other. `make test-upgrade`
//! builds that version and says where it is.

use std::env;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::etcd::{Etcd, free_port};
use crate::cluster::etcd_or_skip;
use crate::harness::{Client, PATIENCE, Response, Server, wait_until};

const NEW: &str = env!("CARGO_BIN_EXE_rdlm");

/// How many clients there are, and resources that they share.
const CLIENTS: usize = 4;
const RESOURCES: usize = 2;

/// Of each client, between two steps of the upgrade.
const ROUNDS: u64 = 5;

fn command(binary: &str, etcd: &Etcd, options: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(["serve", "--bind", "127.0.0.1", "--etcd", &etcd.endpoints()]);
    command.args(["--failover-after", "10"]).args(options);
    command
}

fn start(binary: &str, etcd: &Etcd, port: u16) -> Server {
    Server::start_command_on(port, &mut command(binary, etcd, &[]))
}

/// One attempt at a server that may be gone, and may be of another version than this test.
fn attempt(port: u16, method: &str, path: &str, key: &str, body: &str) -> Option<Response> {
    let mut client = Client::try_connect(port)?;
    let headers =
        format!("Host: localhost\r\nIdempotency-Key: {key}\r\nContent-Length: {}", body.len());
    client
        .try_send(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n{body}").as_bytes())
        .ok()?;
    client.try_response().ok()
}

fn health(port: u16) -> Option<Value> {
    let response = attempt(port, "GET", "/health", "k", "")?;
    (response.status == 200).then(|| response.json())
}

fn has_role(port: u16, role: &str) -> bool {
    health(port).is_some_and(|health| health["role"] == role)
}

/// What clients know of the resources that they share.
struct Load {
    ports: [u16; 2],
    is_over: AtomicBool,
    rounds: [AtomicU64; CLIENTS],
    held: [AtomicBool; RESOURCES],
    last_tokens: Mutex<[u64; RESOURCES]>,
}

impl Load {
    /// Asks one server after the other until there is an answer, as `rdlm run` does.
    fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> Response {
        let end = Instant::now() + PATIENCE;
        for port in self.ports.iter().cycle() {
            match attempt(*port, method, path, key, body) {
                Some(response) if response.status != 503 => return response,
                _ => thread::sleep(Duration::from_millis(20)),
            }
            assert!(Instant::now() < end, "no answer to {method} {path}");
        }
        unreachable!("the servers are tried in turn for ever")
    }

    /// Acquires a shared lock, renews and releases it, again and again.
    fn run(&self, client: usize) {
        for round in 0.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let resource = (client + round) % RESOURCES;
            let (path, key) = (format!("/locks/shared{resource}"), format!("{client}-{round}"));
            let body = r#"{"title":"load","wait":30,"lifetime":600}"#;
            let granted = self.ask("POST", &path, &key, body);
            if granted.status == 408 {
                continue;
            }
            assert_eq!(granted.status, 201, "{}", granted.text());
            let granted = granted.json();
            let lock = format!("{path}/{}", granted["uid"].as_str().unwrap());
            let token = granted["fencing_token"].as_u64().unwrap();
            assert!(!self.held[resource].swap(true, Ordering::SeqCst), "two hold it");
            let last = std::mem::replace(&mut self.last_tokens.lock().unwrap()[resource], token);
            assert!(token > last, "{token} was granted after {last}");
            let renewed = self.ask("PATCH", &lock, &key, r#"{"lifetime":600}"#);
            assert_eq!(renewed.status, 200, "{}", renewed.text());
            self.held[resource].store(false, Ordering::SeqCst);
            let released = self.ask("DELETE", &lock, &key, "").status;
            // 404 if the answer to the first attempt was lost.
            assert!([204, 404].contains(&released), "{released}");
            self.rounds[client].fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until every client has got some locks.
    fn go_on(&self) {
        let before = self.rounds.each_ref().map(|rounds| rounds.load(Ordering::SeqCst));
        wait_until("all clients have got locks", || {
            let mut clients = self.rounds.iter().zip(before);
            clients.all(|(rounds, before)| rounds.load(Ordering::SeqCst) >= before + ROUNDS)
        });
    }
}

/// Ends the load also if a step fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn format(etcd: &Etcd) -> u64 {
    let head = etcd.ctl(&["get", "--print-value-only", "/rdlm/head"]).unwrap();
    serde_json::from_str::<Value>(&head).unwrap()["format"].as_u64().unwrap()
}

fn stop(mut server: Server) {
    server.signal("-TERM");
    assert!(server.wait().success());
}

/// What a server of either version shows of a lock.
fn shown(port: u16, resource: &str) -> Value {
    let path = format!("/resources/{resource}");
    attempt(port, "GET", &path, "k", "").unwrap().json()["_embedded"]["locks"][0].clone()
}

/// Has 1.0.0 grant a lock with an end, and one without, and returns what it shows of each.
fn hold_some(port: u16) -> [(&'static str, Value); 2] {
    let kept = r#"{"title":"t","wait":0,"lifetime":600}"#;
    assert_eq!(attempt(port, "POST", "/locks/kept", "kept", kept).unwrap().status, 201);
    let endless = r#"{"ID":"an-id","Who":"somebody"}"#;
    assert_eq!(attempt(port, "LOCK", "/locks/endless", "k", endless).unwrap().status, 200);
    ["kept", "endless"].map(|resource| (resource, shown(port, resource)))
}

#[test]
#[ignore = "needs version 1.0.0; make test-upgrade runs it"]
fn a_rolling_upgrade_from_1_0_0_loses_no_lock_and_has_no_way_back() {
    let old = env::var("RDLM_1_0_0").expect("make test-upgrade says where version 1.0.0 is");
    let etcd = etcd_or_skip!(1);
    let ports = [free_port(), free_port()];
    let first = start(&old, &etcd, ports[0]);
    wait_until("the first is active", || has_role(ports[0], "active"));
    let second = start(&old, &etcd, ports[1]);
    let forgotten = start(&old, &etcd, 0);
    let held = hold_some(ports[0]);
    let load = Load {
        ports,
        is_over: AtomicBool::new(false),
        rounds: Default::default(),
        held: Default::default(),
        last_tokens: Mutex::default(),
    };
    let servers = thread::scope(|scope| {
        let _ends = Ends(&load.is_over);
        let load = &load;
        (0..CLIENTS).for_each(|client| drop(scope.spawn(move || load.run(client))));
        load.go_on();
        // The standby first: it passes requests on to the active server of 1.0.0.
        stop(second);
        let second = start(NEW, &etcd, ports[1]);
        wait_until("it knows the active server", || {
            health(ports[1])
                .is_some_and(|it| it["active"] == format!("http://127.0.0.1:{}", ports[0]))
        });
        load.go_on();
        assert_eq!(format(&etcd), 1);
        // Otherwise it might take over, too.
        forgotten.signal("-STOP");
        stop(first);
        wait_until("it is active", || has_role(ports[1], "active"));
        let first = start(NEW, &etcd, ports[0]);
        wait_until("the first is a standby", || has_role(ports[0], "standby"));
        load.go_on();
        assert_eq!(format(&etcd), 2);
        forgotten.signal("-CONT");
        [first, second]
    });
    for (resource, before) in &held {
        let now = shown(servers[1].port(), resource);
        for member in ["uid", "fencing_token", "active_since", "title"] {
            assert_eq!(now[member], before[member], "{resource}: {member}");
        }
        assert_eq!(now["active"], true);
    }
    assert_eq!(shown(servers[1].port(), "endless")["active_expires"], Value::Null);
    let kept = r#"{"title":"t","wait":0,"lifetime":600}"#;
    let again = load.ask("POST", "/locks/kept", "kept", kept);
    assert_eq!(again.json()["uid"], held[0].1["uid"], "its key leads to the lock");
    refuses_format_2(&old, &etcd, forgotten);
}

/// A server of 1.0.0 that was left running ends, and another one does not start.
fn refuses_format_2(old: &str, etcd: &Etcd, mut forgotten: Server) {
    let why = "has format 2, and this version of rdlm supports format 1 alone";
    forgotten.read_log_to(why);
    assert!(!forgotten.wait().success());
    let late = command(old, etcd, &["--port", "0"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(!late.status.success() && said.contains(why), "{said}");
}
