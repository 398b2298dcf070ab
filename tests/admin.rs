//! Administrative requests and who may send them.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Response, Server};

const ADMIN_REQUESTS: [(&str, &str); 8] = [
    ("GET", "/resources"),
    ("HEAD", "/resources"),
    ("DELETE", "/resources"),
    ("GET", "/resources/foo"),
    ("HEAD", "/resources/foo"),
    ("DELETE", "/resources/foo"),
    ("GET", "/status"),
    ("HEAD", "/status"),
];

#[test]
fn resources_with_locks_are_listed() {
    let server = Server::start();
    let empty = server.get("/resources");
    assert_eq!(empty.status, 200);
    assert_eq!(empty.header("Content-Type"), Some("application/hal+json"));
    assert_eq!(
        empty.json(),
        json!({"_embedded":{"resources":[]},"_links":{"self":{"href":"/resources"}}})
    );
    server.hold("foo");
    server.hold("bar");
    assert_eq!(
        server.get("/resources").json()["_embedded"]["resources"],
        json!([
            {"name":"bar","_links":{"self":{"href":"/resources/bar"}}},
            {"name":"foo","_links":{"self":{"href":"/resources/foo"}}},
        ])
    );
}

#[test]
fn looking_creates_nothing() {
    let server = Server::start();
    let uid = "aa4e181e17374148a21b30d9dcb941f9";
    server.get(&format!("/locks/foo/{uid}")).detail(404);
    server.delete(&format!("/locks/foo/{uid}")).detail(404);
    let resource = server.get("/resources/foo");
    assert_eq!(resource.status, 200);
    assert_eq!(resource.json(), json!({"name":"foo","_links":{"self":{"href":"/resources/foo"}}}));
    server.delete("/resources/foo").detail(404);
    assert_eq!(server.get("/resources").json()["_embedded"]["resources"], json!([]));
}

#[test]
fn deleting_a_resource_ends_its_locks_and_waits() {
    let server = Server::start();
    let (foo, bar) = (server.hold("foo"), server.hold("bar"));
    let mut waiters = [server.join_line("foo"), server.join_line("foo")];
    let deleted = server.delete("/resources/foo");
    assert_eq!((deleted.status, deleted.text()), (204, ""));
    for waiter in &mut waiters {
        waiter.response().detail(409);
    }
    server.get(&foo).detail(404);
    assert_eq!(server.get(&bar).status, 200);
    server.delete("/resources/foo").detail(404);
}

#[test]
fn deleting_all_resources_ends_all_locks_and_waits() {
    let server = Server::start();
    server.hold("foo");
    server.hold("bar");
    let mut waiters = [server.join_line("foo"), server.join_line("bar")];
    assert_eq!(server.delete("/resources").status, 204);
    for waiter in &mut waiters {
        waiter.response().detail(409);
    }
    assert_eq!(server.get("/resources").json()["_embedded"]["resources"], json!([]));
    assert_eq!(server.delete("/resources").status, 204, "also when there is nothing");
}

#[test]
fn administrative_requests_can_be_switched_off() {
    let server = Server::start_with(&["--admin-userpass-file", "no"]);
    let lock = server.hold("foo");
    for (method, path) in ADMIN_REQUESTS {
        assert_eq!(server.request(method, path, "").status, 403, "{method} {path}");
        assert_eq!(server.request("OPTIONS", path, "").status, 403, "{path}");
    }
    assert_eq!(server.get(&lock).status, 200);
    assert_eq!(server.delete(&lock).status, 204, "who has the lock's URL is not concerned");
}

fn with_authorization(server: &Server, method: &str, path: &str, value: &str) -> Response {
    let mut client = server.connect();
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {value}\r\n\r\n"));
    client.response()
}

fn basic(user_and_password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(user_and_password))
}

/// The hash of "secret".
const BCRYPT: &str = "$2y$05$2Ukn7W1zRnLLaSrsW5Ia3eAFaO6dF8VJuLmBzz9QV/OggZCuTCjwy";

#[test]
fn administrators_name_themselves() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    let text = "alice:wonder:land\n\nbob:pass word\n";
    fs::write(&file, text).unwrap();
    // RDLM's spelling of the option.
    let server = Server::start_with(&["--admin_userpass_file", file.to_str().unwrap()]);
    server.hold("foo");
    for (method, path) in ADMIN_REQUESTS {
        let refused = server.request(method, path, "");
        assert_eq!(refused.status, 401, "{method} {path}");
        assert_eq!(refused.header("WWW-Authenticate"), Some("Basic realm=\"Restricted\""));
    }
    for (method, path) in ADMIN_REQUESTS {
        server.acquire("foo", 0.0, 60.0);
        let done = with_authorization(&server, method, path, &basic("alice:wonder:land"));
        assert!(matches!(done.status, 200 | 204), "{method} {path}: {}", done.status);
    }
    let lower = basic("bob:pass word").replace("Basic", "basic");
    assert_eq!(with_authorization(&server, "GET", "/resources", &lower).status, 200);

    for wrong in [
        basic("alice:wonder"),
        basic("alice:wonder:land "),
        basic("alice:"),
        basic("alice"),
        basic(":wonder:land"),
        basic("bob:wonder:land"),
        basic(""),
        "Basic".into(),
        "Basic !!!!".into(),
        "Bearer alice:wonder:land".into(),
        BASE64_STANDARD.encode("alice:wonder:land"),
    ] {
        with_authorization(&server, "GET", "/resources", &wrong).detail(401);
    }
}

