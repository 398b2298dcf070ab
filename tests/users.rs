//! Users, what each may do, and the file that says so.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::authority::{Authority, Issued, text};
use crate::harness::{Client, Response, Server, lock_body, wait_until};

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

#[test]
fn each_may_do_what_the_file_says() {
    let world = World::new();
    let uid = "aa4e181e17374148a21b30d9dcb941f9";
    let [deploy, other] = ["deploy-1", "other"].map(|name| format!("/locks/{name}/{uid}"));
    let lock = lock_body(0, 0.001);
    // 404: it may, and there is nothing.
    for (who, method, path, body, expected) in [
        ("", "POST", "/locks/ci-1", &*lock, 201),
        ("", "POST", "/locks/deploy-1", &lock, 401),
        ("", "GET", &deploy, "", 401),
        ("", "GET", "/resources", "", 401),
        ("", "GET", "/events", "", 401),
        ("", "DELETE", "/resources/ci-1", "", 401),
        ("", "LOCK", "/locks/other", "{\"ID\":\"a\"}", 401),
        ("", "UNLOCK", "/locks/ci-1", "", 401),
        (DEPLOY, "POST", "/locks/deploy-1", &lock, 201),
        (DEPLOY, "POST", "/locks/ci-1", &lock, 403),
        (DEPLOY, "GET", &deploy, "", 404),
        (DEPLOY, "GET", &other, "", 403),
        (DEPLOY, "PATCH", &other, "{\"lifetime\":1}", 403),
        (DEPLOY, "DELETE", &other, "", 403),
        (DEPLOY, "DELETE", &deploy, "", 404),
        (DEPLOY, "GET", "/resources/deploy-1", "", 200),
        (DEPLOY, "GET", "/resources/other", "", 403),
        (DEPLOY, "DELETE", "/resources/deploy-1", "", 403),
        (DEPLOY, "DELETE", "/resources", "", 403),
        (DEPLOY, "UNLOCK", "/locks/deploy-1", "", 403),
        ("Bearer token", "POST", "/locks/deploy-1", &lock, 201),
        ("bearer token", "POST", "/locks/deploy-1", &lock, 401),
        (VIEWER, "GET", "/resources/other", "", 200),
        (VIEWER, "POST", "/locks/other", &lock, 403),
        (VIEWER, "DELETE", "/resources", "", 403),
        (OPS, "POST", "/locks/other", &lock, 201),
        (OPS, "GET", "/status", "", 200),
        (OPS, "DELETE", "/resources/none", "", 404),
        (OPS, "DELETE", "/resources", "", 204),
        ("robot:", "POST", "/locks/robot", &lock, 401),
        ("nobody:secret", "POST", "/locks/ci-1", &lock, 401),
        ("deploy:Secret", "POST", "/locks/ci-1", &lock, 401),
        ("Bearer Token", "POST", "/locks/ci-1", &lock, 401),
        ("Bearer ", "POST", "/locks/ci-1", &lock, 401),
    ] {
        let answer = world.ask(who, method, path, body);
        assert_eq!(answer.status, expected, "{who} {method} {path}: {}", answer.text());
        match expected {
            401 => assert!(answer.header("WWW-Authenticate").unwrap().starts_with("Basic realm=")),
            403 => assert!(answer.detail(403).contains("lacks the right"), "{}", answer.text()),
            _ => {}
        }
    }
    assert!(world.acquire(DEPLOY, "x").detail(403).contains("\"lock x\""));
}

#[test]
fn what_is_open_to_everybody() {
    let world = World::new();
    for (path, expected) in
        [("/health", 200), ("/openapi.json", 200), ("/", 200), ("/metrics", 401)]
    {
        assert_eq!(world.status("", "GET", path), expected, "{path}");
    }
    assert_eq!(world.status("no:body", "GET", "/health"), 200);
    assert_eq!(world.status(DEPLOY, "GET", "/metrics"), 403);
    assert_eq!(world.status(VIEWER, "GET", "/metrics"), 200);
    let open = World::with(USERS, &["--open-metrics"]);
    assert_eq!(open.status("", "GET", "/metrics"), 200);
    assert_eq!(open.status("", "GET", "/status"), 401);
}

