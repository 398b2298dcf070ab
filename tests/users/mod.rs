//! Users, what each may do, and the file that says so.

mod file;
mod identity;
mod rights;

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use crate::authority::text;
use crate::harness::{Client, Response, Server, lock_body};

/// Of "secret", "token" and nothing; `eve` has a name that is hard on terminals.
const USERS: &str = r#"
[anonymous]
may = ["lock ci-*"]

[user.deploy]
password = "$2y$05$2Ukn7W1zRnLLaSrsW5Ia3eAFaO6dF8VJuLmBzz9QV/OggZCuTCjwy"
token = "sha256:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"
may = ["lock deploy-*", "see deploy-*"]

[user.ops]
password = "plain"
may = ["admin *"]

[user.viewer]
password = "viewer"
may = ["see *"]

[user."e\u001b[2Jve\n<b>"]
password = "eve"
may = ["lock *"]

[user.robot]
may = ["lock robot"]
"#;

const DEPLOY: &str = "deploy:secret";
const OPS: &str = "ops:plain";
const VIEWER: &str = "viewer:viewer";

struct World {
    server: Server,
    file: PathBuf,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(USERS, &[])
    }

    fn with(users: &str, options: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("users.toml");
        fs::write(&file, users).unwrap();
        let server = Server::start_with(&[&["--users", text(&file)], options].concat());
        Self { server, file, _dir: dir }
    }

    /// A request of `user:password`, of `Bearer token`, or of nobody in particular.
    fn ask(&self, who: &str, method: &str, path: &str, body: &str) -> Response {
        ask(&mut self.server.connect(), who, method, path, body)
    }

    fn status(&self, who: &str, method: &str, path: &str) -> u16 {
        self.ask(who, method, path, "").status
    }

    fn acquire(&self, who: &str, resource: &str) -> Response {
        self.ask(who, "POST", &format!("/locks/{resource}"), &lock_body(0, 600))
    }

    fn hold(&self, who: &str, resource: &str) -> String {
        self.acquire(who, resource).lock_path()
    }
}

fn ask(client: &mut Client, who: &str, method: &str, path: &str, body: &str) -> Response {
    client.send_with_headers(method, path, &format!("Host: localhost{}", credentials(who)), body);
    client.response()
}

fn credentials(who: &str) -> String {
    match who {
        "" => String::new(),
        token if token.starts_with("Bearer ") => format!("\r\nAuthorization: {token}"),
        pair => format!("\r\nAuthorization: Basic {}", BASE64_STANDARD.encode(pair)),
    }
}

fn names(list: &Response) -> Vec<String> {
    let value = list.json();
    let resources = value.get("_embedded").unwrap_or(&value)["resources"].as_array().unwrap();
    resources.iter().map(|resource| resource["name"].as_str().unwrap().into()).collect()
}
