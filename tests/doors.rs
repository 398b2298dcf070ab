//! Clients that know another protocol.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Response, Server, wait_until};

/// Each of `headers` is a line with its end.
fn ask(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let mut client = server.connect();
    client.send_with_headers(method, path, &format!("{headers}Host: h"), body);
    client.response()
}

/// What Terraform 1.15 sends.
fn info(id: &str) -> String {
    json!({
        "ID": id, "Operation": "OperationTypeApply", "Info": "", "Who": "alice@ci", "Version": "1.15.5",
        "Created": "2026-11-25T03:00:00.123456789Z", "Path": ""
    })
    .to_string()
}

fn lock(server: &Server, id: &str, query: &str) -> Response {
    ask(server, "LOCK", &format!("/locks/infra:prod{query}"), "", &info(id))
}

fn unlock(server: &Server, body: &str) -> Response {
    ask(server, "UNLOCK", "/locks/infra:prod", "", body)
}

const ID: &str = "f6f01f3a-6d1c-4f1e-8f39-0c8a8a2f3d11";
const OTHER: &str = "0b6a1f77-54c6-4c8b-9d4f-2f3b7a3f5e22";

#[test]
fn terraform_locks_by_its_id_as_often_as_it_likes() {
    let server = Server::start();
    let locked = lock(&server, ID, "");
    let token = locked.header("RDLM-Fencing-Token").unwrap().to_string();
    assert_eq!((locked.status, locked.json()["ID"].as_str()), (200, Some(ID)));
    // A 5xx of a proxy makes it ask again.
    let again = lock(&server, ID, "");
    assert_eq!((again.status, again.header("RDLM-Fencing-Token")), (200, Some(&*token)));
    let held = server.locks("infra:prod");
    assert_eq!(held.len(), 1);
    assert_eq!(held[0]["title"], "alice@ci: OperationTypeApply");
    assert!(held[0]["lifetime"].is_null() && held[0]["active_expires"].is_null(), "{held:?}");
    assert_eq!(unlock(&server, &info(ID)).status, 200);
    // As when the answer was lost.
    assert_eq!(unlock(&server, &info(ID)).status, 200);
    assert_eq!(server.locks("infra:prod").len(), 0);
}

#[test]
fn terraform_is_told_who_has_the_lock_but_not_how_to_release_it() {
    let server = Server::start();
    lock(&server, ID, "");
    for response in [lock(&server, OTHER, ""), unlock(&server, &info(OTHER))] {
        let holder = response.json();
        assert!([423, 409].contains(&response.status));
        assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
        assert_eq!((holder["ID"].as_str(), holder["Who"].as_str()), (Some(ID), Some("alice@ci")));
        assert_eq!(holder["Operation"], "OperationTypeApply");
        let members = ["ID", "Operation", "Info", "Who", "Version", "Created", "Path"];
        assert!(members.iter().all(|name| holder[name].is_string()), "{holder}");
    }
    // An ID that is read in a list is no key for the lock's URL.
    let stolen = ask(
        &server,
        "POST",
        "/locks/infra:prod",
        &format!("Idempotency-Key: {ID}\r\n"),
        r#"{"title":"x","wait":0,"lifetime":1}"#,
    );
    assert_eq!(stolen.status, 408);
    let header = format!("Idempotency-Key: {ID}\r\n");
    assert_eq!(ask(&server, "DELETE", "/locks/infra:prod", &header, "").status, 404);
    assert_eq!(unlock(&server, &info(ID)).status, 200);
    let path = server.hold("infra:prod");
    let holder = lock(&server, ID, "").json();
    let (uid, shown) = (path.rsplit('/').next().unwrap(), holder.to_string());
    assert!(!shown.contains(uid), "{shown}");
    assert!(holder["ID"].as_str().unwrap().starts_with("rdlm-"), "{shown}");
}

