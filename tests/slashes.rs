//! Names of resources with a slash, which is `%2F` in a path and `/` everywhere else.

use tempfile::TempDir;

use crate::harness::{Server, lock_body};

const PATH: &str = "/locks/org%2Fproj%2Fprod";
const NAME: &str = "org/proj/prod";

#[test]
fn a_slash_is_escaped_in_paths_and_shown_everywhere_else() {
    let dir = TempDir::new().unwrap();
    let options = ["--data-dir", dir.path().to_str().unwrap()];
    let mut server = Server::start_with(&options);
    let granted = server.request("POST", PATH, &lock_body(0, 600));
    let lock = granted.lock_path();
    assert_eq!(lock.rsplit_once('/').unwrap().0, PATH);
    server.signal("-KILL");
    server.wait();
    let server = Server::start_with(&options);
    let shown = server.get(&lock).json();
    assert_eq!(shown["_links"]["self"]["href"], lock);
    for list in ["/resources", "/resources?after=org%2Fproj", "/status?search=proj/"] {
        let list = server.get(list).json();
        let resource = list["_embedded"]["resources"].get(0).unwrap_or(&list["resources"][0]);
        assert_eq!(resource["name"], NAME, "{list}");
    }
    assert_eq!(server.get("/resources/org%2Fproj%2Fprod").json()["name"], NAME);
    assert_eq!(server.delete(&lock).status, 204);
    let past = "/events?latest=9&follow=no&prefix=org/&resource=org%2Fproj%2Fprod";
    let mut client = server.connect();
    client.send_request("GET", past, "");
    client.head();
    let event = client.try_chunk().unwrap().unwrap();
    let event = String::from_utf8_lossy(&event);
    assert!(event.contains("\"resource\":\"org/proj/prod\""), "{event}");
}

#[test]
fn a_slash_that_a_proxy_has_decoded_is_named_in_the_404() {
    let server = Server::start();
    for path in ["/locks/org/proj", "/locks/org/proj/prod", "/resources/org/proj"] {
        for method in ["GET", "POST", "DELETE"] {
            let detail = server.request(method, path, "").detail(404);
            assert!(
                detail.contains("%2F") && detail.contains("proxy"),
                "{method} {path}: {detail}"
            );
        }
    }
    assert!(
        server.get("/resources").json()["_embedded"]["resources"].as_array().unwrap().is_empty()
    );
}

#[test]
fn terraform_names_a_resource_by_the_rest_of_the_path() {
    let server = Server::start();
    let state = r#"{"ID":"f6f01f3a-6d1c-4f1e-8f39-0c8a8a2f3d11","Who":"me"}"#;
    assert_eq!(server.request("LOCK", "/locks/org/proj/prod", state).status, 200);
    assert_eq!(server.request("LOCK", PATH, state).status, 200, "the same one");
    assert_eq!(server.request("UNLOCK", "/locks/org/proj%2Fprod", state).status, 200);
    assert!(server.locks("org%2Fproj%2Fprod").is_empty());
    server.request("LOCK", "/locks/org//prod", state).detail(400);
}
