//! Whole connections, answered by the service with real locks: heads, targets, names, fields,
//! JSON bodies and Authorization. Nothing may end in a panic, which would be a 500.

#![no_main]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rdlm::doors::access::Access;
use rdlm::doors::users::{UserFile, Users};
use rdlm::doors::{Environment, Past, RequestLimits, Service, Settings};
use rdlm_http::connection::{Connection, Next};
use rdlm_http::departures::Departures;
use rdlm_http::transport::{Memory, Transport};
use rdlm_lock::{Limits, LockTable};

struct World {
    service: Service,
    departures: Arc<Departures>,
}

/// Who is known by a password or a token, here `t`, and may do what.
const USERS: &str = r#"
[anonymous]
may = ["lock a*", "see b"]
[user.alice]
password = "secret"
token = "sha256:e3b98a4da31a127d4bde6e43033f66ba274cab0eb7eb1c70ec41402bf6273dd8"
may = ["lock r*", "see *"]
[user.admin]
password = "secret"
may = ["admin *"]
"#;

/// Nobody waits or follows events, or the fuzzer would.
fn settings() -> Settings {
    let max_wait = Duration::ZERO;
    Settings {
        limits: RequestLimits { max_wait, max_lifetime: Duration::from_secs(1) },
        hosts: vec!["h".into()],
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        fleetlock: "1".parse().ok(),
        ..Settings::default()
    }
}

impl World {
    /// With a file of administrators.
    fn with_administrators() -> Self {
        let users = concat!(env!("CARGO_MANIFEST_DIR"), "/target/admin");
        fs::write(users, "admin:secret\n").unwrap();
        let settings = Settings { access: Access::UserFile(users.into()), ..settings() };
        Self::new(settings, None)
    }

    /// With a file of users, behind a proxy with a path.
    fn with_users() -> Self {
        let users = concat!(env!("CARGO_MANIFEST_DIR"), "/target/users.toml");
        fs::write(users, USERS).unwrap();
        let file = UserFile(users.into());
        let users = Arc::new(file.clone().load().unwrap());
        let base_url = Some("https://h/p".into());
        Self::new(Settings { users: Some(file), base_url, ..settings() }, Some(users))
    }

    fn new(settings: Settings, users: Option<Arc<Users>>) -> Self {
        let limits = Limits { locks: 1_000, waiting: 1, waiting_per_resource: 1 };
        let locks = LockTable::new(limits, Duration::ZERO, None, Arc::new(())).unwrap();
        let past =
            Past { history: None, started: std::time::SystemTime::UNIX_EPOCH, is_shared: false };
        let environment = Environment { users, own_host: "host".into(), past };
        let service =
            Service::new(Arc::new(Arc::new(locks)), settings, environment, Arc::default());
        Self { service, departures: Arc::new(Departures::new().unwrap()) }
    }

    /// Answers as long as the connection lasts.
    fn serve(&self, client: &Memory) {
        let transport = Transport::Memory(client.clone());
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let idle_timeout = Duration::from_secs(75);
        let mut connection =
            Connection::new(transport, address, idle_timeout, Arc::clone(&self.departures))
                .unwrap();
        loop {
            let incoming = match connection.next_request() {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return,
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            let exchange = match incoming.receive() {
                Ok(exchange) => exchange,
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            let response = self.service.answer(&exchange.request, exchange.client).wait();
            assert!(response.status.code() != 500);
            let next = exchange.respond(response).unwrap();
            check(&client.take_output());
            if next == Next::Close {
                return;
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    static WORLDS: OnceLock<[World; 2]> = OnceLock::new();
    let worlds = WORLDS.get_or_init(|| [World::with_administrators(), World::with_users()]);
    worlds.iter().for_each(|world| world.serve(&Memory::new(input)));
});

/// Nothing that a client sends can add a line to the head of an answer.
fn check(answer: &[u8]) {
    let answer = answer.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(answer);
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..head]).unwrap();
    for line in head.split("\r\n").skip(1) {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        assert!(!value.contains(['\r', '\n', '\0']));
    }
}
