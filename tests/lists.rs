//! Lists at any size: page by page, narrowed, and in no memory of the server's.

use std::io::Read;
use std::iter;
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::{Client, Server, lock_body, wait_until};
use crate::wire::{self, Response};

/// The names in an answer of `/status` or `/resources`.
fn names(list: &Value) -> Vec<String> {
    let resources = list.get("resources").unwrap_or(&list["_embedded"]["resources"]);
    let names = resources.as_array().unwrap().iter();
    names.map(|resource| resource["name"].as_str().unwrap().to_string()).collect()
}

/// The names on all pages from this one on, and how many pages there are.
fn follow(server: &Server, first: &str) -> (Vec<String>, usize) {
    let (mut path, mut all, mut pages) = (first.to_string(), Vec::new(), 0);
    loop {
        let response = server.get(&path);
        assert_eq!(response.status, 200, "{path}");
        let page = response.json();
        all.extend(names(&page));
        pages += 1;
        match page["_links"]["next"]["href"].as_str() {
            Some(next) => path = next.to_string(),
            None => return (all, pages),
        }
    }
}

#[test]
fn the_pages_together_are_the_list() {
    let server = Server::start();
    let mut expected: Vec<_> = (0..41).map(|n| format!("r:{n}@{}", n % 7)).collect();
    expected.sort();
    for name in &expected {
        server.hold(name);
    }
    for list in ["/status", "/resources"] {
        assert_eq!(follow(&server, list), (expected.clone(), 1), "{list}");
        assert_eq!(follow(&server, &format!("{list}?limit=10")), (expected.clone(), 5));
        assert_eq!(follow(&server, &format!("{list}?limit=41")).1, 1, "no page is empty");
        let behind = format!("{list}?after={}", expected[29]);
        assert_eq!(follow(&server, &behind).0, expected[30..], "{list}");
        assert_eq!(follow(&server, &format!("{list}?after=zzz")), (Vec::new(), 1));
    }
}

#[test]
fn a_list_is_narrowed_by_a_text_and_by_a_line() {
    let server = Server::start();
    for (name, title) in [("alpha", "Nightly Backup"), ("beta", "deploy"), ("gamma", "café")] {
        let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":60}}"#);
        server.request("POST", &format!("/locks/{name}"), &body).lock_path();
    }
    let _waiting = server.join_line("beta");
    let found = |query: &str| {
        let status = follow(&server, &format!("/status?{query}")).0;
        assert_eq!(follow(&server, &format!("/resources?limit=1&{query}")).0, status, "{query}");
        status
    };
    assert_eq!(found("search=nightly+b"), ["alpha"]);
    assert_eq!(found("search=CAF%C3%89"), ["gamma"]);
    assert_eq!(found("search=mm"), ["gamma"]);
    assert_eq!(found("search=127.0.0.1"), ["alpha", "beta", "gamma"]);
    assert_eq!(found("search=a%20test"), ["beta"], "the title of one that waits");
    assert_eq!(found("search=nothing"), [""; 0]);
    assert_eq!(found("state=waiting"), ["beta"]);
    assert_eq!(found("state=waiting&search=alpha"), [""; 0]);
    assert_eq!(found("colour=blue&search="), ["alpha", "beta", "gamma"]);
}

