//! Users at a standby, which asks them who they are, and whom the active server believes.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::etcd::Etcd;
use super::{etcd_or_skip, health, join_by, url};
use crate::authority::{Authority, text};
use crate::harness::{Client, Server, lock_body, wait_until};
use crate::wire::Response;

const USERS: &str = r#"
[anonymous]
may = ["lock ci-*"]

[user.deploy]
password = "secret"
token = "sha256:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"
may = ["lock deploy-*", "see deploy-*", "lock reboot:web"]

[user.ops]
password = "plain"
may = ["admin *"]

[user."é\u001b[2J"]
password = "e"
may = ["lock *"]
"#;

const DEPLOY: &str = "deploy:secret";
const OPS: &str = "ops:plain";

/// Two servers with a file of users each.
struct World {
    active: Server,
    standby: Server,
    files: [PathBuf; 2],
    _dir: TempDir,
}

impl World {
    fn new(etcd: &Etcd, of_active: &str, of_standby: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let files = [("active", of_active), ("standby", of_standby)].map(|(name, users)| {
            let file = dir.path().join(name);
            fs::write(&file, users).unwrap();
            file
        });
        let join = |file| {
            let options = ["--users", text(file), "--open-metrics", "--fleetlock", "1"];
            join_by(&etcd.endpoints(), &options)
        };
        let active = join(&files[0]);
        wait_until("one is active", || health(&active)["role"] == "active");
        let standby = join(&files[1]);
        wait_until("the other knows it", || health(&standby)["active"] == url(&active).as_str());
        Self { active, standby, files, _dir: dir }
    }

    /// A request to the standby of `user:password`, of `Bearer token`, or of nobody in particular.
    fn ask(&self, who: &str, method: &str, path: &str, body: &str) -> Response {
        ask(&mut self.standby.connect(), who, method, path, body)
    }

    fn locks(&self, resource: &str) -> Vec<Value> {
        let path = format!("/resources/{resource}");
        let list = ask(&mut self.active.connect(), OPS, "GET", &path, "").json();
        list["_embedded"]["locks"].as_array().cloned().unwrap_or_default()
    }
}

fn ask(client: &mut Client, who: &str, method: &str, path: &str, body: &str) -> Response {
    client.send_with_headers(method, path, &headers(who), body);
    client.response()
}

fn headers(who: &str) -> String {
    let credentials = match who {
        "" => String::new(),
        token if token.starts_with("Bearer ") => format!("\r\nAuthorization: {token}"),
        pair => format!("\r\nAuthorization: Basic {}", BASE64_STANDARD.encode(pair)),
    };
    format!("Host: localhost\r\nfleet-lock-protocol: true{credentials}")
}

#[test]
fn each_may_do_at_a_standby_what_the_file_says() {
    let etcd = etcd_or_skip!(1);
    let many: Vec<_> = (1..=340).map(|n| format!("\"lock many-{n:04}\"")).collect();
    let many = format!("[user.many]\npassword = \"many\"\nmay = [{}]\n", many.join(", "));
    let users = format!("{USERS}{many}");
    let world = World::new(&etcd, &users, &users);
    let lock = lock_body(0, 600);
    let node = |group: &str| json!({"client_params": {"id": "n", "group": group}}).to_string();
    for (who, method, path, body, expected) in [
        ("", "POST", "/locks/ci-1", &*lock, 201),
        ("", "POST", "/locks/deploy-1", &lock, 401),
        ("", "GET", "/resources", "", 401),
        ("deploy:wrong", "POST", "/locks/deploy-1", &lock, 401),
        ("Bearer wrong", "POST", "/locks/deploy-1", &lock, 401),
        (DEPLOY, "POST", "/locks/deploy-1", &lock, 201),
        (DEPLOY, "POST", "/locks/other", &lock, 403),
        (DEPLOY, "GET", "/resources/deploy-1", "", 200),
        (DEPLOY, "GET", "/resources/other", "", 403),
        (DEPLOY, "DELETE", "/resources/deploy-1", "", 403),
        (DEPLOY, "UNLOCK", "/locks/deploy-1", "", 403),
        ("Bearer token", "POST", "/locks/deploy-2", &lock, 201),
        // What only the body tells.
        (DEPLOY, "POST", "/v1/pre-reboot", &node("web"), 200),
        (DEPLOY, "POST", "/v1/pre-reboot", &node("db"), 403),
        ("", "POST", "/v1/pre-reboot", &node("web"), 401),
        ("é\u{1b}[2J:e", "POST", "/locks/other", &lock, 201),
        (OPS, "UNLOCK", "/locks/other", "", 200),
        (OPS, "GET", "/status", "", 200),
    ] {
        let answer = world.ask(who, method, path, body);
        assert_eq!(answer.status, expected, "{who} {method} {path}: {}", answer.text());
    }
    let shown = &world.locks("deploy-2")[0];
    assert_eq!((&shown["user"], &shown["client"]), (&"deploy".into(), &"127.0.0.1".into()));
    assert!(world.locks("ci-1")[0]["user"].is_null());
    // As many rights as one may have.
    assert_eq!(world.ask("many:many", "POST", "/locks/many-0300", &lock).status, 201);
    // Lists show what each may see.
    let list = world.ask(DEPLOY, "GET", "/resources", "");
    assert!(list.text().contains("deploy-1") && !list.text().contains("ci-1"), "{}", list.text());
    assert!(world.ask(OPS, "GET", "/resources", "").text().contains("ci-1"));
}

