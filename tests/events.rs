//! What happens to locks: as subscribers see it, in the file of events, and in the log.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::harness::{Client, Server, wait_until};
use crate::wire;

/// A subscriber, and what it has not looked at yet.
struct Subscriber {
    client: Client,
    text: String,
}

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Subscriber {
    /// Subscribes with these header lines, and is heard.
    fn with_headers(server: &Server, target: &str, headers: &str) -> Self {
        Self::on(server.connect(), target, headers)
    }

    fn on(mut client: Client, target: &str, headers: &str) -> Self {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"));
        let response = client.head();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("Content-Type"), Some("text/event-stream"));
        let mut subscriber = Self { client, text: String::new() };
        assert_eq!(subscriber.block().unwrap(), ": events");
        subscriber
    }

    fn new(server: &Server, target: &str) -> Self {
        Self::with_headers(server, target, "")
    }

    /// What comes next, up to an empty line.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_string(), rest.to_string());
                self.text = rest;
                return Some(block);
            }
            let chunk = self.client.try_chunk().ok()??;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    fn event(&mut self) -> Event {
        self.try_event().expect("the stream ended")
    }

    fn try_event(&mut self) -> Option<Event> {
        let block = self.block()?;
        let lines: Vec<_> = block.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let [("id", id), ("event", name), ("data", data)] = lines[..] else { panic!("{block}") };
        let data = serde_json::from_str(data).unwrap();
        Some(Event { id: id.into(), name: name.into(), data })
    }

    /// The next events as `name resource`.
    fn receives(&mut self, count: usize) -> Vec<String> {
        let event = |event: Event| match event.data["resource"].as_str() {
            Some(resource) => format!("{} {resource}", event.name),
            None => event.name,
        };
        (0..count).map(|_| event(self.event())).collect()
    }
}