#[test]
fn a_list_is_sorted_over_all_resources() {
    let server = Server::start();
    let names: Vec<_> = (0..300).map(|n| format!("r{n:03}")).collect();
    let mut client = server.connect();
    for (n, name) in names.iter().enumerate() {
        client.acquire(name, 0.0, 900.0 - n as f64).lock_path();
    }
    // In this order.
    let lines = ["r200", "r007", "r100", "r007", "r100", "r100"];
    let _waiting: Vec<_> = lines.into_iter().map(|name| server.join_line(name)).collect();
    let sorted = |sort: &str, limit: usize| {
        let query = format!("?sort={sort}&limit={limit}");
        let (found, pages) = follow(&server, &format!("/resources{query}"));
        assert_eq!(follow(&server, &format!("/status{query}")).0, found, "{query}");
        assert_eq!(pages, found.len().div_ceil(limit), "{query}");
        found
    };
    let others = names.iter().filter(|name| !lines.contains(&name.as_str()));
    let first = |first: [&str; 3]| {
        first.into_iter().map(String::from).chain(others.clone().cloned()).collect::<Vec<_>>()
    };
    for limit in [1, 7, 100, 1000] {
        assert_eq!(sorted("longest-wait", limit), first(["r200", "r007", "r100"]));
        assert_eq!(sorted("line", limit), first(["r100", "r007", "r200"]));
        assert_eq!(sorted("age", limit), names);
        assert_eq!(sorted("ends", limit), names.iter().rev().cloned().collect::<Vec<_>>());
        assert_eq!(sorted("name", limit), names);
    }
    assert_eq!(sorted("line&state=waiting", 2), ["r100", "r007", "r200"]);
    assert_eq!(sorted("ends&search=R10", 4)[..2], ["r109", "r108"]);
}

#[test]
fn a_bad_value_is_named() {
    let server = Server::start();
    for (query, named) in [
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=ten", "limit is \"ten\""),
        ("limit=1&limit=2", "several times"),
        ("after=a%2F", "name of a resource"),
        ("state=held", "expected waiting"),
        ("search=%FF", "UTF-8"),
        ("sort=size&limit=1", "longest-wait"),
        ("sort=line", "needs limit"),
        ("sort=line&limit=1&after=a", "_links.next"),
        (&format!("search={}", "x".repeat(1025)), "at most 1024 characters"),
    ] {
        for list in ["/status", "/resources"] {
            let detail = server.get(&format!("{list}?{query}")).detail(400);
            assert!(detail.contains(named), "{query}: {detail}");
        }
    }
}

#[test]
fn who_knows_no_chunks_gets_a_list_to_the_end_of_the_connection() {
    let server = Server::start();
    server.hold("foo");
    let mut client = server.connect();
    client.send("GET /resources HTTP/1.0\r\n\r\n");
    let answer = client.rest();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nConnection: close"), "{head}");
    assert_eq!(names(&serde_json::from_str(body).unwrap()), ["foo"]);
}

#[test]
fn a_long_line_is_listed_whole_and_in_order() {
    let server = Server::start();
    for n in 0..300 {
        let fields = format!(r#""limit":300,"wait":0,"lifetime":{}"#, 600 + n);
        server.acquire_with("crowd", &fields).lock_path();
    }
    let _waiting: Vec<_> = (0..3)
        .map(|_| {
            let waiting = server.locks("crowd").len();
            let mut client = server.connect();
            let body = r#"{"title":"t","limit":300,"wait":600,"lifetime":1}"#;
            client.send_request("POST", "/locks/crowd", body);
            wait_until("it waits", || server.locks("crowd").len() > waiting);
            client
        })
        .collect();
    let locks = server.locks("crowd");
    let lifetimes = locks.iter().take(300).map(|lock| lock["lifetime"].as_u64().unwrap());
    assert!(lifetimes.eq(600..900));
    let positions = locks.iter().skip(300).map(|lock| lock["position"].as_u64().unwrap());
    assert!(positions.eq(1..=3));
    assert_eq!(server.get("/status").json()["resources"][0]["locks"], Value::from(locks));
}

/// How much larger the server is while 100 clients do not read the list that they asked for, in
/// KiB.
fn cost_of_unread_lists(server: &Server, locks: usize) -> u64 {
    let mut client = server.connect();
    let body = lock_body(0, 100_000).replace("a test", &"x".repeat(100));
    for from in (0..locks).step_by(200) {
        let requests: String = (from..from + 200)
            .map(|n| wire::request("POST", &format!("/locks/r{n}"), "Host: h", &body))
            .collect();
        client.send(requests);
        for _ in 0..200 {
            assert_eq!(client.response().status, 201);
        }
    }
    let before = server.status_field("VmRSS:");
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = server.connect();
            client.send_request("GET", "/status", "");
            client
        })
        .collect();
    // All of them are answered as far as the kernel takes it.
    for client in &clients {
        wait_until("the answer begins", || client.stream().peek(&mut [0]).unwrap() == 1);
    }
    server.get("/health");
    server.status_field("VmHWM:").saturating_sub(before)
}

