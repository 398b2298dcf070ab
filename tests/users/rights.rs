//! What each may do and see.

use std::fs;

use serde_json::Value;

use super::{DEPLOY, OPS, USERS, VIEWER, World, credentials, names};
use crate::harness::{Client, lock_body, wait_until};

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
