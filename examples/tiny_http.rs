//! The same locks and doors on the library tiny_http, in the shape that rdlm began with: its
//! listener hands each request to a worker thread of its own. It is here to be compared with: the
//! library hides the socket, so a client that leaves while it waits is not noticed, and it reads
//! requests that rdlm refuses. Do not put it on a network. `make tiny-http` shows what it fails.
//!
//! `cargo run --release --example tiny_http -- serve --port 8888`

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdlm::doors::{Environment, Past, Service, Settings};
use rdlm_http::connection::Connection;
use rdlm_http::departures::Departures;
use rdlm_http::transport::{Memory, Transport};
use rdlm_lock::{Limits, LockTable};

const LIMITS: Limits = Limits { locks: 1_000_000, waiting: 10_000, waiting_per_resource: 10_000 };
const GRACE: Duration = Duration::from_secs(5);

/// Those that the doors look at; the library does not list what it has.
const FIELDS: [&str; 9] = [
    "Host",
    "Connection",
    "Idempotency-Key",
    "Authorization",
    "Origin",
    "Sec-Fetch-Site",
    "Accept",
    "Prefer",
    "Last-Event-ID",
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().collect();
    let port = args.iter().position(|arg| arg == "--port").and_then(|at| args.get(at + 1));
    let port = port.map_or("8888", String::as_str);
    let past = Past { history: None, started: std::time::SystemTime::UNIX_EPOCH, is_shared: false };
    let environment = Environment { users: None, own_host: "localhost".into(), past };
    let locks = LockTable::new(LIMITS, GRACE, None, Arc::new(()))?;
    let service = Arc::new(Service::new(
        Arc::new(Arc::new(locks)),
        Settings::default(),
        environment,
        Arc::default(),
    ));
    let departures = Arc::new(Departures::new()?);
    let server = tiny_http::Server::http(format!("127.0.0.1:{port}")).map_err(|e| e.to_string())?;
    eprintln!("listening on {}, tiny_http", server.server_addr());
    // What cannot be read the library has answered itself.
    for request in server.incoming_requests().flatten() {
        let (service, departures) = (Arc::clone(&service), Arc::clone(&departures));
        thread::spawn(move || answer(request, &service, departures));
    }
    Ok(())
}

/// Writes what the library has read as a request again, and its answer where that belongs.
fn answer(
    mut request: tiny_http::Request,
    service: &Service,
    departures: Arc<Departures>,
) -> io::Result<()> {
    let mut body = Vec::new();
    request.as_reader().read_to_end(&mut body)?;
    let version = request.http_version();
    let mut bytes = format!("{} {} HTTP/{version}\r\n", request.method(), request.url());
    for name in FIELDS {
        if let Some(value) = request.headers().get(name) {
            bytes += &format!("{name}: {value}\r\n");
        }
    }
    bytes += &format!("Content-Length: {}\r\n\r\n", body.len());
    let memory = Memory::new([bytes.as_bytes(), &body].concat());
    let transport = Transport::Memory(memory.clone());
    let client = request.remote_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip());
    let mut connection = Connection::new(transport, client, GRACE, departures)?;
    match connection.next_request().map(|incoming| incoming.map(|i| i.receive())) {
        Ok(Some(Ok(exchange))) => {
            let response = service.answer(&exchange.request, exchange.client).wait();
            exchange.respond(response)?;
        }
        Ok(Some(Err(error))) | Err(error) => connection.refuse(&service.refuse(error)),
        Ok(None) => {}
    }
    let mut writer = request.into_writer();
    writer.write_all(&memory.take_output())?;
    writer.flush()
}
