//! Acquiring, looking at and releasing locks.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{PATIENCE, Server, lock_body, wait_until};

const SOMEBODYS_UID: &str = "aa4e181e17374148a21b30d9dcb941f9";

#[test]
fn a_free_lock_is_granted_at_once() {
    let server = Server::start();
    let response = server.acquire("foo", 5.0, 300.0);
    assert_eq!(response.status, 201);
    assert_eq!(response.header("Content-Type"), Some("application/hal+json"));
    let path = response.lock_path();
    let uid = path.strip_prefix("/locks/foo/").unwrap();
    assert_eq!(uid.len(), 32);
    assert!(uid.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{uid}");

    let lock = server.get(&path);
    assert_eq!(lock.status, 200);
    assert_eq!(lock.header("Content-Type"), Some("application/hal+json"));
    assert_eq!(lock.text(), response.text(), "the 201 shows the lock as GET does");
}

#[test]
fn a_lock_looks_as_rdlm_s_clients_expect_it() {
    let server = Server::start();
    let path = server.acquire("foo", 5.0, 300.0).lock_path();
    let lock = server.get(&path).json();
    let uid = path.strip_prefix("/locks/foo/").unwrap();
    assert_eq!(lock["uid"], uid);
    assert_eq!(lock["title"], "a test");
    assert_eq!(lock["active"], true);
    assert_eq!(lock["_links"]["self"]["href"], path.as_str());
    assert_eq!(lock["_links"]["resource"]["href"], "/resources/foo");
    let text = server.get(&path).text().to_string();
    assert!(text.contains(r#""lifetime":300,"wait":5,"#), "whole numbers have no fraction: {text}");

    let (since, expires) = (time(&lock["active_since"]), time(&lock["active_expires"]));
    assert_eq!(expires.duration_since(since).unwrap(), Duration::from_secs(300));
    assert!(lock.get("wait_since").is_none());
}

#[test]
fn every_grant_has_a_larger_fencing_token() {
    let server = Server::start();
    let mut last = 0;
    for resource in ["a", "b", "a", "a", "b"] {
        let response = server.acquire(resource, 0.0, 300.0);
        let token = response.json()["fencing_token"].as_u64().unwrap();
        assert_eq!(response.header("RDLM-Fencing-Token"), Some(&*token.to_string()));
        assert!(last < token && token < 1 << 53, "{last}, {token}");
        last = token;
        assert_eq!(server.get(&response.lock_path()).json()["fencing_token"], token);
        assert_eq!(server.delete(&response.lock_path()).status, 204);
    }
}

#[test]
fn a_waiting_request_is_shown_in_the_list_of_its_resource() {
    let server = Server::start();
    let held = server.hold("foo");
    let _waiter = server.join_line("foo");
    let locks = server.locks("foo");
    assert_eq!(locks.len(), 2);
    assert_eq!(locks[0]["_links"]["self"]["href"], held.as_str());
    let waiting = &locks[1];
    assert_eq!(waiting["active"], false);
    assert!(waiting.get("active_since").is_none());
    assert!(waiting.get("fencing_token").is_none());
    let (since, expires) = (time(&waiting["wait_since"]), time(&waiting["wait_expires"]));
    assert_eq!(expires.duration_since(since).unwrap(), Duration::from_secs(600));

    assert_eq!(waiting["position"], 1);
    let _next = server.join_line("foo");
    assert_eq!(server.locks("foo")[2]["position"], 2);
    assert!(locks[0].get("position").is_none());
    assert_eq!([&locks[0]["client"], &waiting["client"]], ["127.0.0.1", "127.0.0.1"]);

    // Place and client are what administrators see.
    let path = waiting["_links"]["self"]["href"].as_str().unwrap();
    let mut shown_alone = waiting.clone();
    shown_alone.as_object_mut().unwrap().retain(|key, _| key != "position" && key != "client");
    assert_eq!(server.get(path).json(), shown_alone);
}

/// An RFC 3339 time in UTC with microseconds.
fn time(value: &serde_json::Value) -> std::time::SystemTime {
    let text = value.as_str().unwrap();
    assert_eq!(text.len(), "2026-11-23T04:43:38.265849Z".len(), "{text}");
    humantime::parse_rfc3339(text).unwrap()
}

#[test]
fn a_held_lock_is_not_granted_again_and_408_comes_at_the_end_of_the_wait() {
    let server = Server::start();
    server.hold("foo");
    assert!(server.acquire("foo", 0.0, 60.0).detail(408).contains("not granted"));
    let began = Instant::now();
    server.acquire("foo", 0.2, 60.0).detail(408);
    assert!(began.elapsed() >= Duration::from_millis(200), "after {:?}", began.elapsed());
    assert_eq!(server.locks("foo").len(), 1, "nothing is left of the requests");
}

#[test]
fn a_released_lock_goes_to_the_first_in_line() {
    let server = Server::start();
    let mut held = server.hold("foo");
    let waiters: Vec<_> = (0..5).map(|_| server.join_line("foo")).collect();
    for mut waiter in waiters {
        assert_eq!(server.delete(&held).status, 204);
        held = waiter.response().lock_path();
        let locks = server.locks("foo");
        assert_eq!(locks[0]["_links"]["self"]["href"], held.as_str());
    }
    assert_eq!(server.delete(&held).status, 204);
    assert!(server.locks("foo").is_empty());
}

#[test]
fn resources_do_not_disturb_each_other() {
    let server = Server::start();
    server.hold("foo");
    server.hold("Foo");
    server.hold("foo2");
    server.acquire("foo", 0.0, 60.0).detail(408);
}

#[test]
fn a_released_lock_is_gone() {
    let server = Server::start();
    let path = server.hold("foo");
    let released = server.delete(&path);
    assert_eq!((released.status, released.text()), (204, ""));
    server.get(&path).detail(404);
    server.delete(&path).detail(404);
    server.hold("foo");
}

#[test]
fn a_lock_is_only_found_under_its_own_resource_and_uid() {
    let server = Server::start();
    let path = server.hold("foo");
    let uid = path.strip_prefix("/locks/foo/").unwrap();
    for other in [
        format!("/locks/bar/{uid}"),
        format!("/locks/foo/{SOMEBODYS_UID}"),
        format!("/locks/foo/{}", uid.to_uppercase()),
        format!("/locks/foo/{}", &uid[1..]),
        format!("/locks/foo/{uid}0"),
        "/locks/foo/".to_string(),
        format!("/locks/foo/{}-{}", &uid[..8], &uid[8..]),
    ] {
        server.get(&other).detail(404);
        server.delete(&other).detail(404);
    }
    assert_eq!(server.get(&path).status, 200);
}

#[test]
fn deleting_a_waiting_request_answers_its_client_409() {
    let server = Server::start();
    let held = server.hold("foo");
    let mut waiter = server.join_line("foo");
    let path = server.locks("foo")[1]["_links"]["self"]["href"].as_str().unwrap().to_string();
    assert_eq!(server.delete(&path).status, 204);
    assert!(waiter.response().detail(409).contains("deleted"));
    assert_eq!(server.get(&held).status, 200, "the holder is not concerned");
}

#[test]
fn a_lock_expires_at_its_lifetime_never_early() {
    let server = Server::start();
    let began = Instant::now();
    let path = server.acquire("foo", 0.0, 0.3).lock_path();
    let next = server.acquire("foo", PATIENCE.as_secs_f64(), 60.0);
    assert!(began.elapsed() >= Duration::from_millis(300), "after {:?}", began.elapsed());
    assert_eq!(next.status, 201);
    server.get(&path).detail(404);
    server.delete(&path).detail(404);
    assert_eq!(server.get(&next.lock_path()).status, 200);
}

#[test]
fn an_expired_lock_leaves_no_resource() {
    let server = Server::start();
    let path = server.acquire("foo", 0.0, 0.05).lock_path();
    wait_until("it expires", || server.get(&path).status == 404);
    assert_eq!(server.get("/resources").json()["_embedded"]["resources"], serde_json::json!([]));
    server.delete("/resources/foo").detail(404);
}

#[test]
fn numbers_come_back_as_they_were_meant() {
    let server = Server::start();
    for (resource, body, lifetime, wait) in [
        ("a", lock_body(0.25, 1.5), "1.5", "0.25"),
        ("b", lock_body(r#""5""#, r#""300""#), "300", "5"),
        ("c", lock_body("5.0", "3e2"), "300", "5"),
        ("d", lock_body(r#""0.5""#, r#"" 60 ""#), "60", "0.5"),
        ("e", lock_body("1000000000", "1e9"), "1000000000", "1000000000"),
        ("f", lock_body("-0", "1"), "1", "0"),
    ] {
        let granted = server.request("POST", &format!("/locks/{resource}"), &body);
        assert_eq!(granted.status, 201, "{body}: {}", granted.text());
        let expected = format!(r#""lifetime":{lifetime},"wait":{wait},"#);
        assert!(granted.text().contains(&expected), "{body}: {}", granted.text());
    }
}

#[test]
fn titles_and_unknown_fields_may_be_anything() {
    let server = Server::start();
    let longest = "x".repeat(1024);
    for (resource, title) in [
        ("a", ""),
        ("b", "<script>\"\\"),
        ("c", "Mañana 日本 😀"),
        ("d", "\u{0}\n"),
        ("e", &longest),
    ] {
        let title = serde_json::to_string(title).unwrap();
        let body =
            format!(r#"{{"owner":[1,{{}}],"title":{title},"wait":0,"lifetime":60,"z":null}}"#);
        let granted = server.request("POST", &format!("/locks/{resource}"), &body);
        assert_eq!(granted.status, 201, "{}", granted.text());
        assert_eq!(serde_json::to_string(&granted.json()["title"]).unwrap(), title);
    }
}

#[test]
fn names_may_have_all_that_the_contract_says() {
    let server = Server::start();
    let longest = "n".repeat(255);
    for name in ["a", "Az09._:~@-", "host:eth0", "node@rack-1", ".", &longest] {
        let path = server.hold(name);
        assert!(path.starts_with(&format!("/locks/{name}/")), "{path}");
        assert_eq!(server.delete(&path).status, 204);
    }
    let path = server.hold("%66o%6F");
    assert!(path.starts_with("/locks/foo/"), "percent-encoding is undone: {path}");
    assert_eq!(server.get(&path.replace("foo", "f%6fo")).status, 200);
}

#[test]
fn the_location_names_the_host_of_the_request() {
    let server = Server::start();
    let body = lock_body(0, 60);
    let len = body.len();
    for (version, fields, location) in [
        ("1.1", "Host: locks.example:1234\r\n", "http://locks.example:1234/locks/"),
        ("1.0", "Host:\r\n", "/locks/"),
        ("1.0", "", "/locks/"),
    ] {
        let mut client = server.connect();
        let resource = format!("r{}", fields.len());
        client.send(format!(
            "POST /locks/{resource} HTTP/{version}\r\n{fields}Content-Length: {len}\r\n\r\n{body}"
        ));
        let response = client.response();
        assert!(response.header("Location").unwrap().starts_with(location), "{response:?}");
    }
}

#[test]
fn base_url_replaces_the_host_and_precedes_all_paths() {
    for (base_url, prefix) in
        [("https://locks.example.com/a/rdlm/", "/a/rdlm"), ("https://locks.example.com", "")]
    {
        let server = Server::start_with(&["--base-url", base_url]);
        let granted = server.acquire("foo", 0.0, 60.0);
        let location = granted.header("Location").unwrap();
        let path = location.strip_prefix("https://locks.example.com").unwrap();
        assert!(path.starts_with(&format!("{prefix}/locks/foo/")), "{location}");
        assert_eq!(server.acquire("goo", 0.0, 60.0).status, 201);
        let own = path.strip_prefix(prefix).unwrap();
        let in_list = server.get("/resources/foo").json();
        let renewed = server.request("PATCH", own, r#"{"lifetime":60}"#);
        for lock in [
            &granted.json(),
            &server.get(own).json(),
            &renewed.json(),
            &in_list["_embedded"]["locks"][0],
            &server.get("/status").json()["resources"][0]["locks"][0],
        ] {
            assert_eq!(lock["_links"]["self"]["href"], path);
            assert_eq!(lock["_links"]["resource"]["href"], format!("{prefix}/resources/foo"));
        }
        assert_eq!(in_list["_links"]["self"]["href"], format!("{prefix}/resources/foo"));
        let resources = server.get("/resources?limit=1").json();
        assert_eq!(resources["_links"]["self"]["href"], format!("{prefix}/resources"));
        for (list, target) in [("/resources", "resources"), ("/status", "status")] {
            let next = server.get(&format!("{list}?limit=1")).json()["_links"]["next"].clone();
            let href = next["href"].as_str().unwrap();
            assert!(href.starts_with(&format!("{prefix}/{target}?")), "{href}");
        }
        let first = &resources["_embedded"]["resources"][0];
        assert_eq!(first["_links"]["self"]["href"], format!("{prefix}/resources/foo"));
    }
}

#[test]
fn the_limits_of_wait_and_lifetime_can_be_lowered() {
    let server = Server::start_with(&["--max-wait", "10", "--max-lifetime", "0.5"]);
    let detail = server.acquire("foo", 10.5, 0.5).detail(400);
    assert!(detail.contains("wait") && detail.contains("10"), "{detail}");
    let detail = server.acquire("foo", 10.0, 0.6).detail(400);
    assert!(detail.contains("lifetime") && detail.contains("0.5"), "{detail}");
    let lock = server.acquire("foo", 10.0, 0.5).lock_path();
    let terraform = r#"{"ID":"1"}"#;
    for (method, target, body) in [
        ("POST", "/locks/foo", r#"{"title":"t","wait":11,"lifetime":0.5}"#),
        ("POST", "/locks/foo", r#"{"title":"t","wait":0}"#),
        ("PATCH", &*lock, r#"{"lifetime":1}"#),
        ("PATCH", &*lock, r#"{"mode":"PR","wait":11}"#),
        ("LOCK", "/locks/bar?wait=11", terraform),
        ("LOCK", "/locks/bar?lifetime=1", terraform),
    ] {
        let refused = server.request(method, target, body).json();
        let limits = [&refused["max_wait"], &refused["max_lifetime"]];
        assert_eq!(limits, [&json!(10), &json!(0.5)], "{method} {target} {body}");
    }
    let other = server.request("POST", "/locks/foo", r#"{"wait":0,"lifetime":1}"#).json();
    assert_eq!(other.get("max_wait"), None, "the title is refused");
}

#[test]
fn requests_beyond_max_waiters_get_503() {
    let server = Server::start_with(&["--max-waiters", "2"]);
    let held = server.hold("foo");
    let mut first = server.join_line("foo");
    let _second = server.join_line("foo");
    let mut client = server.connect();
    let refused = client.acquire("foo", 5.0, 60.0);
    refused.detail(503);
    assert!(client.is_closed(), "its connection is left to a release");
    assert!(refused.header("Retry-After").unwrap().parse::<u32>().is_ok());
    server.acquire("foo", 0.0, 60.0).detail(408);
    server.hold("bar");
    assert_eq!(server.delete(&held).status, 204);
    first.response().lock_path();
    server.join_line("foo");
}

#[test]
fn a_grant_that_cannot_be_delivered_is_released() {
    let server = Server::start();
    let held = server.hold("foo");
    let gone = server.join_line("foo");
    gone.reset();
    assert_eq!(server.delete(&held).status, 204);
    let next = server.acquire("foo", PATIENCE.as_secs_f64(), 60.0);
    assert_eq!(next.status, 201);
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn a_release_gets_through_when_as_many_wait_as_may() {
    let server = Server::start_with(&["--max-connections", "4"]);
    let mut holder = server.connect();
    let held = holder.acquire("foo", 0.0, 600.0).lock_path();
    drop(holder);
    let mut waiters: Vec<_> = (0..3).map(|_| server.join_line("foo")).collect();
    server.acquire("foo", 5.0, 60.0).detail(503);
    assert_eq!(server.delete(&held).status, 204);
    waiters[0].response().lock_path();
}

#[test]
fn a_renewed_lock_lives_on_under_the_same_url_and_token() {
    let server = Server::start();
    let granted = server.acquire("foo", 0.0, 2.0);
    let path = granted.lock_path();
    let renewed = server.request("PATCH", &path, r#"{"lifetime":600}"#);
    assert_eq!(renewed.status, 200);
    let (before, after) = (granted.json(), renewed.json());
    assert_eq!(after["lifetime"], 600);
    assert!(time(&after["active_expires"]) > time(&before["active_expires"]));
    for field in ["uid", "title", "wait", "active_since", "fencing_token"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(server.get(&path).json(), after);
    assert_eq!(server.acquire("foo", 2.5, 1.0).status, 408, "held beyond its first lifetime");

    // A renewal may shorten, too.
    assert_eq!(server.request("PATCH", &path, r#"{"lifetime":"0.05"}"#).status, 200);
    assert_eq!(server.acquire("foo", 60.0, 600.0).status, 201);
    assert!(server.request("PATCH", &path, r#"{"lifetime":600}"#).detail(404).contains("no such"));
}

#[test]
fn a_renewal_that_is_wrong_changes_nothing() {
    let server = Server::start();
    let path = server.hold("foo");
    let before = server.get(&path).json();
    for body in ["", "{}", r#"{"lifetime":0}"#, r#"{"lifetime":-1}"#, r#"{"lifetime":"x"}"#, "[5]"]
    {
        let detail = server.request("PATCH", &path, body).detail(400);
        assert!(detail.contains("lifetime"), "{detail}");
    }
    assert_eq!(server.get(&path).json(), before);
    let _waiter = server.join_line("foo");
    let waiting = server.locks("foo")[1]["_links"]["self"]["href"].as_str().unwrap().to_string();
    let detail = server.request("PATCH", &waiting, r#"{"lifetime":5}"#).detail(409);
    assert!(detail.contains("still waits"), "{detail}");
}

#[test]
fn as_many_locks_are_held_as_max_locks_allows() {
    let server = Server::start_with(&["--max-locks", "3"]);
    let first = server.hold("a");
    server.hold("b");
    let shared = r#""mode":"PR","wait":0,"lifetime":60"#;
    server.acquire_with("c", shared).lock_path();
    for refused in [server.acquire("d", 0.0, 60.0), server.acquire_with("c", shared)] {
        assert!(refused.detail(503).contains("--max-locks"), "{}", refused.text());
        assert!(refused.header("Retry-After").unwrap().parse::<u32>().is_ok());
    }
    assert!(server.locks("d").is_empty() && server.locks("c").len() == 1);
    // A waiting client gets the lock of another one, not an additional lock.
    let mut waiter = server.join_line("a");
    assert_eq!(server.delete(&first).status, 204);
    let next = waiter.response().lock_path();
    server.acquire("d", 0.0, 60.0).detail(503);
    assert_eq!(server.delete(&next).status, 204);
    assert_eq!(server.acquire("d", 0.0, 60.0).status, 201);
    server.acquire("e", 0.0, 60.0).detail(503);
}

/// Many HTTP clients send a request again by themselves after a 408.
#[test]
fn who_prefers_409_gets_it_in_place_of_408() {
    let server = Server::start();
    server.hold("foo");
    let ask = |headers: &str, wait: f64| {
        let mut client = server.connect();
        let headers = format!("Host: localhost{headers}");
        client.send_with_headers("POST", "/locks/foo", &headers, &lock_body(wait, 60));
        client.response()
    };
    for preferred in
        ["status=409", "status=\"409\"", "wait=5, Status = 409;x", "a\r\nPrefer: status=409"]
    {
        let answer = ask(&format!("\r\nPrefer: {preferred}"), 0.01);
        assert!(answer.detail(409).contains("not granted within the wait"), "{preferred}");
        assert_eq!(answer.header("Preference-Applied"), Some("status=409"));
    }
    for other in ["", "\r\nPrefer: status=4090", "\r\nPrefer: status=503", "\r\nPrefer: 409"] {
        let answer = ask(other, 0.01);
        assert!(answer.detail(408).contains("not granted within the wait"), "{other}");
        assert_eq!(answer.header("Preference-Applied"), None);
        assert_eq!(answer.header("Connection"), Some("keep-alive"), "the connection goes on");
    }
}
