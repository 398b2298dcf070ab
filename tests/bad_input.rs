//! Wrong requests: each gets a clear error and changes nothing.

use crate::harness::{Server, lock_body};

/// Sends a body and returns the detail of the 400, having checked that nothing is locked.
#[track_caller]
fn detail_of(server: &Server, body: impl AsRef<[u8]>) -> String {
    let body = body.as_ref();
    let mut client = server.connect();
    let head =
        format!("POST /locks/foo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send([head.as_bytes(), body].concat());
    let detail = client.response().detail(400);
    assert!(server.locks("foo").is_empty());
    assert_eq!(client.request("GET", "/", "").status, 200, "the connection stays usable");
    detail
}

#[test]
fn a_body_that_is_not_a_json_object_is_refused() {
    let server = Server::start();
    let deep = "[".repeat(60_000);
    let deep_field = format!(r#"{{"x":{deep}"#);
    let cases: &[(&str, &[u8], &str)] = &[
        ("no body", b"", "empty"),
        ("blanks", b" \r\n\t", "empty"),
        ("an array", br#"["t",1,2]"#, "not an object"),
        ("a string", br#""title""#, "not an object"),
        ("a number", b"1", "not an object"),
        ("null", b"null", "not an object"),
        ("NaN", b"NaN", "not an object"),
        ("a form", b"title=a&wait=1&lifetime=2", "not an object"),
        ("an unfinished object", br#"{"title":"a","wait":1"#, "not valid"),
        ("something behind it", br#"{"title":"a","wait":1,"lifetime":2} x"#, "not valid"),
        ("two objects", br#"{"title":"a","wait":1,"lifetime":2}{}"#, "not valid"),
        ("a trailing comma", br#"{"title":"a","wait":1,"lifetime":2,}"#, "not valid"),
        ("single quotes", br#"{'title':'a','wait':1,'lifetime':2}"#, "not valid"),
        ("a comment", br#"{/**/"title":"a","wait":1,"lifetime":2}"#, "not valid"),
        ("UTF-16", b"\xff\xfe{\0}\0", "not an object"),
        ("deep nesting", deep.as_bytes(), "not an object"),
        ("deep nesting in a field", deep_field.as_bytes(), "not valid"),
        ("a NUL", b"{\"title\":\"a\",\"wait\":1,\"lifetime\":2}\0", "not valid"),
    ];
    for (what, body, expected) in cases {
        let detail = detail_of(&server, body);
        assert!(detail.contains(expected), "{what}: {detail}");
        assert!(
            detail.contains(r#"{"title":"backup","wait":5,"lifetime":300}"#),
            "{what}: {detail}"
        );
    }
}

#[test]
fn a_wrong_field_is_named_with_what_would_be_right() {
    let server = Server::start();
    let body = |title: &str, wait: &str, lifetime: &str| {
        format!(r#"{{"title":{title},"wait":{wait},"lifetime":{lifetime}}}"#)
    };
    let too_long = format!(r#""{}""#, "x".repeat(1025));
    let cases = [
        ("{}".to_string(), "title is missing"),
        (r#"{"title":"a","lifetime":1}"#.into(), "wait is missing"),
        (r#"{"title":"a","wait":1}"#.into(), "lifetime is missing"),
        (r#"{"Title":"a","wait":1,"lifetime":1}"#.into(), "title is missing"),
        (body("5", "1", "1"), "title is 5"),
        (body("null", "1", "1"), "title is null"),
        (body("true", "1", "1"), "title is a boolean"),
        (body("[\"a\"]", "1", "1"), "title is an array"),
        (body("{\"a\":[1]}", "1", "1"), "title is an object"),
        (body(&too_long, "1", "1"), "title has 1025 bytes"),
        (body("\"a\"", "-1", "1"), "wait is -1"),
        (body("\"a\"", "-0.001", "1"), "wait is -0.001"),
        (body("\"a\"", "1000000001", "1"), "wait is 1000000001"),
        (body("\"a\"", "1e300", "1"), "wait is 1"),
        (body("\"a\"", "18446744073709551616", "1"), "wait is 18446744073709552000"),
        (body("\"a\"", "true", "1"), "wait is a boolean"),
        (body("\"a\"", "null", "1"), "wait is null"),
        (body("\"a\"", "[1]", "1"), "wait is an array"),
        (body("\"a\"", "\"\"", "1"), "wait is \"\""),
        (body("\"a\"", "\"soon\"", "1"), "wait is \"soon\""),
        (body("\"a\"", "\"5s\"", "1"), "wait is \"5s\""),
        (body("\"a\"", "\"1 2\"", "1"), "wait is \"1 2\""),
        (body("\"a\"", "\"inf\"", "1"), "wait is \"inf\""),
        (body("\"a\"", "\"NaN\"", "1"), "wait is \"NaN\""),
        (body("\"a\"", "\"1e400\"", "1"), "wait is \"1e400\""),
        (body("\"a\"", "\"0x10\"", "1"), "wait is \"0x10\""),
        (body("\"a\"", &too_long, "1"), "wait is \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\","),
        (body("\"a\"", "1", "0"), "lifetime is 0"),
        (body("\"a\"", "1", "-0"), "lifetime is -0"),
        (body("\"a\"", "1", "-5"), "lifetime is -5"),
        (body("\"a\"", "1", "\"0\""), "lifetime is 0"),
        (body("\"a\"", "1", "1000000000.1"), "lifetime is 1000000000.1"),
        (body("\"a\"", "1", "{}"), "lifetime is an object"),
    ];
    for (body, expected) in cases {
        let detail = detail_of(&server, &body);
        assert!(detail.starts_with(expected), "{body}: {detail}");
        let field = expected.split(' ').next().unwrap();
        assert!(detail.contains("expected") || detail.contains("accepted"), "{field}: {detail}");
    }
}

#[test]
fn json_that_parsers_disagree_on_is_refused() {
    let server = Server::start();
    for (what, body) in [
        ("NaN", &br#"{"title":"a","wait":NaN,"lifetime":1}"#[..]),
        ("Infinity", br#"{"title":"a","wait":Infinity,"lifetime":1}"#),
        ("1e400", br#"{"title":"a","wait":1e400,"lifetime":1}"#),
        ("a leading zero", br#"{"title":"a","wait":01,"lifetime":1}"#),
        ("a plus sign", br#"{"title":"a","wait":+1,"lifetime":1}"#),
        ("a bare point", br#"{"title":"a","wait":.5,"lifetime":1}"#),
        ("a lone surrogate", br#"{"title":"\ud800","wait":1,"lifetime":1}"#),
        ("invalid UTF-8", b"{\"title\":\"\xff\",\"wait\":1,\"lifetime\":1}"),
        ("a raw line break", b"{\"title\":\"a\nb\",\"wait\":1,\"lifetime\":1}"),
        ("a duplicated title", br#"{"title":"a","title":"b","wait":1,"lifetime":1}"#),
        ("a duplicated wait", br#"{"title":"a","wait":0,"wait":1,"lifetime":1}"#),
        ("a duplicated lifetime", br#"{"title":"a","wait":1,"lifetime":1,"lifetime":1}"#),
    ] {
        let detail = detail_of(&server, body);
        assert!(detail.contains("not valid"), "{what}: {detail}");
    }
}

#[test]
fn a_name_that_is_not_allowed_is_refused() {
    let server = Server::start();
    let too_long = "n".repeat(256);
    for name in [
        "a%20b",
        "a+b",
        "a%2F",
        "%2Fa",
        "a%2F%2Fb",
        "a%2F%2E",
        "a%2F%2E%2E%2Fb",
        "%C3%A9",
        "%",
        "%zz",
        "a%00",
        "a,b",
        "a$b",
        "%FF",
        &too_long,
    ] {
        for path in [format!("/locks/{name}"), format!("/resources/{name}")] {
            let method = if path.starts_with("/locks") { "POST" } else { "GET" };
            let detail = server.request(method, &path, &lock_body(0, 60)).detail(400);
            assert!(detail.contains("1 to 255 of A-Z a-z 0-9 . _ : ~ @ -"), "{path}: {detail}");
        }
    }
    assert_eq!(server.get("/resources").json()["_embedded"]["resources"], serde_json::json!([]));
}

#[test]
fn a_body_over_64_kib_gets_413_and_the_connection_ends() {
    let server = Server::start();
    let padded = |len: usize| {
        let body = lock_body(0, 60);
        let padding = " ".repeat(len - body.len());
        format!("{body}{padding}")
    };
    assert_eq!(server.request("POST", "/locks/fits", &padded(64 * 1024)).status, 201);

    let mut client = server.connect();
    client.send_request("POST", "/locks/foo", &padded(64 * 1024 + 1));
    assert!(client.response().detail(413).contains("65536 bytes"));
    assert!(client.is_closed());

    let mut chunked = server.connect();
    chunked.send("POST /locks/foo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    chunked.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", 70_000, padded(70_000)));
    chunked.response().detail(413);
    assert!(server.locks("foo").is_empty());
}

#[test]
fn a_length_that_is_not_clear_gets_400_and_the_connection_ends() {
    let server = Server::start();
    for headers in [
        "Content-Length: abc",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5,5",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ] {
        let mut client = server.connect();
        // What follows must not be taken for a request.
        client.send(format!(
            "POST /locks/foo HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        client.response().detail(400);
        assert!(client.is_closed(), "{headers}");
    }
}

/// As some editors and shells write it.
#[test]
fn a_byte_order_mark_before_the_body_is_skipped() {
    let server = Server::start();
    let body = "\u{feff}{\"title\":\"t\",\"wait\":0,\"lifetime\":60}";
    assert_eq!(server.request("POST", "/locks/r", body).status, 201);
}