#[test]
fn whoever_comes_to_a_server_is_judged_by_its_file() {
    let etcd = etcd_or_skip!(1);
    let new = "[user.new]\npassword = \"new\"\nmay = [\"lock new\", \"see new\"]\n";
    let world = World::new(&etcd, USERS, new);
    // Whom the active server does not know, and whom it does.
    let lock = lock_body(0, 600);
    assert_eq!(world.ask("new:new", "POST", "/locks/new", &lock).status, 201);
    assert_eq!(world.ask("new:new", "POST", "/locks/other", &lock).status, 403);
    assert_eq!(world.ask(OPS, "POST", "/locks/other", &lock).status, 401);
    let direct = ask(&mut world.active.connect(), "new:new", "POST", "/locks/new", &lock);
    assert_eq!(direct.status, 401);
    // A stream ends with the rules that it was begun by: with the next event, it would be.
    let targets = ["/events", "http://localhost/events", "HTTP://localhost/events?resource=new"];
    let streams = targets.map(|target| {
        let mut events = world.standby.connect();
        events.send_with_headers("GET", target, &headers("new:new"), "");
        assert_eq!(events.head().status, 200);
        events
    });
    fs::write(&world.files[1], new.replace("see new", "see none")).unwrap();
    wait_until("it is taken", || world.ask("new:new", "GET", "/resources/new", "").status == 403);
    assert_eq!(ask(&mut world.active.connect(), OPS, "DELETE", "/resources/new", "").status, 204);
    for (target, events) in targets.into_iter().zip(streams) {
        let mut rest = String::new();
        let ended = events.stream().read_to_string(&mut rest);
        assert!(!rest.contains("event:"), "{target}: {ended:?} {rest}");
    }
}

#[test]
fn the_user_of_a_certificate_is_one_at_a_standby() {
    let etcd = etcd_or_skip!(1);
    let authority = Authority::new();
    let users = authority.path().join("users.toml");
    fs::write(&users, "[user.deploy]\nmay = [\"lock deploy-*\", \"see *\"]\n").unwrap();
    let ca = authority.certificate();
    for with_users in [true, false] {
        let users: &[&str] = if with_users { &["--users", text(&users)] } else { &[] };
        let prefix = format!("/{with_users}/");
        let join = |name: &str| {
            let issued = authority.server(name);
            let tls = ["--advertise-ca", text(&ca), "--tls-client-ca", text(&ca)];
            let prefix = ["--etcd-prefix", &prefix];
            let options = [&authority.options(&issued)[..], &tls, &prefix, users].concat();
            join_by(&etcd.endpoints(), &options)
        };
        let [deploy, stranger] = ["deploy", "stranger"].map(|name| authority.client(name));
        let health = |server: &Server| {
            let mut client = authority.connect(server, Some(&deploy));
            client.request("GET", "/health", "").json()
        };
        let active = join("one");
        wait_until("one is active", || health(&active)["role"] == "active");
        let standby = join("two");
        wait_until("the other knows it", || health(&standby)["active"].is_string());
        let mut client = authority.connect(&standby, Some(&deploy));
        let granted = client.acquire("deploy-1", 0.0, 600.0);
        assert_eq!(granted.status, 201, "{granted:?}");
        assert!(granted.header("Location").unwrap().starts_with("https://localhost/"));
        let other = client.acquire("other", 0.0, 600.0).status;
        assert_eq!(other, if with_users { 403 } else { 201 });
        let mut list = authority.connect(&active, Some(&deploy));
        list.send_request("GET", "/status", "");
        let text = list.response().text().to_string();
        assert!(text.contains("\"user\":\"deploy\""), "{text}");
        let mut client = authority.connect(&standby, Some(&stranger));
        let status = client.acquire("deploy-2", 0.0, 600.0).status;
        assert_eq!(status, if with_users { 401 } else { 201 });
    }
}

