//! HTTP itself: methods, targets, versions, connections, browsers.

use std::process::Command;

use crate::harness::{Response, Server, lock_body};
use crate::wire;

const UID: &str = "aa4e181e17374148a21b30d9dcb941f9";

/// Sends bytes on a connection of their own and returns the first response.
fn raw(server: &Server, bytes: impl AsRef<[u8]>) -> Response {
    let mut client = server.connect();
    client.send(bytes);
    client.response()
}

#[test]
fn the_start_page_welcomes() {
    let server = Server::start();
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.header("Content-Type").unwrap().starts_with("text/plain"));
    assert!(page.text().contains("Welcome"), "{}", page.text());
}

#[test]
fn unknown_paths_get_404() {
    let server = Server::start();
    for path in [
        "/nothing",
        "/locks",
        "/Locks/foo",
        "/lock/foo",
        &format!("/locks/foo/{UID}/more"),
        "/resources/foo/bar",
        "/status/foo",
        "//",
        "/locks/",
        "/locks//",
        "/resources/",
        "/index.html",
        "/..",
    ] {
        let detail = server.get(path).detail(404);
        assert!(!detail.is_empty(), "{path}");
    }
}

#[test]
fn other_methods_get_405_with_allow_and_options_tells_the_same() {
    let server = Server::start();
    let lock = server.hold("foo");
    for (path, allow, wrong) in [
        ("/", "GET, HEAD, OPTIONS", &["POST", "PUT", "DELETE", "TRACE", "BREW"][..]),
        (
            "/locks/foo",
            "POST, DELETE, LOCK, UNLOCK, OPTIONS",
            &["GET", "HEAD", "PUT", "PATCH", "post", "lock"],
        ),
        (&lock, "GET, HEAD, PATCH, DELETE, OPTIONS", &["POST", "PUT", "PROPFIND"]),
        ("/status", "GET, HEAD, OPTIONS", &["POST", "PUT", "DELETE"]),
        ("/resources", "GET, HEAD, DELETE, OPTIONS", &["POST", "PUT", "PATCH"]),
        ("/resources/foo", "GET, HEAD, DELETE, OPTIONS", &["POST", "PUT", "PATCH"]),
    ] {
        for method in wrong {
            let response = server.request(method, path, "");
            assert_eq!(response.status, 405, "{method} {path}");
            assert_eq!(response.header("Allow"), Some(allow), "{method} {path}");
        }
        let options = server.request("OPTIONS", path, "");
        assert_eq!((options.status, options.header("Allow")), (204, Some(allow)), "{path}");
    }
    assert_eq!(server.locks("foo").len(), 1);
    let all = raw(&server, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((all.status, all.header("Allow").is_some()), (204, true));
}

#[test]
fn head_answers_as_get_without_the_body() {
    let server = Server::start();
    let lock = server.hold("foo");
    for path in ["/", &lock, "/resources", "/resources/foo", "/nothing"] {
        let (get, head) = (server.get(path), server.request("HEAD", path, ""));
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.text(), "");
        assert!(head.header("Content-Type").is_some());
        for header in ["Content-Type", "Content-Length", "Transfer-Encoding"] {
            assert_eq!(head.header(header), get.header(header), "{path}");
        }
    }
}

#[test]
fn a_204_has_no_length() {
    let server = Server::start();
    let lock = server.hold("foo");
    let response = server.delete(&lock);
    assert_eq!(response.status, 204);
    assert_eq!(response.header("Content-Length"), None);
    assert_eq!(response.header("Content-Type"), None);
    assert!(response.header("Date").unwrap().ends_with(" GMT"));
}

