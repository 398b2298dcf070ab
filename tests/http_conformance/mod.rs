//! A table of raw requests: what RFC 9110 and RFC 9112 say of each, and what the server does.

mod bodies;
mod connections;
mod fields;
mod request_line;

use std::panic::{self, AssertUnwindSafe};

use crate::harness::{Client, Server};
use crate::wire;

/// What a client sends, and what has to come of it.
struct Row {
    /// The rule, with its section.
    rule: &'static str,
    sent: Vec<u8>,
    /// The statuses of all answers, in order.
    answers: Vec<u16>,
    then: Then,
}

/// What becomes of the connection after the last answer.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It takes another request, which is answered as if nothing had been.
    Stays,
    /// The server closes it, without a further byte.
    Closes,
    /// The client has closed its side after what it sent, and the server closes the other.
    ClosesAfterHalfClose,
}

fn stays(rule: &'static str, sent: impl AsRef<[u8]>, answers: &[u16]) -> Row {
    Row { rule, sent: sent.as_ref().into(), answers: answers.into(), then: Then::Stays }
}

fn closes(rule: &'static str, sent: impl AsRef<[u8]>, answers: &[u16]) -> Row {
    Row { then: Then::Closes, ..stays(rule, sent, answers) }
}

fn half_closed(rule: &'static str, sent: impl AsRef<[u8]>, answers: &[u16]) -> Row {
    Row { then: Then::ClosesAfterHalfClose, ..stays(rule, sent, answers) }
}

/// `GET /` with these field lines after Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

/// A request for a lock. It must not be done where it stands in a body.
fn smuggled() -> String {
    wire::request("POST", "/locks/smuggled", "Host: h", r#"{"title":"x","wait":0,"lifetime":60}"#)
}

#[test]
fn every_row_of_the_table_holds() {
    let rows: Vec<_> = [request_line::rows(), fields::rows(), bodies::rows(), connections::rows()]
        .into_iter()
        .flatten()
        .collect();
    assert!(rows.len() >= 140, "{} rows", rows.len());
    let server = Server::start();
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| panic::catch_unwind(AssertUnwindSafe(|| row.check(&server))).is_err())
        .map(|row| format!("{}: {}", row.rule, row.sent[..row.sent.len().min(200)].escape_ascii()))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

impl Row {
    fn check(&self, server: &Server) {
        let mut client = server.connect();
        client.send(&self.sent);
        if self.then == Then::ClosesAfterHalfClose {
            client.half_close();
        }
        for (n, status) in self.answers.iter().enumerate() {
            self.check_answer(&mut client, *status, n + 1 == self.answers.len());
        }
        match self.then {
            Then::Stays => assert_eq!(client.request("GET", "/", "").status, 200, "{}", self.rule),
            _ => assert!(client.is_closed(), "{}: open, or more was sent", self.rule),
        }
        let left = server.get("/resources");
        assert!(!left.text().contains("smuggled"), "{}: a body was taken for a request", self.rule);
        server.delete("/resources");
    }

    fn check_answer(&self, client: &mut Client, status: u16, last: bool) {
        let answer = client.response();
        assert_eq!(answer.status, status, "{}: {}", self.rule, answer.text());
        if status >= 400 && !self.sent.starts_with(b"HEAD") {
            assert!(!answer.detail(status).is_empty(), "{}", self.rule);
        }
        if status >= 200 {
            assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{}", self.rule);
        }
        if last {
            let expected = match self.then {
                Then::Closes => Some("close"),
                Then::Stays => Some("keep-alive"),
                // It could not know before it had answered.
                Then::ClosesAfterHalfClose => return,
            };
            assert_eq!(answer.header("Connection"), expected, "{}", self.rule);
        }
    }
}