#[test]
fn a_client_that_does_not_read_a_list_costs_a_buffer() {
    let server = Server::start();
    let grown = cost_of_unread_lists(&server, 20_000);
    assert!(grown < 20_000, "{grown} KiB for 100 lists of 10 MB each");
}

#[test]
#[ignore = "makes a million locks"]
fn lists_of_a_million_locks_that_nobody_reads_cost_a_buffer_each() {
    let server = Server::start();
    let grown = cost_of_unread_lists(&server, 1_000_000);
    println!("100 unread lists of 1,000,000 locks: {grown} KiB");
    assert!(grown < 20_000, "{grown} KiB");
}

#[test]
fn lists_and_the_page_are_compressed_for_those_who_take_it() {
    let server = Server::start();
    for n in 0..300 {
        server.hold(&format!("resource-{n}"));
    }
    for path in ["/status", "/resources", "/resources/resource-1", "/"] {
        let get = |encoding: &str| {
            let mut client = server.connect();
            let headers = format!("Host: localhost\r\nAccept: text/html\r\n{encoding}");
            client.send(format!("GET {path} HTTP/1.1\r\n{headers}\r\n"));
            client.response()
        };
        let plain = get("");
        assert!(plain.header("Vary").unwrap().contains("Accept-Encoding"), "{path}");
        for (encoding, compressed) in [
            ("Accept-Encoding: gzip\r\n", true),
            ("Accept-Encoding: br, GZIP;q=0.5\r\n", true),
            ("Accept-Encoding: gzip;q=0\r\n", false),
            ("Accept-Encoding: br\r\n", false),
        ] {
            let response = get(encoding);
            assert_eq!(response.header("Content-Encoding"), compressed.then_some("gzip"));
            let mut text = String::new();
            if compressed {
                let mut decoder = flate2::read::GzDecoder::new(&response.body[..]);
                decoder.read_to_string(&mut text).unwrap();
                assert!(response.body.len() < text.len() || path.contains("resource-1"));
            } else {
                text = response.text().into();
            }
            // But for the time.
            assert_eq!(text.len(), plain.text().len(), "{path}");
        }
    }
}

/// A connection on which little is under way before it is read from.
fn connect_narrow(server: &Server) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    // The server's kernel buffers so many segments, which are of 64 KiB on the loopback.
    socket.set_tcp_mss(536).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    socket.connect(&SockAddr::from(address)).unwrap();
    Client::new(socket.into())
}

fn send_for_gzip(client: &mut Client) {
    client.send("GET /status HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n");
}

fn is_compressed(response: &Response) -> bool {
    response.header("Content-Encoding") == Some("gzip")
}

#[test]
fn beyond_sixteen_lists_being_compressed_one_is_sent_uncompressed() {
    let server = Server::start();
    // What is made up at random stays long: no answer ends before it is read.
    let mut titles = fastrand::Rng::with_seed(1);
    for n in 0..600 {
        let title: String = iter::repeat_with(|| titles.alphanumeric()).take(1000).collect();
        let body = lock_body(0, 600).replace("a test", &title);
        server.request("POST", &format!("/locks/r{n}"), &body).lock_path();
    }
    let mut readers: Vec<_> = (0..16)
        .map(|_| {
            let mut reader = connect_narrow(&server);
            send_for_gzip(&mut reader);
            assert!(is_compressed(&reader.head()));
            reader
        })
        .collect();
    let get = || {
        let mut client = server.connect();
        send_for_gzip(&mut client);
        client.response()
    };
    let plain = get();
    assert_eq!((plain.status, plain.header("Content-Encoding")), (200, None));
    assert_eq!(names(&plain.json()).len(), 600);
    readers.pop().unwrap().reset();
    wait_until("the one that has left makes room", || is_compressed(&get()));
}