#[test]
fn a_query_is_ignored_and_the_target_may_be_absolute() {
    let server = Server::start();
    let post = |target: &str| server.request("POST", target, &lock_body(0, 60)).status;
    assert_eq!(post("/locks/a?b=c/d"), 201);
    assert_eq!(post("http://h/locks/b?x"), 201);
    assert_eq!(post("HTTP://h:80/locks/c"), 201);
    assert_eq!(raw(&server, "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
    for target in ["locks/d", "ftp://h/locks/d", "h:80"] {
        assert_eq!(post(target), 400, "{target}");
    }
    assert_eq!(server.get("/resources").json()["_embedded"]["resources"][2]["name"], "c");
}

#[test]
fn http_1_1_asks_for_exactly_one_host() {
    let server = Server::start();
    for headers in
        ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nhOST: a\r\n", "Host: a/b\r\n", "Host: a b\r\n"]
    {
        let response = raw(&server, format!("GET / HTTP/1.1\r\n{headers}\r\n"));
        assert!(response.detail(400).contains("Host"), "{headers:?}");
    }
    for host in ["a", "a:80", "[::1]:8888", "127.0.0.1"] {
        let response = raw(&server, format!("GET / HTTP/1.1\r\nhost:{host}\r\n\r\n"));
        assert_eq!(response.status, 200, "{host}");
    }
}

#[test]
fn http_1_0_needs_no_host_and_closes_unless_asked_to_keep_alive() {
    let server = Server::start();
    let mut client = server.connect();
    let body = lock_body(0, 60);
    let len = body.len();
    client.send(format!("POST /locks/foo HTTP/1.0\r\nContent-Length: {len}\r\n\r\n{body}"));
    let granted = client.response();
    assert_eq!(granted.status, 201);
    assert!(granted.header("Location").unwrap().starts_with("/locks/foo/"));
    assert_eq!(granted.header("Connection"), Some("close"));
    assert!(client.is_closed());

    let mut client = server.connect();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.header("Connection")), (200, Some("keep-alive")));
    }
}

#[test]
fn a_connection_is_kept_until_its_client_asks_to_close_it() {
    let server = Server::start();
    let mut client = server.connect();
    for _ in 0..10 {
        let lock = client.acquire("foo", 0.0, 60.0).lock_path();
        assert_eq!(client.request("GET", &lock, "").status, 200);
        assert_eq!(client.request("DELETE", &lock, "").status, 204);
        client.request("DELETE", &lock, "").detail(404);
    }
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n");
    assert_eq!(client.response().header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let held = server.hold("foo");
    let mut client = server.connect();
    let post = wire::request("POST", "/locks/foo", "Host: localhost", &lock_body(600, 60));
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n{post}GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"
    ));
    assert_eq!(client.response().status, 200);
    assert_eq!(server.delete(&held).status, 204);
    client.response().lock_path();
    assert_eq!(client.response().status, 404);
}