#[test]
fn lists_show_what_one_may_see_and_no_uid_to_those_who_may_not_end_it() {
    let world = World::new();
    world.hold(DEPLOY, "deploy-1");
    world.hold(OPS, "other");
    for path in ["/resources", "/status", "/status?search=t", "/resources?limit=1"] {
        assert_eq!(names(&world.ask(DEPLOY, "GET", path, "")), ["deploy-1"], "{path}");
    }
    assert!(names(&world.ask(DEPLOY, "GET", "/status?search=other", "")).is_empty());
    let page = world.ask(DEPLOY, "GET", "/status?limit=1", "").json();
    assert_eq!(page["_links"], Value::Null, "nothing of a next page");
    assert_eq!(names(&world.ask(VIEWER, "GET", "/status", "")), ["deploy-1", "other"]);
    let lock = |who: &str| {
        world.ask(who, "GET", "/resources/deploy-1", "").json()["_embedded"]["locks"][0].clone()
    };
    assert_eq!(lock(OPS)["user"], "deploy");
    assert_eq!(lock(OPS)["client"], "127.0.0.1");
    assert!(lock(OPS)["uid"].is_string());
    for who in [VIEWER, DEPLOY] {
        assert_eq!((&lock(who)["uid"], &lock(who)["_links"]["self"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(names(&world.ask(OPS, "GET", "/status?search=DEPLOY", "")), ["deploy-1"]);
}

#[test]
fn events_are_those_that_one_may_see_until_the_rules_change() {
    let world = World::new();
    let follow = |who: &str| {
        let mut client = world.server.connect();
        let headers = format!("Host: h{}", credentials(who));
        client.send_with_headers("GET", "/events", &headers, "");
        assert_eq!(client.head().status, 200);
        assert!(client.try_chunk().unwrap().is_some());
        client
    };
    let (mut deploy, mut ops) = (follow(DEPLOY), follow(OPS));
    world.hold(OPS, "other");
    world.hold(DEPLOY, "deploy-1");
    let next =
        |client: &mut Client| String::from_utf8(client.try_chunk().unwrap().unwrap()).unwrap();
    let seen = next(&mut deploy);
    assert!(seen.contains("deploy-1") && !seen.contains("other"), "{seen}");
    assert!(!seen.contains("\"uid\"") && seen.contains("\"user\":\"deploy\""), "{seen}");
    let mut seen = next(&mut ops);
    while !seen.contains("deploy-1") {
        seen += &next(&mut ops);
    }
    assert_eq!(seen.matches("\"uid\"").count(), 2, "{seen}");
    fs::write(&world.file, USERS.replace("\"see deploy-*\"", "\"see none\"")).unwrap();
    wait_until("the rules have changed", || {
        world.status(DEPLOY, "GET", "/resources/deploy-1") == 403
    });
    world.hold(OPS, "deploy-2");
    assert!(deploy.try_chunk().unwrap().is_none(), "it has to ask again");
}

#[test]
fn a_user_has_a_share_of_the_subscribers_and_administrators_a_reserve() {
    let world = World::with(USERS, &["--max-subscribers", "8"]);
    let follow = |who: &str| {
        let mut client = world.server.connect();
        let headers = format!("Host: h{}", credentials(who));
        client.send_with_headers("GET", "/events", &headers, "");
        let status = client.head().status;
        (client, status)
    };
    // A quarter of them.
    let mut deploy: Vec<_> = (0..3).map(|_| follow(DEPLOY)).collect();
    assert_eq!([deploy[0].1, deploy[1].1, deploy[2].1], [200, 200, 503]);
    // It is the same user, however it says so.
    assert_eq!(follow("Bearer token").1, 503);
    let viewers: Vec<_> = (0..2).map(|_| follow(VIEWER)).collect();
    assert!(viewers.iter().all(|(_, status)| *status == 200));
    let ops: Vec<_> = (0..4).map(|_| follow(OPS)).collect();
    assert!(ops.iter().all(|(_, status)| *status == 200), "all that is left");
    assert_eq!(follow(OPS).1, 503);
    drop((deploy.remove(0), ops));
    wait_until("who leaves makes room", || follow(DEPLOY).1 == 200);
}

fn many_rights(count: usize) -> String {
    let rights: Vec<_> = (0..count).map(|n| format!("\"lock deploy-{n:04}\"")).collect();
    format!("[user.a]\nmay = [{}]\n", rights.join(", "))
}

#[test]
fn a_changed_file_is_used_and_mistakes_leave_the_old_rules() {
    let mut world = World::new();
    let mut changed = 0;
    let mut put = |file: &PathBuf, text: &str| {
        // By a rename, as editors and Kubernetes do.
        changed += 1;
        let next = file.with_extension(changed.to_string());
        fs::write(&next, text).unwrap();
        fs::rename(&next, file).unwrap();
    };
    for (text, line, says) in [
        ("[user.a", 1, ""),
        ("[user.a]\nmay = []\n[user.a]\nmay = []\n", 3, "duplicate key"),
        ("[user.a]\nmay = [\"write *\"]\n", 2, "expected a right"),
        (&many_rights(500), 2, "at most 6144 bytes"),
        ("[user.a]\nmay = [\n  \"see *\",\n  \"lock a*b\"]\n", 4, "expected a pattern"),
        ("[user.a]\nmay = [\"lock *a\"]\n", 2, "expected a pattern"),
        ("[user.a]\nmay = []\nrights = []\n", 3, "unknown field"),
        ("[user.a]\npassword = \"$1$x\"\nmay = []\n", 2, "bcrypt"),
        ("[user.a]\ntoken = \"secret\"\nmay = []\n", 2, "sha256:"),
        ("[user.a]\npassword = \"x\"\n", 1, "missing field"),
        ("[user.\"\"]\nmay = []\n", 1, "not empty"),
        ("[group.a]\nmay = []\n", 1, "unknown field"),
        ("a = \"\u{1b}\"\n", 1, ""),
    ] {
        put(&world.file, text);
        world.server.signal("-HUP");
        world.server.read_log_to(&format!("users.toml, line {line}, column "));
        assert_eq!(world.status(VIEWER, "GET", "/status"), 200, "{says}");
    }
    fs::remove_file(&world.file).unwrap();
    world.server.signal("-HUP");
    world.server.read_log_to("cannot read");
    assert_eq!(world.status(VIEWER, "GET", "/status"), 200);
    // A byte order mark is not part of the text. No signal is needed.
    put(&world.file, "\u{feff}[user.new]\npassword = \"new\"\nmay = [\"see *\"]\n");
    wait_until("it is taken anew", || world.status("new:new", "GET", "/status") == 200);
    assert_eq!(world.status(VIEWER, "GET", "/status"), 401, "who is gone is nobody");
    assert_eq!(world.acquire("", "ci-1").status, 401);
    // A symbolic link that is swapped, as Kubernetes does.
    let [one, two] = ["one", "two"].map(|name| world.file.with_extension(name));
    fs::write(&one, "[user.a]\npassword = \"1\"\nmay = [\"see *\"]\n").unwrap();
    fs::write(&two, "[user.a]\npassword = \"2\"\nmay = [\"see *\"]\n").unwrap();
    for (target, user) in [(&one, "a:1"), (&two, "a:2")] {
        let link = world.file.with_extension("link");
        symlink(target, &link).unwrap();
        fs::rename(&link, &world.file).unwrap();
        wait_until("it is taken anew", || world.status(user, "GET", "/status") == 200);
    }
    assert_eq!(world.status("a:1", "GET", "/status"), 401);
}

#[test]
fn a_mistake_at_the_start_is_an_error_in_a_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users.toml");
    let serve = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        command.args(["serve", "--port", "0", "--logging", "none"]).args(options);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (content, says) in [
        (
            &b"[user.a]\nmay = [\"see *\"]\n\n[user.a]\nmay = []\n"[..],
            "line 4, column 7: duplicate",
        ),
        (b"[user.a]\nmay = [\"admin x*y\"]\n", "line 2, column 8: expected a pattern"),
        (b"[user.a]\nmay = \xff", "line 2, column 7: it is not UTF-8"),
        (b"x", "line 1, column"),
        (&vec![b'#'; (1 << 20) + 1], "it is longer than 1048576 bytes"),
    ] {
        fs::write(&file, content).unwrap();
        let (code, line) = serve(&["--users", text(&file)]);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains(says) && line.lines().count() == 1, "{line}");
    }
    let (code, line) = serve(&["--users", "/nope"]);
    assert!(code == Some(1) && line.contains("cannot read /nope"), "{line}");
    let (code, line) = serve(&["--users", text(&file), "--admin-userpass-file", "yes"]);
    assert!(code == Some(2) && line.contains("do not go together"), "{line}");
}

#[test]
fn a_certificate_names_its_user() {
    let authority = Authority::new();
    let (issued, ca) = (authority.server("server"), authority.certificate());
    let tls = [&authority.options(&issued)[..], &["--tls-client-ca", text(&ca)]].concat();
    let mut world = World::with(USERS, &tls);
    let status = |world: &World, own: &Issued, authorization: &str| {
        let mut client = authority.connect(&world.server, Some(own));
        let headers = format!("Host: localhost{authorization}");
        client.send_with_headers("GET", "/metrics", &headers, "");
        client.response().status
    };
    let viewer = authority.client("viewer");
    let by_dns_name = authority.issue("dns", "ops", Some("DNS:viewer,DNS:deploy"), "2");
    let unknown = authority.client("mallory");
    assert_eq!(status(&world, &viewer, ""), 200);
    assert_eq!(status(&world, &by_dns_name, ""), 200);
    assert_eq!(status(&world, &authority.client("robot"), ""), 403);
    assert_eq!(status(&world, &unknown, ""), 401);
    let ops = BASE64_STANDARD.encode(OPS);
    assert_eq!(status(&world, &unknown, &format!("\r\nAuthorization: Basic {ops}")), 200);
    // The user is who holds the lock.
    let mut client = authority.connect(&world.server, Some(&authority.client("robot")));
    assert_eq!(client.request("POST", "/locks/robot", &lock_body(0, 60)).status, 201);
    let mut client = authority.connect(&world.server, Some(&viewer));
    let mut lister = authority.connect(&world.server, Some(&viewer));
    lister.send("GET /status HTTP/1.0\r\n\r\n");
    let list = lister.rest();
    assert!(list.contains("\"user\":\"robot\""), "{list}");
    assert_eq!(client.request("GET", "/metrics", "").status, 200);
    // Who leaves the file is refused, also on a connection that is there.
    fs::write(&world.file, USERS.replace("[user.viewer]", "[user.other]")).unwrap();
    world.server.signal("-HUP");
    world.server.read_log_to("taken anew");
    assert_eq!(status(&world, &viewer, ""), 401);
    assert_eq!(client.request("GET", "/metrics", "").status, 401);
}

#[test]
fn wrong_passwords_cost_the_same_for_every_name() {
    let hash = bcrypt::hash("secret", 5).unwrap();
    let world = World::with(
        &format!(
            "[user.known]\npassword = {hash:?}\nmay = []\n[user.plain]\npassword = \"p\"\nmay = []\n"
        ),
        &["--logging", "debug"],
    );
    let answer = |who: &str| world.ask(who, "GET", "/resources", "");
    let answers = ["known:x", "nobody:x", "plain:x"].map(answer);
    assert!(answers.iter().all(|answer| answer.status == 401));
    assert!(answers.iter().all(|answer| answer.text() == answers[0].text()), "{answers:?}");
    assert_eq!(answer("known:secret").status, 403, "known, and without a right");
    let log = world.server.into_log();
    assert_eq!(log.matches("in 32 rounds of bcrypt").count(), 4, "{log}");
}

#[test]
fn a_crowd_of_wrong_passwords_holds_up_no_other_client() {
    let hash = bcrypt::hash("secret", 8).unwrap();
    let world = World::with(
        &format!("[anonymous]\nmay = [\"lock *\"]\n[user.known]\npassword = {hash:?}\nmay = []\n"),
        &[],
    );
    let slowest = || {
        let mut client = world.server.connect();
        let mut times: Vec<_> = (0..100)
            .map(|_| {
                let began = Instant::now();
                let answer = ask(&mut client, "", "POST", "/locks/a", &lock_body(0, 0.0001));
                assert!(matches!(answer.status, 201 | 408));
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[98]
    };
    slowest();
    let mut crowd: Vec<_> = (0..100).map(|_| world.server.connect()).collect();
    for (n, client) in crowd.iter_mut().enumerate() {
        let headers = format!("Host: h{}", credentials(&format!("known:{n}")));
        client.send_with_headers("GET", "/resources", &headers, "");
    }
    assert!(slowest() < Duration::from_millis(500), "bounded, on a busy machine, too");
    for client in &mut crowd {
        assert!(matches!(client.response().status, 401 | 503));
    }
    // Two are computed at a time: no more threads than connections, and those two.
    assert!(world.server.status_field("Threads:") < 125);
}

#[test]
fn a_page_of_another_site_can_do_nothing_as_a_user() {
    let world = World::new();
    world.hold(OPS, "other");
    let own = credentials(OPS);
    let attempts = [
        // Rebinding: the name of the attacker leads here.
        ("DELETE", "Host: evil.example\r\nOrigin: http://evil.example", ""),
        ("POST", "Host: evil.example\r\nOrigin: http://evil.example", "{}"),
        // A page of another site, a form, and a fetch with no-cors.
        ("DELETE", "Host: localhost\r\nOrigin: http://evil.example", ""),
        ("POST", "Host: localhost\r\nOrigin: null\r\nContent-Type: text/plain", "a=b"),
        ("POST", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors", "x"),
    ];
    for (method, headers, body) in attempts {
        let path = if method == "DELETE" { "/resources" } else { "/locks/a" };
        let mut client = world.server.connect();
        client.send_with_headers(method, path, &format!("{headers}{own}"), body);
        assert_eq!(client.response().status, 403, "{method} {headers}");
    }
    let mut client = world.server.connect();
    let rebound = format!("Host: evil.example\r\nOrigin: http://evil.example{own}");
    client.send_with_headers("GET", "/status", &rebound, "");
    assert_eq!(client.response().status, 403, "nor see anything");
    assert_eq!(names(&world.ask(OPS, "GET", "/resources", "")), ["other"]);
}

#[test]
fn names_with_control_characters_are_escaped_everywhere() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("events");
    let world = World::with(USERS, &["--event-log", text(&log), "--logging", "debug"]);
    let eve = "e\u{1b}[2Jve\n<b>:eve";
    let lock = world.hold(eve, "foo");
    let listed = world.ask(OPS, "GET", "/status", "");
    assert!(!listed.text().contains('\u{1b}'));
    let user = &listed.json()["resources"][0]["locks"][0]["user"];
    assert_eq!(user, "e\u{1b}[2Jve\n<b>");
    assert!(world.acquire(eve, "a").status == 201 && world.status(eve, "GET", "/resources") == 403);
    assert_eq!(world.status(eve, "DELETE", &lock), 204);
    wait_until("it is written", || fs::read_to_string(&log).unwrap().contains("released"));
    let written = fs::read_to_string(&log).unwrap();
    for line in written.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["user"], "e\u{1b}[2Jve\n<b>");
    }
    let said = world.server.into_log();
    assert!(!said.contains('\u{1b}') && said.contains("\\u{1b}"), "{said}");
}

#[test]
fn users_of_locks_survive_a_crash() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let options = ["--data-dir", text(&data)];
    let world = World::with(USERS, &options);
    world.hold(OPS, "foo");
    world.server.signal("-KILL");
    drop(world);
    let world = World::with(USERS, &options);
    let status = world.ask(VIEWER, "GET", "/status", "").json();
    assert_eq!(status["resources"][0]["locks"][0]["user"], "ops");
}

#[test]
fn the_commands_say_who_they_are() {
    let world = World::new();
    let url = format!("http://localhost:{}", world.server.port());
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        for name in ["RDLM_USER", "RDLM_PASSWORD", "RDLM_TOKEN"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).env("RDLM_URL", &url).args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let deploy = [("RDLM_USER", "deploy"), ("RDLM_PASSWORD", "secret")];
    let token = [("RDLM_TOKEN", "token")];
    for who in [&deploy[..], &token] {
        let (code, lock, errors) = run(&["acquire", "deploy-1"], who);
        assert_eq!((code, &*errors), (0, ""));
        assert_eq!(run(&["renew", lock.trim()], who).0, 0);
        let (_, listed, _) = run(&["locks", "deploy-1"], who);
        assert!(listed.contains("deploy at 127.0.0.1"), "{listed}");
        assert_eq!(run(&["release", lock.trim()], who).0, 0);
        let (code, _, errors) = run(&["run", "other", "--", "true"], who);
        assert!(code == 77 && errors.contains("lacks the right"), "{code} {errors}");
    }
    let (code, _, errors) = run(&["acquire", "deploy-1"], &[]);
    assert!(code == 77 && errors.contains("RDLM_TOKEN"), "{code} {errors}");
    let (code, _, errors) = run(&["acquire", "deploy-1"], &[("RDLM_TOKEN", "wrong")]);
    assert!(code == 77 && errors.contains("not accepted") && !errors.contains("wrong"), "{errors}");
}

#[test]
fn hashes_are_printed_for_the_file() {
    let run = |command: &str, input: &str| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_rdlm"))
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, hash) = run("hash-password", "s3cret\n");
    assert_eq!(code, 0);
    assert!(bcrypt::verify("s3cret", hash.trim()).unwrap());
    let (_, token) = run("hash-token", "token\n");
    assert_eq!(
        token.trim(),
        "sha256:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"
    );
    assert_eq!(run("hash-token", "token").1, token, "with or without a line break");
    for empty in ["", "\n"] {
        assert_ne!(run("hash-password", empty).0, 0);
    }
    // bcrypt looks at 72 bytes.
    assert_ne!(run("hash-password", &"x".repeat(73)).0, 0);
}
