//! Servers that are none.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::wire::Head;

/// What a connection gets, in order; the last one for all that follow.
#[derive(Clone)]
pub(super) enum Then {
    /// The request is read, and the connection ends.
    Drop,
    /// The request is read and never answered.
    Silence,
    /// The request is read and answered with this.
    Answer(String),
    /// The connection goes to the server on this port.
    Forward(u16),
}

/// A scripted server. The requests that it reads itself can be received.
pub(super) struct Fake {
    pub(super) port: u16,
    pub(super) requests: Receiver<String>,
}

impl Fake {
    pub(super) fn start(script: Vec<Then>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = channel();
        thread::spawn(move || {
            let mut silent = Vec::new();
            for (count, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let step = script.get(count).or(script.last()).unwrap().clone();
                if let Then::Forward(port) = step {
                    forward(stream, port);
                    continue;
                }
                let _ = sender.send(request(&stream));
                match step {
                    Then::Answer(text) => drop(stream.write_all(text.as_bytes())),
                    Then::Silence => silent.push(stream),
                    Then::Drop | Then::Forward(_) => {}
                }
            }
        });
        Self { port, requests }
    }
}

/// An answer with a JSON body, which ends the connection.
pub(super) fn answer(status: &str, body: &str) -> Then {
    let kind = if body.contains("urn:rdlm:") { "problem+json" } else { "hal+json" };
    let uid = body.split('"').nth(3).unwrap_or_default();
    Then::Answer(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/{kind}\r\nConnection: close\r\n\
         Location: http://fake/locks/foo/{uid}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Reads a request with its body.
fn request(stream: &TcpStream) -> String {
    let mut stream = BufReader::new(stream);
    // It may end before.
    let Ok(head) = Head::read(&mut stream) else { return String::new() };
    let length = head.field("Content-Length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    let _ = stream.read_exact(&mut body);
    head.text + &String::from_utf8(body).unwrap()
}

fn forward(client: TcpStream, port: u16) {
    let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for (mut from, mut to) in
        [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
    {
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}
