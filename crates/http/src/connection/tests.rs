use super::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use crate::transport::Memory;
use crate::{BodyWriter, Status};

/// What a client that has sent `request` gets, if the answer is what `respond` says, and what
/// follows.
fn exchange(request: &str, response: Response) -> (String, io::Result<Next>) {
    let client = Memory::new(request);
    let transport = Transport::Memory(client.clone());
    let departures = Arc::new(Departures::new().unwrap());
    let address = Ipv4Addr::LOCALHOST.into();
    let idle_timeout = Duration::from_secs(1);
    let mut connection = Connection::new(transport, address, idle_timeout, departures).unwrap();
    let exchange = connection.next_request().unwrap().unwrap().receive().unwrap();
    let next = exchange.respond(response);
    (String::from_utf8(client.take_output()).unwrap(), next)
}

fn streaming(
    body: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
) -> Response {
    Response::new(Status::Ok).stream("text/plain", body)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_stream_is_sent_in_chunks_while_it_is_made() {
    let (sent, next) = exchange(
        GET,
        streaming(|out| {
            out.write_all(b"hello")?;
            out.flush()?;
            out.flush()?;
            out.write_all(&[b'x'; 40_000])
        }),
    );
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nTransfer-Encoding: chunked"), "{head}");
    assert!(!head.contains("Content-Length"));
    let rest = body.strip_prefix("000005\r\nhello\r\n").unwrap();
    assert_eq!(rest.matches('x').count(), 40_000);
    assert!(rest.ends_with("\r\n0\r\n\r\n"));
    assert_eq!(next.unwrap(), Next::Request);
    let (empty, _) = exchange(GET, streaming(|_| Ok(())));
    assert!(empty.ends_with("\r\n\r\n0\r\n\r\n"));
}

#[test]
fn a_client_without_chunks_gets_the_stream_up_to_the_end_of_the_connection() {
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (sent, next) = exchange(request, streaming(|out| out.write_all(b"hello")));
    assert!(sent.ends_with("\r\nConnection: close\r\n\r\nhello"), "{sent}");
    assert_eq!(next.unwrap(), Next::Close);
}

#[test]
fn a_head_has_no_stream() {
    let (sent, next) =
        exchange("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", streaming(|_| panic!("it is made")));
    assert!(sent.ends_with("\r\n\r\n") && sent.contains("chunked"), "{sent}");
    assert_eq!(next.unwrap(), Next::Request);
}

#[test]
fn a_stream_that_fails_has_no_end_and_counts_as_undelivered() {
    for panics in [false, true] {
        let (sender, undelivered) = channel();
        let response = streaming(move |out| {
            out.write_all(b"begun")?;
            assert!(!panics, "as the test wants");
            Err(io::ErrorKind::Other.into())
        });
        let response = response.on_undelivered(move || sender.send(()).unwrap());
        let (sent, next) = exchange(GET, response);
        assert!(!sent.ends_with("0\r\n\r\n"), "{sent}");
        assert!(next.is_err());
        undelivered.try_recv().unwrap();
    }
}

/// A client, and the connection that serves it.
fn served(idle_timeout: Duration) -> (TcpStream, Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let transport = Transport::from(listener.accept().unwrap().0);
    let departures = Arc::new(Departures::new().unwrap());
    let address = Ipv4Addr::LOCALHOST.into();
    (client, Connection::new(transport, address, idle_timeout, departures).unwrap())
}

fn detach(connection: &mut Connection) -> Detached<()> {
    connection.next_request().unwrap().unwrap().receive().unwrap().detach(()).unwrap()
}

#[test]
fn a_request_whose_predecessor_was_not_answered_is_not_begun() {
    let (mut client, mut connection) = served(Duration::from_secs(60));
    client.write_all(GET.as_bytes()).unwrap();
    let detached = detach(&mut connection);
    client.write_all(GET.as_bytes()).unwrap();
    let dropper = thread::spawn(move || drop(detached));
    assert!(connection.next_request().unwrap().is_none());
    dropper.join().unwrap();
}

#[test]
fn a_client_is_idle_from_its_response_on() {
    let idle_timeout = Duration::from_millis(500);
    let (mut client, mut connection) = served(idle_timeout);
    client.write_all(GET.as_bytes()).unwrap();
    let detached = detach(&mut connection);
    let slow = thread::spawn(move || {
        // Nothing is sent there: this is a pause.
        let (_sender, never) = channel::<()>();
        let _ = never.recv_timeout(idle_timeout * 3);
        detached.respond(Response::new(Status::Ok));
        let mut first = [0; 8];
        client.read_exact(&mut first).unwrap();
        client.write_all(GET.as_bytes()).unwrap();
        client
    });
    assert!(connection.next_request().unwrap().is_some());
    drop(slow.join().unwrap());
    assert!(connection.next_request().unwrap().is_none());
}

#[test]
fn what_has_arrived_is_received_without_blocking() {
    let (mut client, connection) = served(Duration::from_secs(60));
    client.write_all(GET.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < GET.len() {
        connection.input.transport.receive_at_once(&mut bytes);
    }
    assert_eq!(bytes, GET.as_bytes());
    assert_eq!(connection.input.transport.receive_at_once(&mut bytes), 0);
}

#[test]
fn a_connection_in_reserve_waits_for_a_slow_request_for_a_second() {
    let (mut client, mut connection) = served(Duration::from_secs(60));
    connection.forbid_waiting();
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let began = Instant::now();
    assert!(matches!(connection.next_request(), Err(Unreadable::TooSlow)));
    assert!(began.elapsed() < Duration::from_secs(9));
}