#[test]
fn passwords_may_be_bcrypt_hashes() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    fs::write(&file, format!("carol:{BCRYPT}\n")).unwrap();
    let server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    let get = |user: &str| with_authorization(&server, "GET", "/resources", &basic(user)).status;
    assert_eq!(get("carol:secret"), 200);
    assert_eq!(get("carol:Secret"), 401);
    assert_eq!(get(&format!("carol:{BCRYPT}")), 401, "the hash is not the password");
}

/// A server with this file of administrators, whose log tells what passwords cost.
fn with_file(file: &Path) -> Server {
    Server::start_with(&["--admin-userpass-file", file.to_str().unwrap(), "--logging", "debug"])
}

#[test]
fn a_name_that_is_not_there_costs_as_much_as_a_wrong_password() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    let [dear, cheap] = [8, 4].map(|cost| bcrypt::hash("secret", cost).unwrap());
    fs::write(&file, format!("dear:{dear}\ncheap:{cheap}\nplain:secret\n")).unwrap();
    let server = with_file(&file);
    let users = ["dear:x", "cheap:x", "plain:x", "nobody:x"];
    for user in users {
        with_authorization(&server, "GET", "/resources", &basic(user)).detail(401);
    }
    let log = server.into_log();
    assert_eq!(log.matches("in 256 rounds of bcrypt").count(), users.len(), "{log}");
}

#[test]
fn a_right_password_is_computed_once_until_the_file_changes() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    let write = |password: &str| {
        let hash = bcrypt::hash(password, 5).unwrap();
        fs::write(&file, format!("carol:{hash}\n")).unwrap();
    };
    write("secret");
    let server = with_file(&file);
    let get = |user: &str| with_authorization(&server, "GET", "/resources", &basic(user)).status;
    for _ in 0..10 {
        assert_eq!(get("carol:secret"), 200);
    }
    assert_eq!(get("carol:Secret"), 401);
    write("other");
    assert_eq!(get("carol:secret"), 401);
    for _ in 0..10 {
        assert_eq!(get("carol:other"), 200);
    }
    let log = server.into_log();
    assert_eq!(log.matches("a password was computed").count(), 4, "{log}");
}

#[test]
fn a_crowd_of_wrong_passwords_is_sent_away_and_locks_go_on() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    // Seconds of a debug build each.
    let hash = "$2y$11$2Ukn7W1zRnLLaSrsW5Ia3eAFaO6dF8VJuLmBzz9QV/OggZCuTCjwy";
    fs::write(&file, format!("carol:{hash}\ndave:plain\n")).unwrap();
    let server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    let mut crowd: Vec<_> = (0..60).map(|_| server.connect()).collect();
    for (n, client) in crowd.iter_mut().enumerate() {
        let headers = format!("Host: h\r\nAuthorization: {}", basic(&format!("carol:{n}")));
        client.send_with_headers("GET", "/resources", &headers, "");
    }
    let lock = server.hold("foo");
    assert_eq!(server.delete(&lock).status, 204);
    assert_eq!(with_authorization(&server, "GET", "/resources", &basic("dave:plain")).status, 200);
    let answers: Vec<_> = crowd.iter_mut().map(|client| client.response()).collect();
    let sent_away: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!sent_away.is_empty(), "all are computed");
    for answer in sent_away {
        assert!(answer.detail(503).contains("too many passwords"));
        assert_eq!(answer.header("Retry-After"), Some("1"));
    }
    assert!(answers.iter().all(|answer| matches!(answer.status, 401 | 503)));
}

#[test]
fn the_file_is_read_again_when_it_changes() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    fs::write(&file, "\u{feff}alice:old\n").unwrap();
    let server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    let get = |user: &str| with_authorization(&server, "GET", "/resources", &basic(user));
    assert_eq!(get("alice:old").status, 200);
    fs::write(&file, "alice:new\n").unwrap();
    assert_eq!(get("alice:new").status, 200);
    get("alice:old").detail(401);

    // While it is being written, a password is cut off.
    fs::write(&file, "alice:ne").unwrap();
    get("alice:ne").detail(500);
    get("alice:new").detail(500);
    fs::write(&file, "nonsense\n").unwrap();
    get("alice:new").detail(500);
    fs::remove_file(&file).unwrap();
    let lock = server.hold("foo");
    get("alice:new").detail(500);
    assert_eq!(server.get(&lock).status, 200, "locks go on");
    let log = server.into_log();
    assert!(log.contains("line 1: expected user:password"), "{log}");
    assert!(log.contains("does not end with a line feed"), "{log}");
    assert!(log.contains("cannot read"), "{log}");
}
