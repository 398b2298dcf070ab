//! The edge: clients that leave, stall, flood or never read, and a host that runs out.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use socket2::{Domain, Socket, Type};

use crate::harness::{Client, PATIENCE, Server, lock_body, wait_until};

fn threads(server: &Server) -> usize {
    server.threads_named("connection")
}

fn memory_kib(server: &Server) -> u64 {
    server.status_field("VmRSS:")
}

/// Changes the limit of open files of a running server.
fn limit_open_files(server: &Server, limit: u64) {
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    let limit = Rlimit { current: Some(limit), ..getrlimit(Resource::Nofile) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

#[test]
fn a_waiting_client_that_leaves_is_out_of_the_line_and_never_granted() {
    fn half_close(client: Client) {
        client.half_close();
        assert!(client.rest().starts_with("HTTP/1.1 408 "), "exactly one answer");
    }
    let server = Server::start();
    for (manner, leave) in
        [("close", drop as fn(Client)), ("reset", Client::reset), ("half-close", half_close)]
    {
        let held = server.hold("foo");
        let gone = server.join_line("foo");
        let mut next = server.join_line("foo");
        leave(gone);
        wait_until(manner, || server.locks("foo").len() == 2);
        assert_eq!(server.delete(&held).status, 204);
        let next = next.response().lock_path();
        assert_eq!(server.delete(&next).status, 204);
        assert!(server.locks("foo").is_empty(), "{manner}: granted to nobody else");
    }
}

#[test]
fn a_killed_client_is_out_of_the_line() {
    let server = Server::start();
    let held = server.hold("foo");
    let port = server.port();
    let request = "POST /locks/foo HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 39\\r\\n\\r\\n\
        {\"title\":\"x\",\"wait\":600,\"lifetime\":600}";
    let script =
        format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; read -r line <&3");
    let mut client = Command::new("bash").args(["-c", &script]).spawn().unwrap();
    wait_until("it waits", || server.locks("foo").len() == 2);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("it is out of the line", || server.locks("foo").len() == 1);
    assert_eq!(server.delete(&held).status, 204);
    assert!(server.locks("foo").is_empty());
}

#[test]
fn a_request_behind_one_that_waits_is_no_departure() {
    let server = Server::start();
    let held = server.hold("foo");
    let mut client = server.join_line("foo");
    client.send_request("GET", "/", "");
    assert_eq!(server.locks("foo").len(), 2);
    assert_eq!(server.delete(&held).status, 204);
    client.response().lock_path();
    assert_eq!(client.response().status, 200);
}

#[test]
fn one_resource_may_have_fewer_waiters_than_all_together() {
    let server = Server::start_with(&["--max-waiters-per-resource", "1"]);
    for resource in ["foo", "bar"] {
        server.hold(resource);
        let _first = server.join_line(resource);
        let refused = server.acquire(resource, 5.0, 60.0);
        assert!(refused.detail(503).contains("too many requests"));
        assert!(refused.header("Retry-After").unwrap().parse::<u32>().is_ok());
    }
}

#[test]
fn idle_connections_end_and_waiting_ones_do_not() {
    let server = Server::start_with(&["--idle-timeout", "0.3"]);
    server.hold("foo");
    let mut waiter = server.join_line("foo");
    let mut unused = server.connect();
    let mut used = server.connect();
    assert_eq!(used.request("GET", "/", "").status, 200);
    assert!(unused.is_closed() && used.is_closed());
    let mut patient = server.connect();
    assert_eq!(patient.acquire("foo", 1.5, 60.0).status, 408);
    assert_eq!(patient.request("GET", "/", "").status, 200, "waiting is not being idle");
    assert_eq!(server.delete("/resources/foo").status, 204);
    assert_eq!(waiter.response().status, 409);
}

/// Sends a byte now and then until the server ends the connection, and returns its answer.
fn trickle(mut client: Client, begin: &str, byte: &[u8]) -> String {
    client.send(begin);
    let mut stream = client.stream().try_clone().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer) {
            Ok(0) => return String::from_utf8(answer).unwrap(),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // The server may have ended the connection meanwhile.
                let _ = stream.write(byte);
            }
            Err(_) => return String::from_utf8(answer).unwrap(),
        }
    }
}

#[test]
fn a_request_that_takes_too_long_is_ended_however_it_trickles() {
    let server = Server::start();
    let body = "POST /locks/foo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{";
    let chunks = "POST /locks/foo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    thread::scope(|scope| {
        for (what, begin, byte) in [
            ("a stalled head", "GET / HTTP/1.1\r\nHo", &b""[..]),
            ("a head in bytes", "GET / HTTP/1.1\r\nHost: h\r\nX: ", b"x"),
            ("endless fields", "GET / HTTP/1.1\r\nHost: h\r\n", b"X: x\r\n"),
            ("a stalled body", body, b""),
            ("a body in bytes", body, b" "),
            ("a body in chunks", chunks, b"1\r\nx\r\n"),
        ] {
            let client = server.connect();
            scope.spawn(move || {
                let began = Instant::now();
                let answer = trickle(client, begin, byte);
                let took = began.elapsed();
                assert!(answer.starts_with("HTTP/1.1 408 "), "{what}: {answer:?}");
                assert!(answer.contains("too long to come in"), "{what}: {answer:?}");
                let in_time = Duration::from_secs(9)..Duration::from_secs(40);
                assert!(in_time.contains(&took), "{what}: {took:?}");
            });
        }
    });
    assert!(server.locks("foo").is_empty());
}

