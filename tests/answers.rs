//! What every answer has, from any part of the server and by any way to the client.

use crate::harness::{Client, Response, Server, lock_body};
use crate::nginx::Nginx;

/// The answer to these bytes. [`Client::response`] asserts that it says that it is rdlm's.
pub(crate) fn answer(server: &Server, bytes: &str) -> Response {
    let mut client = server.connect();
    client.send(bytes);
    client.response()
}

/// Requests with a mistake that is found before there is a door for them.
pub(crate) fn unreadable() -> Vec<(u16, String)> {
    let host = "Host: h\r\n";
    vec![
        (400, "nonsense\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\n\r\n".into()),
        (400, format!("POST /locks/a HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n")),
        (413, format!("POST /locks/a HTTP/1.1\r\n{host}Content-Length: 70000\r\n\r\n")),
        (414, format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(9000))),
        (417, format!("GET / HTTP/1.1\r\n{host}Expect: tea\r\n\r\n")),
        (431, format!("GET / HTTP/1.1\r\n{host}{}\r\n", "A: b\r\n".repeat(200))),
        (501, format!("POST /locks/a HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n")),
        (505, "GET / HTTP/2.0\r\n\r\n".into()),
    ]
}

/// Requests that get to their doors.
fn readable(lock: &str) -> Vec<(u16, String)> {
    let request = |method: &str, path: &str, headers: &str, body: &str| {
        let len = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {len}\r\n\r\n{body}"
        )
    };
    let plain = |method: &str, path: &str| request(method, path, "", "");
    let fleetlock = r#"{"client_params":{"id":"a","group":"default"}}"#;
    let reboot = |headers| request("POST", "/v1/pre-reboot", headers, fleetlock);
    vec![
        (200, plain("GET", "/")),
        (200, "HEAD /status HTTP/1.0\r\n\r\n".into()),
        (200, request("GET", "/status", "Accept-Encoding: gzip\r\n", "")),
        (200, plain("GET", "/events?latest=1&follow=no")),
        (200, plain("GET", lock)),
        (201, request("POST", "/locks/b", "", &lock_body(0, 60))),
        (204, plain("OPTIONS", "/locks/b")),
        (204, plain("DELETE", lock)),
        (404, plain("GET", "/nothing")),
        (403, request("DELETE", "/resources", "Origin: http://evil.example\r\n", "")),
        (405, plain("PUT", "/")),
        (408, request("POST", "/locks/b", "", &lock_body(0, 60))),
        (409, request("POST", "/locks/b", "Prefer: status=409\r\n", &lock_body(0, 60))),
        (423, request("LOCK", "/locks/b", "", r#"{"ID":"1"}"#)),
        (200, request("LOCK", "/locks/c", "", r#"{"ID":"1"}"#)),
        (200, reboot("fleet-lock-protocol: true\r\n")),
        (400, reboot("")),
    ]
}

#[test]
fn every_answer_says_that_it_is_rdlm_s() {
    let server = Server::start_with(&["--fleetlock", "1"]);
    let lock = server.hold("a");
    for (status, request) in unreadable().into_iter().chain(readable(&lock)) {
        assert_eq!(answer(&server, &request).status, status, "{request}");
    }
}

#[test]
fn a_problem_has_the_type_of_its_reason_or_of_its_status() {
    let server = Server::start();
    server.hold("a");
    for (status, request, kind) in [
        (408, server.acquire("a", 0.0, 1.0), "urn:rdlm:problem:timed_out"),
        (
            404,
            server.get("/locks/a/aa4e181e17374148a21b30d9dcb941f9"),
            "urn:rdlm:problem:no_such_lock",
        ),
        (404, server.get("/nothing"), "urn:rdlm:problem:404"),
        (400, answer(&server, "nonsense\r\n\r\n"), "urn:rdlm:problem:400"),
        (423, server.request("LOCK", "/locks/a", r#"{"ID":"1"}"#), "urn:rdlm:problem:423"),
    ] {
        request.detail(status);
        assert_eq!(request.json()["type"], kind);
    }
}

fn ask(nginx: &Nginx, request: &str) -> (Client, Response) {
    let mut client = Client::try_connect(nginx.port).unwrap();
    client.send(request);
    let head = client.try_head().unwrap();
    (client, head)
}

#[test]
fn behind_nginx_as_it_is_installed_events_arrive_at_once_and_answers_are_known_as_rdlm_s() {
    let server = Server::start();
    let nginx = Nginx::before(&server);
    let (mut client, head) = ask(&nginx, "GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(head.status, 200);
    assert!(head.header("Server").unwrap().starts_with("nginx"));
    assert_eq!(head.header("RDLM-Version"), Some(env!("CARGO_PKG_VERSION")));
    let mut next = || String::from_utf8(client.try_chunk().unwrap().unwrap()).unwrap();
    assert_eq!(next(), ": events\n\n");
    server.hold("a");
    assert!(next().contains("event: granted\n"), "while the stream goes on");
    let (_, problem) = ask(&nginx, "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(problem.header("RDLM-Version"), Some(env!("CARGO_PKG_VERSION")));
}
