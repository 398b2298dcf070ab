//! How a lock is acquired and released at each kind of server.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::servers::{Kind, Server};
use crate::wire::{self, Connection, Response};

/// As long as a client asks to wait.
const PATIENCE: Duration = Duration::from_secs(600);

/// A client with a connection of its own. `acquire` waits as long as it takes and returns
/// what `release` needs.
pub(crate) trait Client: Send {
    fn acquire(&mut self, resource: &str) -> String;
    fn release(&mut self, resource: &str, handle: &str);
}

pub(crate) fn connect(server: &Server) -> Box<dyn Client> {
    connect_for(server, "")
}

/// A client that asks for locks with these JSON fields, which only rdlm knows.
pub(crate) fn connect_for(server: &Server, fields: &'static str) -> Box<dyn Client> {
    let http = || Http(Connection::open(server.address, PATIENCE).unwrap());
    match server.kind {
        Kind::Rdlm | Kind::RdlmOnDisk | Kind::NoOp | Kind::TinyHttp => {
            Box::new(Rdlm { http: http(), fields })
        }
        Kind::Redis | Kind::RedisOnDisk => Box::new(Redis::connect(server.address)),
        Kind::Etcd => Box::new(Etcd(http())),
    }
}

struct Rdlm {
    http: Http,
    fields: &'static str,
}

impl Client for Rdlm {
    fn acquire(&mut self, resource: &str) -> String {
        let body = format!(r#"{{"title":"bench","wait":600,"lifetime":600{}}}"#, self.fields);
        let response = self.http.call("POST", &format!("/locks/{resource}"), &body, 201);
        let path = response.header("Location").unwrap().splitn(4, '/').last().unwrap();
        format!("/{path}")
    }

    fn release(&mut self, _: &str, path: &str) {
        self.http.call("DELETE", path, "", 204);
    }
}

/// SET NX with a token, deleted by a script that compares the token; who finds the lock held
/// tries again after a millisecond.
struct Redis {
    stream: BufReader<TcpStream>,
    tokens: u64,
}

const COMPARE_AND_DELETE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] \
     then return redis.call('del', KEYS[1]) else return 0 end";

impl Redis {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), tokens: 0 }
    }

    fn call(&mut self, words: &[&str]) -> String {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(command.as_bytes()).unwrap();
        let mut reply = String::new();
        self.stream.read_line(&mut reply).unwrap();
        reply
    }
}

impl Client for Redis {
    fn acquire(&mut self, resource: &str) -> String {
        self.tokens += 1;
        let port = self.stream.get_ref().local_addr().unwrap().port();
        let token = format!("{port:016x}{:016x}", self.tokens);
        while self.call(&["SET", resource, &token, "NX", "PX", "600000"]) != "+OK\r\n" {
            thread::sleep(Duration::from_millis(1));
        }
        token
    }

    fn release(&mut self, resource: &str, token: &str) {
        let deleted = self.call(&["EVAL", COMPARE_AND_DELETE, "1", resource, token]);
        assert_eq!(deleted, ":1\r\n");
    }
}

/// A lease and a lock of etcd's lock service, by way of its JSON gateway.
struct Etcd(Http);

impl Etcd {
    fn call(&mut self, path: &str, body: &Value) -> Value {
        let response = self.0.call("POST", path, &body.to_string(), 200);
        serde_json::from_slice(&response.body).unwrap()
    }
}

impl Client for Etcd {
    fn acquire(&mut self, resource: &str) -> String {
        let lease = self.call("/v3/lease/grant", &json!({ "TTL": 600 }))["ID"].clone();
        let name = BASE64_STANDARD.encode(resource);
        let lock = self.call("/v3/lock/lock", &json!({ "name": name, "lease": lease }));
        format!("{} {}", lease.as_str().unwrap(), lock["key"].as_str().unwrap())
    }

    fn release(&mut self, _: &str, handle: &str) {
        let (lease, key) = handle.split_once(' ').unwrap();
        self.call("/v3/lock/unlock", &json!({ "key": key }));
        self.call("/v3/lease/revoke", &json!({ "ID": lease }));
    }
}

struct Http(Connection);

impl Http {
    /// Sends a request and checks the status.
    fn call(&mut self, method: &str, path: &str, body: &str, status: u16) -> Response {
        self.0.send(wire::request(method, path, "Host: bench", body)).unwrap();
        let response = self.0.response().unwrap();
        assert_eq!(response.status, status, "{method} {path}");
        response
    }
}