#[test]
fn the_life_of_a_lock_is_told_in_order() {
    let server = Server::start();
    let mut subscriber = Subscriber::new(&server, "/events");
    let lock = server.hold("foo");
    let mut next = server.join_line("foo");
    server.request("PATCH", &lock, r#"{"lifetime":60}"#);
    server.delete(&lock);
    let next = next.response().lock_path();
    let fields = r#""mode":"shared","wait":0,"lifetime":0.05"#;
    server.acquire_with("bar", fields).lock_path();
    let granted = subscriber.event();
    assert_eq!(granted.name, "granted");
    assert_eq!(granted.data["resource"], "foo");
    assert_eq!(granted.data["uid"], lock.rsplit('/').next().unwrap());
    assert_eq!(granted.data["title"], "a test");
    assert_eq!(granted.data["client"], "127.0.0.1");
    assert_eq!(granted.data["mode"], "EX");
    assert!(granted.data["fencing_token"].as_u64().unwrap() > 0);
    assert_eq!(granted.data["waited"], 0.0);
    assert!(granted.data["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(subscriber.receives(3), ["waiting foo", "renewed foo", "released foo"]);
    let granted = subscriber.event();
    assert_eq!(
        (granted.name.as_str(), &granted.data["uid"]),
        ("granted", &next.rsplit('/').next().unwrap().into())
    );
    assert!(granted.data["waited"].as_f64().unwrap() > 0.0);
    assert_eq!(subscriber.receives(1), ["granted bar"]);
    let expired = subscriber.event();
    assert_eq!((expired.name.as_str(), expired.data["mode"].as_str()), ("expired", Some("PR")));
    assert!(expired.data["held"].as_f64().unwrap() >= 0.05);
}

#[test]
fn how_requests_end_without_a_lock_is_told() {
    let server = Server::start();
    server.hold("foo");
    let mut subscriber = Subscriber::new(&server, "/events?resource=foo");
    assert_eq!(server.acquire("foo", 0.05, 1.0).status, 408);
    assert_eq!(subscriber.receives(2), ["waiting foo", "timed_out foo"]);
    drop(server.join_line("foo"));
    assert_eq!(subscriber.receives(2), ["waiting foo", "withdrawn foo"]);
    let mut waiting = server.join_line("foo");
    server.delete("/resources/foo");
    assert_eq!(waiting.response().status, 409);
    assert_eq!(subscriber.receives(3), ["waiting foo", "deleted foo", "deleted foo"]);
    // Who did not wait at all is not worth a word.
    server.hold("foo");
    assert_eq!(server.acquire("foo", 0.0, 1.0).status, 408);
    server.delete("/resources/foo");
    assert_eq!(subscriber.receives(2), ["granted foo", "deleted foo"]);
}

#[test]
fn a_lock_that_waits_for_another_mode_is_told_of_until_it_does_no_more() {
    let server = Server::start();
    let reader = r#""mode":"PR","wait":0,"lifetime":600"#;
    let [lock, other] = [(), ()].map(|()| server.acquire_with("foo", reader).lock_path());
    let mut subscriber = Subscriber::new(&server, "/events");
    server.request("PATCH", &lock, r#"{"mode":"EX","wait":0.05}"#).detail(408);
    let waits = subscriber.event();
    assert_eq!((waits.name.as_str(), &waits.data["mode"]), ("converting", &"PR".into()));
    assert_eq!(waits.data["converting_to"], "EX");
    assert!(lock.ends_with(waits.data["uid"].as_str().unwrap()));
    assert!(waits.data["held"].is_number());
    let kept = subscriber.event();
    assert_eq!((kept.name.as_str(), &kept.data["uid"]), ("unconverted", &waits.data["uid"]));
    assert_eq!((&kept.data["mode"], kept.data.get("converting_to")), (&"PR".into(), None));
    // Who leaves waits no more, and who does not wait is not worth a word.
    let mut client = server.connect();
    client.send_request("PATCH", &lock, r#"{"mode":"EX","wait":600}"#);
    assert_eq!(subscriber.receives(1), ["converting foo"]);
    drop(client);
    assert_eq!(subscriber.receives(1), ["unconverted foo"]);
    server.request("PATCH", &lock, r#"{"mode":"EX"}"#).detail(408);
    let mut client = server.connect();
    client.send_request("PATCH", &lock, r#"{"mode":"EX","wait":600}"#);
    assert_eq!(subscriber.receives(1), ["converting foo"]);
    server.delete(&other);
    assert_eq!(client.response().status, 200);
    assert_eq!(subscriber.receives(2), ["released foo", "converted foo"]);
}

#[test]
fn a_subscriber_receives_what_it_asks_for() {
    let server = Server::start();
    let mut one = Subscriber::new(&server, "/events?resource=a:1");
    let mut some = Subscriber::new(&server, "/events?prefix=a%3A&other=x");
    for name in ["b", "a:2", "a", "a:1"] {
        server.hold(name);
    }
    assert_eq!(one.receives(1), ["granted a:1"]);
    assert_eq!(some.receives(2), ["granted a:2", "granted a:1"]);
    let mut late = Subscriber::new(&server, "/events?prefix=a%3A&latest=1");
    server.hold("a:3");
    assert_eq!(late.receives(2), ["granted a:1", "granted a:3"]);
    let kept = server.get("/events?prefix=a%3A&latest=2&follow=no");
    let names: Vec<_> = kept.text().lines().filter(|line| line.starts_with("event: ")).collect();
    assert_eq!(names, ["event: granted"; 2]);
    for (query, named) in [("resource=a/", "name of a resource"), ("latest=x", "0 to 4096")] {
        let detail = server.get(&format!("/events?{query}")).detail(400);
        assert!(detail.contains(named), "{detail}");
    }
}

#[test]
fn who_comes_back_misses_nothing_or_is_told_so() {
    let server = Server::start();
    let mut subscriber = Subscriber::new(&server, "/events");
    server.hold("a");
    let last = subscriber.event().id;
    drop(subscriber);
    server.hold("b");
    server.hold("c");
    let header = format!("Last-Event-ID: {last}\r\n");
    let mut again = Subscriber::with_headers(&server, "/events", &header);
    assert_eq!(again.receives(2), ["granted b", "granted c"]);
    for unknown in ["1", "x", "999999999999999999999999"] {
        let header = format!("Last-Event-ID: {unknown}\r\n");
        let mut lost = Subscriber::with_headers(&server, "/events", &header);
        let reset = lost.event();
        assert_eq!((reset.name.as_str(), reset.data), ("reset", serde_json::json!({})));
        let header = format!("Last-Event-ID: {}\r\n", reset.id);
        let mut found = Subscriber::with_headers(&server, "/events", &header);
        let lock = server.hold("d");
        server.delete(&lock);
        assert_eq!(found.receives(2), ["granted d", "released d"]);
        assert_eq!(lost.receives(2), ["granted d", "released d"]);
    }
}

#[test]
fn there_are_as_many_subscribers_as_may_be_and_who_leaves_makes_room() {
    let server = Server::start_with(&["--max-subscribers", "2"]);
    let _first = Subscriber::new(&server, "/events");
    let second = Subscriber::new(&server, "/events");
    let refused = server.get("/events");
    assert!(refused.detail(503).contains("--max-subscribers"));
    assert_eq!(refused.header("Retry-After"), Some("15"));
    assert_eq!(server.request("HEAD", "/events", "").status, 200);
    drop(second);
    wait_until("its place is free", || {
        let mut client = server.connect();
        client.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
        client.head().status == 200
    });
}

#[test]
fn events_are_for_those_who_may_see_locks() {
    let server = Server::start_with(&["--admin-userpass-file", "no"]);
    server.get("/events").detail(403);
}

#[test]
fn a_subscriber_that_does_not_read_holds_nobody_up() {
    let server = Server::start();
    let mut deaf = server.connect();
    deaf.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
    let title = "x".repeat(1000);
    let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":60}}"#);
    let mut client = server.connect();
    let mut slowest = Duration::ZERO;
    // More than the kernel keeps for it, and the ring.
    for _ in 0..6_000 {
        let began = Instant::now();
        let lock = client.request("POST", "/locks/foo", &body).lock_path();
        assert_eq!(client.request("DELETE", &lock, "").status, 204);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_subscriber_that_was_too_slow_is_told_to_look_again() {
    let server = Server::start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port()));
    socket.connect(&address.into()).unwrap();
    let mut slow = Subscriber::on(Client::new(socket.into()), "/events", "");
    server.hold("first");
    let mut last = slow.event().id;
    let title = "x".repeat(1000);
    let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":60}}"#);
    let mut requests = String::new();
    for n in 0..100 {
        requests += &wire::request("POST", &format!("/locks/r{n}"), "Host: h", &body);
        requests += &wire::request("DELETE", &format!("/resources/r{n}"), "Host: h", "");
    }
    // 14,000 events: more than are kept, behind what the kernel takes for who does not read.
    let mut client = server.connect();
    for _ in 0..70 {
        client.send(&requests);
        (0..200).for_each(|_| drop(client.response()));
    }
    // On a slow machine it is cut off, and comes back.
    while let Some(event) = slow.try_event() {
        if event.name == "reset" {
            server.hold("at-last");
            while slow.event().data["resource"] != "at-last" {}
            return;
        }
        last = event.id;
    }
    let header = format!("Last-Event-ID: {last}\r\n");
    assert_eq!(Subscriber::with_headers(&server, "/events", &header).event().name, "reset");
}

#[test]
fn subscribers_cost_nothing_while_nothing_happens() {
    let server = Server::start();
    let _subscribers: Vec<_> = (0..20).map(|_| Subscriber::new(&server, "/events")).collect();
    server.hold("foo");
    let before = server.processor_ticks();
    thread::sleep(Duration::from_secs(2));
    let used = server.processor_ticks() - before;
    assert!(used <= 1, "{used} ticks of the processor");
}

#[test]
fn the_end_of_the_server_ends_the_stream() {
    let mut server = Server::start();
    let mut subscriber = Subscriber::new(&server, "/events");
    server.hold("foo");
    let mut waiting = server.join_line("foo");
    let began = Instant::now();
    server.signal("-TERM");
    assert_eq!(waiting.response().status, 503);
    assert_eq!(subscriber.receives(3), ["granted foo", "waiting foo", "withdrawn foo"]);
    assert_eq!(subscriber.client.try_chunk().unwrap(), None);
    assert!(server.wait().success());
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// The events in a file as `name resource`.
fn logged(path: &std::path::Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| line.ends_with('}'));
    let events = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_string();
    events.map(|event| text(&event["event"]) + " " + &text(&event["resource"])).collect()
}

#[test]
fn the_file_of_events_has_a_line_for_each_and_is_opened_again_on_sighup() {
    let dir = TempDir::new().unwrap();
    let (path, rotated) = (dir.path().join("events"), dir.path().join("events.1"));
    fs::write(&path, "{\"event\":\"old\",\"resource\":\"line\"}\n").unwrap();
    let mut server = Server::start_with(&["--event-log", path.to_str().unwrap()]);
    let lock = server.hold("foo");
    server.delete(&lock);
    let expected = ["old line", "granted foo", "released foo"];
    wait_until("they are written", || logged(&path) == expected);
    let text = fs::read_to_string(&path).unwrap();
    let event: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(event["uid"], lock.rsplit('/').next().unwrap());
    assert!(event["id"].is_u64() && event["held"].is_f64() && event["client"] == "127.0.0.1");

    fs::rename(&path, &rotated).unwrap();
    server.signal("-HUP");
    wait_until("the file is opened again", || {
        let lock = server.hold("bar");
        server.delete(&lock);
        path.exists()
    });
    assert!(logged(&rotated).starts_with(&expected.map(String::from)));
    server.hold("last");
    server.signal("-TERM");
    assert!(server.wait().success());
    assert_eq!(logged(&path).last().unwrap(), "granted last");
}

#[test]
fn a_file_of_events_that_cannot_be_written_is_told_of_once_and_locks_go_on() {
    let server = Server::start_with(&["--event-log", "/dev/full"]);
    for n in 0..10 {
        let lock = server.hold(&format!("r{n}"));
        assert_eq!(server.delete(&lock).status, 204);
        thread::sleep(Duration::from_millis(30));
    }
    let log = server.into_log();
    assert_eq!(log.matches("events are not written to /dev/full").count(), 1, "{log}");
}

#[test]
fn the_log_has_a_line_for_the_end_of_each_lock() {
    let server = Server::start();
    let lock = server.hold("foo");
    let mut next = server.join_line("foo");
    server.delete(&lock);
    next.response().lock_path();
    server.delete("/resources/foo");
    let log = server.into_log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(" of 127.0.0.1, held")).collect();
    let [released, deleted] = lines[..] else { panic!("{log}") };
    let uid = lock.rsplit('/').next().unwrap();
    assert!(released.contains(&format!("released: foo/{uid} \"a test\" of 127.0.0.1, held for ")));
    assert!(released.contains(" s; next: \"a test\" of 127.0.0.1, after "), "{released}");
    assert!(deleted.contains("deleted: foo/") && !deleted.contains("next"), "{deleted}");
}

fn pipe(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_pipe_of_events_that_nobody_reads_holds_nothing_up_and_is_written_when_somebody_does() {
    let dir = TempDir::new().unwrap();
    let path = pipe(&dir);
    let mut server = Server::start_with(&["--event-log", path.to_str().unwrap()]);
    let lock = server.hold("early");
    assert_eq!(server.delete(&lock).status, 204);
    // Returns when the server has opened it, too.
    let reader = thread::spawn(move || BufReader::new(File::open(path).unwrap()));
    wait_until("the pipe has both ends", || {
        let lock = server.hold("foo");
        assert_eq!(server.delete(&lock).status, 204);
        reader.is_finished()
    });
    let lines = reader.join().unwrap().lines();
    // More than there is room for: some are lost while nobody reads.
    let mut client = server.connect();
    for n in 0..2_000 {
        let lock = client.acquire(&format!("r{n}"), 0.0, 60.0).lock_path();
        assert_eq!(client.request("DELETE", &lock, "").status, 204);
    }
    let reader = thread::spawn(move || {
        let mut lines = lines.map(Result::unwrap);
        lines.find(|line| line.ends_with('}') && line.contains("\"late\"")).unwrap();
        lines
    });
    wait_until("the last events are written", || {
        let lock = server.hold("late");
        assert_eq!(server.delete(&lock).status, 204);
        reader.is_finished()
    });
    server.signal("-TERM");
    assert!(server.wait().success());
}