#[test]
fn requests_may_come_in_any_pieces() {
    let server = Server::start();
    let mut client = server.connect();
    let requests = "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}\r\n\
        GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for byte in requests.as_bytes().chunks(1) {
        client.send(byte);
        // Or the kernel could put it together with the next one.
        thread::sleep(Duration::from_micros(500));
    }
    for _ in 0..2 {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(client.request("GET", "/", "").status, 200);
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let server = Server::start();
    let before = threads(&server);
    for resource in 0..100 {
        server.hold(&format!("{resource:0>200}"));
    }
    wait_until("only its own threads are left", || threads(&server) <= before);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port()));
    socket.connect(&address.into()).unwrap();
    let mut deaf = TcpStream::from(socket);
    // The answers are many megabytes, more than the kernel keeps.
    let requests = "GET /resources HTTP/1.1\r\nHost: h\r\n\r\n".repeat(500);
    deaf.write_all(requests.as_bytes()).unwrap();
    wait_until("it is served", || threads(&server) > before);
    let began = Instant::now();
    wait_until("its thread is free", || threads(&server) <= before);
    assert!(began.elapsed() > Duration::from_secs(5), "it has some time: {:?}", began.elapsed());
}

#[test]
fn endless_heads_and_bodies_take_no_memory() {
    let server = Server::start();
    let mut warm = server.connect();
    assert_eq!(warm.request("GET", "/", "").status, 200);
    let before = memory_kib(&server);
    for (begin, more, expected) in [
        ("GET /", "x", "414"),
        ("GET / HTTP/1.1\r\nX: ", "x", "431"),
        ("GET / HTTP/1.1\r\n", "X: x\r\n", "431"),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n", "x", "413"),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", "413"),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x", "400"),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: x\r\n", "431"),
    ] {
        let client = server.connect();
        let mut stream = client.stream().try_clone().unwrap();
        let more = more.repeat(10_000);
        stream.write_all(begin.as_bytes()).unwrap();
        // 100 MB, unless the server ends it.
        let sent =
            (0..100_000_000 / more.len()).take_while(|_| stream.write_all(more.as_bytes()).is_ok());
        assert!(sent.count() * more.len() < 50_000_000, "{begin:?} is read for ever");
        let grown = memory_kib(&server).saturating_sub(before);
        assert!(grown < 2_000, "{begin:?}: {grown} KiB");
        let answer = client.rest();
        assert!(answer.is_empty() || answer[9..].starts_with(expected), "{begin:?}: {answer}");
    }
    assert_eq!(warm.request("GET", "/", "").status, 200);
}

#[test]
fn a_thousand_idle_connections_hinder_nobody() {
    let server = Server::start();
    let before = memory_kib(&server);
    let mut idle: Vec<_> = (0..1_000).map(|_| server.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.request("GET", "/", "").status, 200);
    }
    let grown = memory_kib(&server) - before;
    assert!(grown < 1_000 * 64, "{grown} KiB for 1,000 connections");
    let path = server.hold("foo");
    assert_eq!(server.delete(&path).status, 204);
}

#[test]
fn a_server_without_descriptors_recovers_by_itself() {
    let server = Server::start();
    let mut in_place = server.connect();
    assert_eq!(in_place.request("GET", "/", "").status, 200);
    limit_open_files(&server, 3);
    let mut refused: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for client in &mut refused {
        client.send_request("GET", "/", "");
    }
    // Long enough for several failures.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(in_place.request("GET", "/", "").status, 200);
    limit_open_files(&server, 1000);
    for client in &mut refused {
        assert_eq!(client.response().status, 200);
    }
    let log = server.into_log();
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
    assert_eq!(log.matches("accepting connections again").count(), 1, "{log}");
}

#[test]
fn a_thousand_who_wait_are_answered_at_the_end() {
    let mut server = Server::start();
    server.hold("foo");
    let mut waiters: Vec<_> = (0..1_000).map(|_| server.connect()).collect();
    for waiter in &mut waiters {
        waiter.send_acquire("foo", 600.0, 600.0);
    }
    wait_until("all wait", || server.locks("foo").len() == 1_001);
    let mut busy: Vec<_> = (0..8).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for (n, client) in busy.iter_mut().enumerate() {
            let (path, body) = (format!("/locks/busy{n}"), lock_body(0, 0.001));
            let mut acquire = move || client.try_request("POST", &path, "Host: h", &body);
            // Whole answers until the connection ends.
            scope.spawn(move || while acquire().is_some() {});
        }
        let began = Instant::now();
        server.signal("-TERM");
        for waiter in &mut waiters {
            assert!(waiter.response().detail(503).contains("shutting down"));
        }
        assert_eq!(server.wait().code(), Some(0));
        // It has a second; a busy machine gets more.
        assert!(began.elapsed() < PATIENCE / 3, "{:?}", began.elapsed());
    });
}

#[test]
fn empty_lines_do_not_extend_the_idle_time() {
    let server = Server::start_with(&["--idle-timeout", "0.5"]);
    let mut client = server.connect();
    let began = Instant::now();
    let ended = loop {
        if client.try_send(b"\r\n").is_err() {
            break true;
        }
        if began.elapsed() > PATIENCE {
            break false;
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(ended);
}

#[test]
fn listings_do_not_hold_up_the_end() {
    let mut server = Server::start();
    let mut client = server.connect();
    for n in 0..3_000 {
        assert_eq!(client.acquire(&format!("r{n}"), 0.0, 600.0).status, 201);
    }
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        // More than the server can answer in the meantime.
        client.send("GET /resources HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100));
    }
    server.signal("-TERM");
    assert!(server.wait().success());
}