#[test]
fn an_administrator_is_one_at_a_standby() {
    let etcd = etcd_or_skip!(1);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("administrators");
    fs::write(&file, "admin:secret\n").unwrap();
    let options = ["--admin-userpass-file", text(&file)];
    let active = join_by(&etcd.endpoints(), &options);
    wait_until("one is active", || health(&active)["role"] == "active");
    let standby = join_by(&etcd.endpoints(), &options);
    wait_until("the other knows it", || health(&standby)["active"].is_string());
    for (who, expected) in [("", 401), ("admin:wrong", 401), ("admin:secret", 200)] {
        let answer = ask(&mut standby.connect(), who, "GET", "/resources", "");
        assert_eq!(answer.status, expected, "{who}");
    }
    assert_eq!(standby.acquire("a", 0.0, 600.0).status, 201);
}

/// The field of a server that knows this secret.
fn introduction(secret: &str, user: &str, rights: &[&str]) -> String {
    let client = json!({"address": "192.0.2.1", "user": user, "rights": rights}).to_string();
    format!("Host: localhost\r\nRDLM-Forwarded: {secret} {}", BASE64_STANDARD.encode(client))
}

#[test]
fn nobody_without_the_secret_of_the_tenure_says_who_a_client_is() {
    let etcd = etcd_or_skip!(1);
    let mut world = World::new(&etcd, USERS, USERS);
    let tenure = || etcd.ctl(&["get", "--print-value-only", "/rdlm/tenure"]).unwrap();
    let secret = |tenure: &str| {
        let tenure: Value = serde_json::from_str(tenure).unwrap();
        tenure["secret"].as_str().unwrap().to_string()
    };
    let secret_of_first = secret(&tenure());
    let acquire = |server: &Server, secret: &str, name: &str| {
        let mut client = server.connect();
        let headers = introduction(secret, "root", &["admin *"]);
        client.send_with_headers("POST", &format!("/locks/{name}"), &headers, &lock_body(0, 600));
        client.response()
    };
    // As the standby does it.
    assert_eq!(acquire(&world.active, &secret_of_first, "known").status, 201);
    let shown = &world.locks("known")[0];
    assert_eq!((&shown["user"], &shown["client"]), (&"root".into(), &"192.0.2.1".into()));
    let mut changed = secret_of_first.clone().into_bytes();
    changed[31] ^= 1;
    let changed = String::from_utf8(changed).unwrap();
    for wrong in [&*changed, "", &secret_of_first[..31], &format!("{secret_of_first}0")] {
        let answer = acquire(&world.active, wrong, "forged");
        answer.detail(503);
    }
    // A standby neither believes it nor passes it on.
    acquire(&world.standby, &secret_of_first, "forged").detail(503);
    assert!(world.locks("forged").is_empty());
    // The secret is that of one tenure.
    world.active.signal("-KILL");
    world.active.wait();
    wait_until("the other is active", || health(&world.standby)["role"] == "active");
    acquire(&world.standby, &secret_of_first, "forged").detail(503);
    assert_eq!(acquire(&world.standby, &secret(&tenure()), "forged").status, 201);
}
