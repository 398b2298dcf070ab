//! The status page and what it shows, as far as it can be seen without a browser.

use serde_json::json;

use crate::harness::{Response, Server};

/// What browsers send when somebody types an address.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn home(server: &Server, method: &str, accept: &str) -> Response {
    let mut client = server.connect();
    client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n{accept}\r\n"));
    client.response()
}

#[test]
fn browsers_get_the_page_and_everybody_else_the_text() {
    let server = Server::start();
    for (accept, html) in [
        (format!("Accept: {BROWSER}\r\n"), true),
        ("accept: text/html\r\n".into(), true),
        ("Accept: application/xml\r\nAccept: text/html\r\n".into(), true),
        (String::new(), false),
        ("Accept: */*\r\n".into(), false),
        ("Accept: text/html;q=0, */*\r\n".into(), false),
        ("Accept: text/plain, text/html;q=0.9\r\n".into(), false),
    ] {
        let page = home(&server, "GET", &accept);
        assert_eq!(page.status, 200);
        assert_eq!(page.header("Vary"), Some("Accept, Accept-Encoding"));
        let kind = if html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        assert_eq!(page.header("Content-Type"), Some(kind), "{accept:?}");
        assert_eq!(page.text().starts_with("<!doctype html>"), html);
        assert_eq!(page.text().starts_with("Welcome"), !html);
        assert_eq!(page.header("Content-Security-Policy").is_some(), html);
        let head = home(&server, "HEAD", &accept);
        assert_eq!((head.status, head.text()), (200, ""));
        for header in ["Content-Type", "Content-Length", "Vary", "Content-Security-Policy"] {
            assert_eq!(head.header(header), page.header(header), "{accept:?} {header}");
        }
    }
}

#[test]
fn an_accept_header_that_cannot_be_parsed_is_no_error() {
    let server = Server::start();
    for accept in [&b"\xff"[..], b"text/html\xff", b";;,q=\"", b"text/html;q=1.5"] {
        let mut client = server.connect();
        let request = [b"GET / HTTP/1.1\r\nHost: h\r\nAccept: ", accept, b"\r\n\r\n"];
        client.send(request.concat());
        assert!(client.response().text().starts_with("Welcome"), "{}", accept.escape_ascii());
    }
}

#[test]
fn the_policy_of_the_page_admits_nothing_else() {
    let server = Server::start();
    let page = home(&server, "GET", &format!("Accept: {BROWSER}\r\n"));
    let policy = page.header("Content-Security-Policy").unwrap();
    let directives: Vec<_> = policy.split("; ").collect();
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&directive), "{policy}");
    }
    for source in ["unsafe", "*", "http", "data:", "blob:"] {
        assert!(!policy.contains(source), "{policy}");
    }
    for hashed in ["style-src 'sha256-", "script-src 'sha256-"] {
        assert!(directives.iter().any(|directive| directive.starts_with(hashed)), "{policy}");
    }
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(page.header("Referrer-Policy"), Some("no-referrer"));
    assert_eq!(page.header("Cache-Control"), Some("no-store"));
}

#[test]
fn the_page_itself_is_open_to_everybody() {
    let server = Server::start_with(&["--admin-userpass-file", "no"]);
    server.hold("secret");
    let page = home(&server, "GET", "Accept: text/html\r\n");
    assert_eq!(page.status, 200);
    assert!(!page.text().contains("secret"), "it has no locks in it");
}

#[test]
fn the_status_is_all_locks_as_their_resources_list_them() {
    let server = Server::start();
    let empty = server.get("/status");
    assert_eq!(empty.status, 200);
    assert_eq!(empty.header("Content-Type"), Some("application/json"));
    assert_eq!(empty.header("Cache-Control"), Some("no-store"));
    assert_eq!(empty.json()["resources"], json!([]));

    let foo = server.hold("foo");
    server.acquire_with("bar", r#""mode":"shared","wait":0,"lifetime":60"#).lock_path();
    server.acquire_with("bar", r#""mode":"shared","wait":0,"lifetime":60"#).lock_path();
    let _waiters = [server.join_line("foo"), server.join_line("foo")];
    let status = server.get("/status").json();
    let expected = json!([
        {"name": "bar", "locks": server.locks("bar")},
        {"name": "foo", "locks": server.locks("foo")},
    ]);
    assert_eq!(status["resources"], expected);
    assert_eq!(status["resources"][1]["locks"][2]["position"], 2);

    let (now, begin) = (status["now"].as_str().unwrap(), &server.get(&foo).json()["active_since"]);
    assert_eq!((now.len(), now.ends_with('Z')), (27, true), "{now}");
    assert!(now > begin.as_str().unwrap(), "{now} is after {begin}");
}
