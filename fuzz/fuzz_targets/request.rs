//! Whole requests, answered by the service with real locks: targets, names, fields, JSON
//! bodies and Authorization. Nothing may end in a panic, which would be a 500.

#![no_main]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use rdlm::http::access::Access;
use rdlm::http::departures::{Client, Departures};
use rdlm::http::head::{Head, HeadScan};
use rdlm::http::message::{MAX_BODY, Request};
use rdlm::http::{RequestLimits, Service};
use rdlm::lock::{Limits, LockTable};
use smol_str::SmolStr;

struct World {
    service: Service,
    socket: TcpStream,
    address: SmolStr,
    departures: Departures,
}

impl World {
    fn new() -> Self {
        let users = concat!(env!("CARGO_MANIFEST_DIR"), "/target/admin");
        fs::write(users, "admin:secret\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let limits = Limits { locks: 1_000, waiting: 1, waiting_per_resource: 1 };
        let locks = LockTable::new(limits, Duration::ZERO, None, Arc::new(())).unwrap();
        // Nobody waits, or the fuzzer would.
        let max_wait = Duration::ZERO;
        let service = Service {
            locks: Arc::new(locks),
            access: Access::UserFile(users.into()),
            limits: RequestLimits { max_wait, max_lifetime: Duration::from_secs(1) },
            base_url: None,
            metrics: Arc::default(),
            shutting_down: AtomicBool::new(false),
        };
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let address = SmolStr::new_static("127.0.0.1");
        Self { service, socket, address, departures: Departures::new().unwrap() }
    }
}

fuzz_target!(|input: &[u8]| {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(World::new);
    let Ok(Some(len)) = HeadScan::default().find_end(input) else { return };
    let (head, body) = input.split_at(len);
    let Ok(head) = Head::parse(head) else { return };
    let request = Request { body: &body[..body.len().min(MAX_BODY)], ..head.request };
    let client = Client::new(&world.socket, &world.address, &world.departures);
    let response = world.service.answer(&request, client);
    assert!(response.status.code() != 500);
    let bytes = response.to_bytes(&request, Duration::from_secs(75), SystemTime::UNIX_EPOCH);
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&bytes[..head]).unwrap();
    // Nothing that a client sends can add a line to an answer.
    for line in head.split("\r\n").skip(1) {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        assert!(!value.contains(['\r', '\n', '\0']));
    }
});