#[test]
fn terraform_waits_and_expires_where_it_is_told_to() {
    let server = Server::start();
    let path = server.hold("infra:prod");
    let (waited, deleted) = std::thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server, ID, "?wait=60&lifetime=3600"));
        wait_until("it waits", || server.locks("infra:prod").len() == 2);
        server.delete(&path);
        let waited = waits.join().unwrap();
        let waits = scope.spawn(|| lock(&server, OTHER, "?wait=60"));
        wait_until("it waits", || server.locks("infra:prod").len() == 2);
        let links = server.locks("infra:prod")[1]["_links"].clone();
        server.delete(links["self"]["href"].as_str().unwrap());
        (waited, waits.join().unwrap())
    });
    assert_eq!(waited.status, 200);
    assert_eq!(server.locks("infra:prod")[0]["lifetime"], 3600);
    // Without an ID, the client does not try again.
    assert_eq!((deleted.status, deleted.json()["ID"].clone()), (409, Value::Null));
    for (query, field) in [("?wait=x", "wait"), ("?lifetime=0", "lifetime"), ("?wait=-1", "wait")] {
        assert!(lock(&server, ID, query).detail(400).starts_with(field), "{query}");
    }
    for (body, expected) in [
        ("", "not valid"),
        ("[]", "not an object"),
        ("{}", "ID is missing"),
        (r#"{"ID":1}"#, "ID is not a string"),
        (r#"{"ID":""}"#, "ID is not 1"),
        (r#"{"ID":"a b"}"#, "ID is not 1"),
        (r#"{"ID":"a","Who":1}"#, "Who is not"),
    ] {
        let detail = ask(&server, "LOCK", "/locks/a", "", body).detail(400);
        assert!(detail.contains(expected), "{body}: {detail}");
    }
    let bounded = Server::start_with(&["--max-lifetime", "60"]);
    assert_eq!(lock(&bounded, ID, "").status, 200);
    assert_eq!(bounded.locks("infra:prod")[0]["lifetime"], 60);
}

#[test]
fn force_unlock_is_for_administrators() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, "carol:secret\n").unwrap();
    let server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    let administrator = "Authorization: Basic Y2Fyb2w6c2VjcmV0\r\n";
    let force = |headers: &str, body: &str| {
        ask(&server, "UNLOCK", "/locks/infra:prod", headers, body).status
    };
    assert_eq!(force(administrator, ""), 404);
    assert_eq!(lock(&server, ID, "").status, 200);
    assert_eq!(force("", ""), 401);
    assert_eq!(force(administrator, ""), 200);
    let path = server.acquire("infra:prod", 0.0, 600.0).lock_path();
    // The title is for those who may see lists.
    let refused = lock(&server, ID, "").json();
    assert_eq!(refused["Who"], "another client");
    let shown = json!({ "ID": refused["ID"] }).to_string();
    assert_eq!(force("", &shown), 401);
    assert_eq!(force(administrator, r#"{"ID":"rdlm-1"}"#), 404);
    assert_eq!(force(administrator, &shown), 200);
    assert_eq!(server.get(&path).status, 404);
    let closed = Server::start_with(&["--admin-userpass-file", "no"]);
    assert_eq!(lock(&closed, ID, "").status, 200);
    assert_eq!(unlock(&closed, "").status, 403);
    assert_eq!(unlock(&closed, &info(ID)).status, 200);
}

#[test]
fn a_lock_without_an_end_survives_a_crash_and_ends_by_its_key() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let options = ["--data-dir", data.to_str().unwrap()];
    let mut server = Server::start_with(&options);
    assert_eq!(lock(&server, ID, "").status, 200);
    server.signal("-KILL");
    server.wait();
    let server = Server::start_with(&options);
    assert!(server.locks("infra:prod")[0]["active_expires"].is_null());
    assert_eq!(lock(&server, OTHER, "").status, 423);
    assert_eq!(lock(&server, ID, "").status, 200);
    assert_eq!(unlock(&server, &info(ID)).status, 200);
    assert_eq!(lock(&server, OTHER, "").status, 200);
}

#[test]
fn a_key_releases_what_it_has() {
    let server = Server::start();
    let release = |key: &str| ask(&server, "DELETE", "/locks/foo", key, "");
    assert!(release("").detail(400).contains("Idempotency-Key"));
    assert_eq!(release("Idempotency-Key: k\r\n").status, 404);
    let body = r#"{"title":"t","wait":0,"lifetime":60}"#;
    let held = ask(&server, "POST", "/locks/foo", "Idempotency-Key: k\r\n", body);
    assert_eq!(held.status, 201);
    let mut waiting = server.join_line_with_key("foo", "later");
    assert_eq!(release("Idempotency-Key: other\r\n").status, 404);
    assert_eq!(release("Idempotency-Key: later\r\n").status, 204);
    assert_eq!(waiting.response().status, 409);
    assert_eq!(release("Idempotency-Key: k\r\n").status, 204);
    assert_eq!(server.locks("foo").len(), 0);
    let allow = ask(&server, "OPTIONS", "/locks/foo", "", "");
    assert_eq!(allow.header("Allow"), Some("POST, DELETE, LOCK, UNLOCK, OPTIONS"));
}

/// What Zincati sends.
fn fleet(server: &Server, what: &str, id: &str, group: &str) -> (u16, Value) {
    let body = json!({ "client_params": { "id": id, "group": group } }).to_string();
    let headers = "fleet-lock-protocol: true\r\n";
    let response = ask(server, "POST", &format!("/v1/{what}"), headers, &body);
    (response.status, response.json())
}

#[test]
fn as_many_nodes_of_a_group_reboot_as_it_has_slots() {
    let server = Server::start_with(&["--fleetlock", "1,workers=2"]);
    let reboot = |id, group| fleet(&server, "pre-reboot", id, group).0;
    assert_eq!(
        [reboot("a", "workers"), reboot("b", "workers"), reboot("c", "workers")],
        [200, 200, 423]
    );
    assert_eq!([reboot("a", "default"), reboot("b", "default")], [200, 423]);
    // It asks again until it is answered.
    assert_eq!(reboot("a", "workers"), 200);
    let (_, taken) = fleet(&server, "pre-reboot", "c", "workers");
    assert_eq!(taken["kind"], "all_slots_taken");
    let value = taken["value"].as_str().unwrap();
    assert!(value.contains("reboot of a since 2") && value.contains("reboot of b"), "{value}");
    let (status, steady) = fleet(&server, "steady-state", "b", "workers");
    assert_eq!((status, &steady["kind"]), (200, &json!("success")));
    // On every boot.
    assert_eq!(fleet(&server, "steady-state", "b", "workers").0, 200);
    assert_eq!(reboot("c", "workers"), 200);
}

#[test]
fn another_number_of_slots_counts_at_once() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let start =
        |slots| Server::start_with(&["--fleetlock", slots, "--data-dir", data.to_str().unwrap()]);
    let stop = |mut server: Server| {
        server.signal("-KILL");
        server.wait();
    };
    let reboot = |server: &Server, id| fleet(server, "pre-reboot", id, "g").0;
    let server = start("1");
    assert_eq!([reboot(&server, "a"), reboot(&server, "b")], [200, 423]);
    stop(server);
    let server = start("3");
    assert_eq!([reboot(&server, "b"), reboot(&server, "c"), reboot(&server, "d")], [200, 200, 423]);
    stop(server);
    let server = start("2");
    assert_eq!([reboot(&server, "a"), reboot(&server, "d")], [200, 423]);
    for id in ["a", "b"] {
        assert_eq!(fleet(&server, "steady-state", id, "g").0, 200);
    }
    assert_eq!([reboot(&server, "d"), reboot(&server, "e")], [200, 423]);
}

#[test]
fn an_error_of_fleetlock_has_its_form() {
    let server = Server::start_with(&["--fleetlock", "1"]);
    let header = "fleet-lock-protocol: true\r\n";
    let good = r#"{"client_params":{"id":"a","group":"g"}}"#;
    for (method, headers, body, status, kind) in [
        ("POST", "", good, 400, "missing_header"),
        ("POST", "fleet-lock-protocol: yes\r\n", good, 400, "missing_header"),
        ("POST", header, "", 400, "bad_request"),
        ("POST", header, "{}", 400, "bad_request"),
        ("POST", header, r#"{"client_params":{"id":"a b","group":"g"}}"#, 400, "bad_request"),
        ("POST", header, r#"{"client_params":{"id":"a","group":"g/h"}}"#, 400, "bad_request"),
        ("POST", header, r#"{"client_params":{"id":"a","group":""}}"#, 400, "bad_request"),
        ("GET", header, "", 405, "method_not_allowed"),
    ] {
        let response = ask(&server, method, "/v1/pre-reboot", headers, body);
        let answer = response.json();
        assert_eq!((response.status, answer["kind"].as_str()), (status, Some(kind)), "{body}");
        assert!(!answer["value"].as_str().unwrap().is_empty());
        assert_eq!(response.header("Allow"), (status == 405).then_some("POST, OPTIONS"));
    }
    let without = Server::start();
    let response = ask(&without, "POST", "/v1/pre-reboot", header, good);
    assert!(response.detail(404).contains("nothing here"));
}

#[test]
fn never_do_more_nodes_reboot_than_there_are_slots_whatever_is_killed() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let start = || Server::start_with(&["--fleetlock", "2", "--data-dir", data.to_str().unwrap()]);
    let mut server = start();
    let mut random = fastrand::Rng::with_seed(7);
    let mut rebooting = std::collections::BTreeSet::new();
    for step in 0..400 {
        let node = random.u8(0..6);
        let id = format!("node-{node}");
        match random.u8(0..20) {
            0 => {
                server.signal("-KILL");
                server.wait();
                server = start();
            }
            1..=10 => {
                let may = rebooting.contains(&node) || rebooting.len() < 2;
                let (status, answer) = fleet(&server, "pre-reboot", &id, "g");
                assert_eq!(status == 200, may, "step {step}: {answer}");
                if may {
                    rebooting.insert(node);
                }
            }
            _ => {
                assert_eq!(fleet(&server, "steady-state", &id, "g").0, 200, "step {step}");
                rebooting.remove(&node);
            }
        }
        assert_eq!(server.locks("reboot:g").len(), rebooting.len(), "step {step}");
    }
}
