//! As many connections as may be: who makes room, who waits for it.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Client, Server, lock_body, wait_until};
use crate::wire;

/// The value of a metric without labels.
fn metric(client: &mut Client, name: &str) -> f64 {
    let response = client.request("GET", "/metrics", "");
    let mut lines = response.text().lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

/// A client whose request for a lock is on its way: its connection is not idle.
struct Sending {
    client: Client,
    rest: String,
}

impl Sending {
    fn new(server: &Server, resource: &str) -> Self {
        let mut client = server.connect();
        // Or it may be the one that waits for room.
        assert_eq!(client.request("GET", "/", "").status, 200);
        let body = lock_body(0, 60);
        let mut begin = wire::request("POST", &format!("/locks/{resource}"), "Host: h", &body);
        let rest = begin.split_off(begin.len() - body.len() + 10);
        client.send(begin);
        Self { client, rest }
    }

    /// Sends the rest, and returns what the answer says of the connection.
    fn finish(mut self) -> String {
        self.client.send(self.rest);
        let answer = self.client.response();
        assert_eq!(answer.status, 201);
        answer.header("Connection").unwrap().into()
    }
}

#[test]
fn the_connection_that_is_idle_longest_makes_room_at_once() {
    let server = Server::start_with(&["--max-connections", "20"]);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.request("GET", "/", "").status, 200);
        // Each is idle for a little less than the one before.
        thread::sleep(Duration::from_millis(5));
    }
    let mut newcomer = server.connect();
    let health = newcomer.request("GET", "/health", "");
    assert_eq!((health.status, health.header("Connection")), (200, Some("keep-alive")));
    assert!(clients[0].is_closed());
    for client in &mut clients[1..] {
        assert_eq!(client.request("GET", "/", "").status, 200, "one was enough");
    }
    assert_eq!(metric(&mut newcomer, "rdlm_max_connections"), 20.0);
    assert_eq!(metric(&mut newcomer, "rdlm_connections"), 20.0);
    // All but the one that asks.
    wait_until("the others are idle", || metric(&mut newcomer, "rdlm_idle_connections") == 19.0);
    let mut second = server.connect();
    assert_eq!(second.request("GET", "/health", "").status, 200);
    let log = server.into_log();
    assert_eq!(log.matches("all 20 connections were in use").count(), 1, "{log}");
}

#[test]
fn while_somebody_waits_for_room_answers_end_their_connections() {
    let server = Server::start_with(&["--max-connections", "20"]);
    let busy: Vec<_> = (0..20).map(|n| Sending::new(&server, &format!("r{n}"))).collect();
    let mut late: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut late {
        client.send_request("GET", "/", "");
        client.stream().set_nonblocking(true).unwrap();
    }
    // Long enough to be idle, if they were.
    thread::sleep(Duration::from_millis(1_500));
    for client in &late {
        assert!(client.stream().peek(&mut [0]).is_err(), "there is no room");
        client.stream().set_nonblocking(false).unwrap();
    }
    assert!(server.status_field("Threads:") < 40);
    let said: Vec<_> = busy.into_iter().map(Sending::finish).collect();
    // While one has room and the next one is not there yet, nobody waits.
    assert_eq!(said[0], "close");
    for client in &mut late {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn a_wait_without_success_does_not_end_its_connection() {
    let server = Server::start_with(&["--max-connections", "2"]);
    server.hold("foo");
    let busy = Sending::new(&server, "bar");
    let mut waiter = server.connect();
    waiter.send_acquire("foo", 2.0, 60.0);
    let mut late = server.connect();
    late.send_request("GET", "/", "");
    let answer = waiter.response();
    assert_eq!((answer.status, answer.header("Connection")), (408, Some("keep-alive")));
    busy.finish();
    assert_eq!(late.response().status, 200);
}

/// As many clients that ask for a lock that is held, with connections that they leave open.
pub(crate) fn crowd(server: &Server, resource: &str, size: usize) -> Vec<Client> {
    let mut crowd: Vec<_> = (0..size).map(|_| server.connect()).collect();
    crowd.iter_mut().for_each(|client| client.send_acquire(resource, 600.0, 60.0));
    crowd
}

/// Checks that a lock is renewed and released soon, on connections of their own, and that the
/// server can be watched.
fn assert_releases(server: &Server, lock: &str) {
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(server.request("PATCH", lock, r#"{"lifetime":600}"#).status, 200);
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(server.get("/metrics").status, 200);
    }
    assert_eq!(server.delete(lock).status, 204);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_crowd_that_does_not_close_after_its_answer_holds_up_no_release() {
    let server = Server::start_with(&["--max-connections", "120"]);
    let (held, other) = (server.hold("foo"), server.hold("bar"));
    // Each is refused by one of fifteen connections that are left, and stays for a second or more.
    let _crowd = crowd(&server, "foo", 900);
    assert_releases(&server, &other);
    assert_eq!(server.locks("foo")[0]["uid"], held.rsplit('/').next().unwrap());
}

#[test]
fn a_crowd_that_sends_nothing_holds_up_no_release() {
    let server = Server::start_with(&["--max-connections", "120"]);
    let (_held, other) = (server.hold("foo"), server.hold("bar"));
    let _waiting = crowd(&server, "foo", 90);
    wait_until("all wait", || server.locks("foo").len() == 91);
    let mut silent: Vec<_> = (0..900).map(|_| server.connect()).collect();
    for (n, client) in silent.iter_mut().enumerate() {
        if n % 2 == 0 {
            client.send("GET / HT");
        }
    }
    assert_releases(&server, &other);
}

#[test]
fn subscribers_and_waiting_clients_leave_connections_for_releases() {
    let server = Server::start_with(&["--max-connections", "24"]);
    let (_held, other) = (server.hold("foo"), server.hold("bar"));
    let _subscribers: Vec<_> = (0..40)
        .map(|_| {
            let mut client = server.connect();
            client.send_request("GET", "/events", "");
            client
        })
        .collect();
    let _crowd = crowd(&server, "foo", 40);
    assert_releases(&server, &other);
}

#[test]
fn a_request_that_is_cut_off_to_make_room_may_be_sent_again() {
    let server = Server::start_with(&["--max-connections", "2"]);
    let mut slow = server.connect();
    slow.send("GET / HTTP/1.1\r\n");
    let _other = server.connect();
    // One of the two makes room after a second; then the other one does.
    for _ in 0..2 {
        assert_eq!(server.get("/health").status, 200);
        let _idle = server.connect();
    }
    assert_eq!(slow.response().status, 408);
}

#[test]
fn a_request_that_comes_as_its_connection_is_ended_to_make_room_is_answered() {
    for _ in 0..3 {
        let server = Server::start_with(&["--max-connections", "20"]);
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.request("GET", "/", "").status, 200);
        }
        // While it stands still, all have been idle for long enough, all send a request, and there
        // are as many who need room.
        server.signal("-STOP");
        thread::sleep(Duration::from_millis(1_100));
        for (n, client) in clients.iter_mut().enumerate() {
            client.send_acquire_with_key(&format!("r{n}"), &format!("key{n}"));
        }
        let mut late: Vec<_> = (0..20).map(|_| server.connect()).collect();
        late.iter_mut().for_each(|client| client.send_request("GET", "/", ""));
        server.signal("-CONT");
        for client in &mut clients {
            assert_eq!(client.response().status, 201);
        }
        for client in &mut late {
            assert_eq!(client.response().status, 200);
        }
    }
}