#[test]
fn a_body_may_come_in_chunks_and_wherever_it_is_not_used() {
    let server = Server::start();
    let mut client = server.connect();
    let (front, back) = (r#"{"title":"a","wait":0,"#, r#""lifetime":60}"#);
    client.send(format!(
        "POST /locks/foo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{front}\r\n{:X};x=y\r\n{back}\r\n0\r\n\r\n",
        front.len(),
        back.len()
    ));
    let lock = client.response().lock_path();
    assert_eq!(client.request("GET", &lock, "a body that is not used").status, 200);
    assert_eq!(client.request("DELETE", &lock, "{}").status, 204);
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let server = Server::start();
    let mut client = server.connect();
    let body = lock_body(0, 60);
    client.send(format!(
        "POST /locks/foo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.response().status, 100);
    client.send(body);
    client.response().lock_path();
}

#[test]
fn a_content_type_is_not_looked_at() {
    let server = Server::start();
    for (n, content_type) in
        ["application/x-www-form-urlencoded", "text/plain", "nonsense"].iter().enumerate()
    {
        let mut client = server.connect();
        let headers = format!("Host: h\r\nContent-Type: {content_type}");
        client.send_with_headers("POST", &format!("/locks/r{n}"), &headers, &lock_body(0, 60));
        assert_eq!(client.response().status, 201);
    }
}

#[test]
fn what_a_browser_sends_for_another_site_is_refused() {
    let server = Server::start_with(&["--host", "other.example", "--host", "locks.example"]);
    let lock = server.hold("foo");
    let send = |method: &str, path: &str, header: &str| {
        let body = if method == "POST" { lock_body(0, 60) } else { String::new() };
        let mut client = server.connect();
        let headers = format!("Host: locks.example:8888\r\n{header}");
        client.send_with_headers(method, path, &headers, &body);
        client.response()
    };
    for header in [
        "Origin: http://evil.example",
        "Origin: http://locks.example:8889",
        "Origin: http://locks.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Origin: http://locks.example:8888\r\nSec-Fetch-Site: cross-site",
    ] {
        for (method, path) in [
            ("POST", "/locks/bar"),
            ("DELETE", lock.as_str()),
            ("DELETE", "/resources"),
            ("DELETE", "/resources/foo"),
            ("OPTIONS", "/locks/foo"),
            ("POST", "/nothing"),
        ] {
            assert!(send(method, path, header).detail(403).contains("another site"));
        }
        assert_eq!(send("GET", "/resources", header).status, 200, "reading is harmless: {header}");
    }
    assert_eq!(server.get("/resources").json()["_embedded"]["resources"][0]["name"], "foo");
    for header in [
        "Origin: http://locks.example:8888",
        "Origin: https://LOCKS.example:8888",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Site: none",
    ] {
        assert_eq!(send("POST", "/locks/bar", header).status, 201, "{header}");
        assert_eq!(send("DELETE", "/resources/bar", header).status, 204, "{header}");
    }
}

/// A DELETE of all locks as a browser sends it.
fn delete_all_from(server: &Server, host: &str, origin: &str) -> Response {
    let mut client = server.connect();
    let headers = format!("Host: {host}\r\nOrigin: {origin}");
    client.send_with_headers("DELETE", "/resources", &headers, "");
    client.response()
}

#[test]
fn a_page_whose_name_only_resolves_to_this_server_is_refused() {
    let server = Server::start_with(&["--host", "locks.example"]);
    let port = server.port();
    server.hold("foo");
    for host in ["evil.example", "evil.example:8888", "locks.example.evil.example"] {
        let detail = delete_all_from(&server, host, &format!("http://{host}")).detail(403);
        assert!(detail.contains("--host "), "{detail}");
    }
    assert_eq!(server.locks("foo").len(), 1);
    let nodename = rustix::system::uname().nodename().to_str().unwrap().to_string();
    for host in ["localhost", "127.0.0.1", "[::1]", "locks.example", "Locks.Example.", &nodename] {
        let host = format!("{host}:{port}");
        let deleted = delete_all_from(&server, &host, &format!("http://{host}"));
        assert_eq!(deleted.status, 204, "{host}");
    }
    let mut client = server.connect();
    client.send_with_headers("DELETE", "/resources", "Host: any.example", "");
    assert_eq!(client.response().status, 204, "no browser has sent it");

    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.arg("serve").env("RDLM_SERVE_HOST", "a.example, b.example");
    let server = Server::start_command(&mut command);
    for host in ["a.example", "b.example"] {
        assert_eq!(delete_all_from(&server, host, &format!("http://{host}")).status, 204);
    }
}

#[test]
fn a_page_behind_a_proxy_may_change_locks_whatever_host_the_proxy_puts_in() {
    let server = Server::start_with(&["--base-url", "https://proxy.example/locks"]);
    for host in ["backend", "127.0.0.1:8888", "proxy.example"] {
        let deleted = delete_all_from(&server, host, "https://proxy.example");
        assert_eq!(deleted.status, 204, "{host}");
        let other = delete_all_from(&server, host, "https://evil.example");
        assert!(other.detail(403).contains("another site"));
    }
}

/// The client of a lock that was asked for with these X-Forwarded-For headers.
fn client_shown(server: &Server, forwarded: &[&str]) -> String {
    let mut client = server.connect();
    let lines = forwarded.iter().map(|value| format!("\r\nX-Forwarded-For: {value}"));
    let headers = format!("Host: h{}", lines.collect::<String>());
    client.send_with_headers("POST", "/locks/foo", &headers, &lock_body(0, 60));
    assert_eq!(client.response().status, 201);
    let shown = server.locks("foo")[0]["client"].as_str().unwrap().to_string();
    assert_eq!(server.delete("/resources").status, 204);
    shown
}

#[test]
fn only_a_trusted_proxy_says_who_the_client_is() {
    let server = Server::start();
    assert_eq!(client_shown(&server, &["192.0.2.1"]), "127.0.0.1");
    let elsewhere = Server::start_with(&["--trusted-proxy", "10.0.0.0/8"]);
    assert_eq!(client_shown(&elsewhere, &["192.0.2.1"]), "127.0.0.1");

    let trusted = ["--trusted-proxy", "127.0.0.1", "--trusted-proxy", "10.0.0.0/8"];
    let server = Server::start_with(&trusted);
    for (forwarded, client) in [
        (&[][..], "127.0.0.1"),
        (&["192.0.2.1"], "192.0.2.1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["192.0.2.1:4711"], "192.0.2.1"),
        // The first ones are whatever the client has invented.
        (&["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
        (&["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
        (&["198.51.100.7, 192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        (&["10.1.1.1, 10.1.2.3"], "10.1.1.1"),
        (&["192.0.2.1, nonsense"], "127.0.0.1"),
        (&["192.0.2.1, nonsense, 10.1.2.3"], "10.1.2.3"),
    ] {
        assert_eq!(client_shown(&server, forwarded), client, "{forwarded:?}");
    }
}
