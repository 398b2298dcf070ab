//! What somebody is told of the locks of others, by each list and each door: docs/security.md has
//! the same as a table.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tempfile::TempDir;

use crate::authority::text;
use crate::harness::{Response, Server, lock_body};

const USERS: &str = r#"
[user.nobody]
password = "x"
may = ["lock other", "see other"]
[user.locker]
password = "x"
may = ["lock *"]
[user.viewer]
password = "x"
may = ["lock *", "see *"]
[user.ops]
password = "x"
may = ["admin *"]
"#;

const ID: &str = "f6f01f3a-6d1c-4f1e-8f39-0c8a8a2f3d11";
const FLEETLOCK: &str = "fleet-lock-protocol: true";

fn ask(server: &Server, who: &str, method: &str, path: &str, header: &str, body: &str) -> Response {
    let own = BASE64_STANDARD.encode(format!("{who}:x"));
    let headers = format!("Host: localhost\r\nAuthorization: Basic {own}\r\n{header}");
    let mut client = server.connect();
    client.send_with_headers(method, path, headers.trim_end(), body);
    client.response()
}

fn node(id: &str) -> String {
    json!({"client_params": {"id": id, "group": "g"}}).to_string()
}

fn terraform(id: &str) -> String {
    json!({"ID": id, "Operation": "Apply", "Who": "by-terraform"}).to_string()
}

/// A lock of each kind, held by an administrator; and what there is to know of them: a word in the
/// title, and what releases it.
struct Held {
    server: Server,
    secrets: Vec<(&'static str, String)>,
}

impl Held {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("users.toml");
        std::fs::write(&file, USERS).unwrap();
        let server = Server::start_with(&["--users", text(&file), "--fleetlock", "4"]);
        let hold = |resource: &str, title: &str, limit: u8| {
            let path = format!("/locks/{resource}");
            let body =
                json!({"title": title, "wait": 0, "lifetime": 600, "limit": limit}).to_string();
            let key = "Idempotency-Key: of-ops";
            let held = ask(&server, "ops", "POST", &path, key, &body);
            assert_eq!(held.status, 201);
            held.json()["uid"].as_str().unwrap().to_string()
        };
        let native = hold("native", "hand-made", 1);
        let rebooting = hold("reboot:g", "by-a-shell", 4);
        assert_eq!(ask(&server, "ops", "LOCK", "/locks/infra", "", &terraform(ID)).status, 200);
        for id in ["node-1", "node-2", "node-3"] {
            let granted = ask(&server, "ops", "POST", "/v1/pre-reboot", FLEETLOCK, &node(id));
            assert_eq!(granted.status, 200);
        }
        let secrets = [
            ("title", "hand-made"),
            ("reboot title", "by-a-shell"),
            ("terraform", "by-terraform"),
            ("node", "node-1"),
            ("uid", &native),
            ("uid", &rebooting),
            ("key", "of-ops"),
            ("ID", ID),
        ];
        let secrets = secrets.map(|(name, text)| (name, text.to_string())).into();
        Self { server, secrets }
    }

    /// Which of these an answer tells.
    fn told(&self, answer: &Response) -> Vec<&str> {
        let text = String::from_utf8_lossy(&answer.body);
        let told = self.secrets.iter().filter(|(_, secret)| text.contains(&**secret));
        let mut names: Vec<_> = told.map(|(name, _)| *name).collect();
        names.dedup();
        names
    }
}

/// A request, and what is told to each of those who may lock other things, lock this, see it, and
/// end it.
type Row<'a> = (&'a str, &'a str, &'a str, String, [&'a [&'a str]; 4]);

fn rows<'a>() -> Vec<Row<'a>> {
    let lock = || lock_body(0, 60);
    let seen: &[&str] = &["title", "reboot title", "terraform", "node"];
    let all: &[&str] = &["title", "reboot title", "terraform", "node", "uid"];
    let of_native: [&[&str]; 4] = [&[], &[], &["title"], &["title", "uid"]];
    let none: [&[&str]; 4] = [&[]; 4];
    let slots: &[&str] = &["reboot title", "node"];
    vec![
        ("GET", "/status", "", String::new(), [&[], &[], seen, all]),
        ("GET", "/events?latest=100&follow=no", "", String::new(), [&[], &[], seen, all]),
        ("GET", "/resources/native", "", String::new(), of_native),
        ("GET", "/status?search=hand-made", "", String::new(), of_native),
        ("GET", "/resources", "", String::new(), none),
        ("GET", "/metrics", "", String::new(), none),
        ("GET", "/health", "", String::new(), none),
        ("POST", "/locks/native", "", lock(), none),
        ("POST", "/locks/infra", "", lock(), none),
        ("POST", "/locks/infra", "Idempotency-Key: other", lock(), none),
        ("DELETE", "/locks/infra", "Idempotency-Key: other", String::new(), none),
        ("LOCK", "/locks/native", "", terraform("other"), [&[], &[], &["title"], &["title"]]),
        (
            "LOCK",
            "/locks/infra",
            "",
            terraform("other"),
            [&[], &["terraform"], &["terraform"], &["terraform", "ID"]],
        ),
        (
            "UNLOCK",
            "/locks/infra",
            "",
            terraform("other"),
            [&[], &["terraform"], &["terraform"], &["terraform", "ID"]],
        ),
        ("POST", "/v1/pre-reboot", FLEETLOCK, node("other"), [&[], &["node"], slots, slots]),
    ]
}

#[test]
fn each_is_told_what_their_rights_allow_and_no_more() {
    let held = Held::new();
    for (method, path, header, body, expected) in rows() {
        for (who, expected) in ["nobody", "locker", "viewer", "ops"].iter().zip(expected) {
            let answer = ask(&held.server, who, method, path, header, &body);
            let told = held.told(&answer);
            assert_eq!(told, expected, "{who}: {method} {path}: {}", answer.text());
        }
    }
}

#[test]
fn what_a_refusal_of_a_door_tells_opens_nothing_without_the_right() {
    let held = Held::new();
    for (who, status) in [("locker", 403), ("viewer", 403), ("ops", 200)] {
        let told = ask(&held.server, who, "LOCK", "/locks/infra", "", &terraform("other"));
        assert_eq!(told.status, 423);
        let shown = json!({"ID": told.json()["ID"]}).to_string();
        let unlocked = ask(&held.server, who, "UNLOCK", "/locks/infra", "", &shown);
        assert_eq!(unlocked.status, status, "{who} {shown}");
    }
    // The holder has its own ID.
    assert_eq!(
        ask(&held.server, "locker", "LOCK", "/locks/infra", "", &terraform("own")).status,
        200
    );
    assert_eq!(
        ask(&held.server, "locker", "UNLOCK", "/locks/infra", "", &terraform("own")).status,
        200
    );
}
