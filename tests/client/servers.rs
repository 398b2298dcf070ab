//! Servers that are away, wrong or half dead.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::fakes::{Fake, Then};
use super::{Running, complaint, free_port, output, printed, rdlm};
use crate::authority::Authority;
use crate::harness::{Server, wait_until};
use crate::needed;

fn field<'a>(request: &'a str, name: &str) -> &'a str {
    let mut lines = request.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

#[test]
fn no_server_is_code_69_after_a_few_tries() {
    let began = Instant::now();
    let lock = "/locks/a/0123456789abcdef0123456789abcdef";
    let tries = [&["run", "foo", "--", "true"][..], &["release", lock]].map(|args| {
        let mut command = rdlm(free_port(), args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for tried in tries {
        let line = complaint(&tried.wait_with_output().unwrap(), 69);
        assert!(line.contains("cannot reach") && line.contains("refused"), "{line}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_dropped_connection_is_not_noticed() {
    let server = Server::start();
    let script = vec![Then::Drop, Then::Drop, Then::Forward(server.port())];
    let fake = Fake::start(script.clone());
    let url = printed(&output(fake.port, &["acquire", "foo"]));
    let (first, second) = (fake.requests.recv().unwrap(), fake.requests.recv().unwrap());
    assert!(first.starts_with("POST /locks/foo HTTP/1.1\r\n"), "{first}");
    assert_eq!(field(&first, "idempotency-key"), field(&second, "idempotency-key"));
    assert_eq!(server.locks("foo").len(), 1);
    for (command, method) in [("renew", "PATCH"), ("get", "GET"), ("release", "DELETE")] {
        let fake = Fake::start(script.clone());
        let path = &url.trim_end()[url.find("/locks").unwrap()..];
        printed(&output(fake.port, &[command, path]));
        let first = fake.requests.recv().unwrap();
        assert!(first.starts_with(&format!("{method} /locks/foo/")), "{first}");
        let second = fake.requests.recv().unwrap();
        assert_eq!(field(&first, "idempotency-key"), field(&second, "idempotency-key"));
    }
    assert_eq!(server.locks("foo").len(), 0);
}

#[test]
fn a_release_whose_answer_was_lost_is_done() {
    let server = Server::start();
    // The first release gets through, its answer does not.
    let path = server.hold("foo");
    let fake = Fake::start(vec![Then::Drop, Then::Forward(server.port())]);
    server.delete(&path);
    assert_eq!(printed(&output(fake.port, &["release", &path])), "");
}

#[test]
fn a_waiting_request_survives_its_connection() {
    let server = Server::start();
    let held = server.hold("foo");
    // Like a proxy that waits for no more than a moment.
    let gateway = "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let script = vec![Then::Answer(gateway.into()), Then::Drop, Then::Forward(server.port())];
    let fake = Fake::start(script);
    let run = Running::start(&mut rdlm(fake.port, &["run", "--wait=60", "foo", "--", "true"]));
    wait_until("it waits", || server.locks("foo").len() == 2);
    let wait = server.locks("foo")[1]["wait"].as_f64().unwrap();
    assert!(wait < 60.0 && wait > 30.0, "{wait}");
    server.delete(&held);
    assert_eq!(run.end(), (Some(0), String::new()));
}

#[test]
fn a_server_that_restarts_during_the_wait_is_waited_for() {
    let mut server = Server::start();
    server.hold("foo");
    let port = server.port().to_string();
    let run = Running::start(&mut rdlm(server.port(), &["run", "foo", "--", "true"]));
    wait_until("it waits", || server.locks("foo").len() == 2);
    server.signal("-TERM");
    server.wait();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    let again = command.args(["serve", "--port", &port]).stderr(Stdio::null());
    let mut again = again.spawn().unwrap();
    let ended = run.end();
    again.kill().unwrap();
    again.wait().unwrap();
    assert_eq!(ended, (Some(0), String::new()));
}

#[test]
fn a_server_that_asks_to_come_back_later_is_asked_later() {
    let server = Server::start();
    let body = r#"{"type":"about:blank","title":"x","status":503,"detail":"too many requests"}"#;
    let later = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
         Server: gate/1 rdlm/1.0.0\r\n\
         Content-Type: Application/Problem+JSON; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let fake = Fake::start(vec![Then::Answer(later.clone()), Then::Forward(server.port())]);
    let began = Instant::now();
    printed(&output(fake.port, &["run", "foo", "--", "true"]));
    assert!(began.elapsed() >= Duration::from_secs(1));
    let fake = Fake::start(vec![Then::Answer(later)]);
    let line = complaint(&output(fake.port, &["run", "--wait", "0", "foo", "--", "true"]), 69);
    assert!(line.contains("too many requests"), "{line}");
}

#[test]
fn a_retry_after_that_is_too_long_does_not_break_the_client() {
    for seconds in ["86400", "18446744073709551615", "99999999999999999999999"] {
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {seconds}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let fake = Fake::start(vec![Then::Answer(answer)]);
        complaint(&output(fake.port, &["acquire", "--wait", "0", "foo"]), 69);
    }
}

#[test]
fn an_error_of_a_proxy_does_not_end_the_wait() {
    let server = Server::start();
    for status in ["408 Request Timeout", "500 Internal Server Error", "524 A Timeout Occurred"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let fake = Fake::start(vec![Then::Answer(answer), Then::Forward(server.port())]);
        printed(&output(fake.port, &["run", "--wait=60", "foo", "--", "true"]));
        let first = fake.requests.recv().unwrap();
        assert!(!field(&first, "idempotency-key").is_empty(), "{first}");
    }
}

#[test]
fn a_404_of_a_gateway_is_asked_again() {
    let server = Server::start();
    let body = r#"{"title":"x","status":404,"detail":"no route"}"#;
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let path = server.hold("foo");
    let script = vec![Then::Answer(answer.clone()), Then::Forward(server.port())];
    for command in ["renew", "release"] {
        printed(&output(Fake::start(script.clone()).port, &[command, &path]));
    }
    let only = Fake::start(vec![Then::Answer(answer)]);
    complaint(&output(only.port, &["release", &path]), 76);
}

#[test]
fn the_base_of_a_lock_may_have_locks_in_its_path() {
    let server = Server::start();
    let path = server.hold("locks");
    printed(&output(server.port(), &["renew", &path]));
    // The request goes below the whole base, where this server has nothing.
    let url = format!("http://127.0.0.1:{}/a/locks/b/locks/foo/{}", server.port(), "0".repeat(32));
    complaint(&output(server.port(), &["release", &url]), 76);
}

#[test]
fn a_port_that_cannot_be_is_a_usage_error_and_certificates_are_for_https() {
    let server = Server::start();
    for url in ["http://127.0.0.1:99999", "http://h:0", "http://h:x", "http://:80", "http://u@"] {
        complaint(&output(1, &["acquire", "--url", url, "foo"]), 64);
    }
    let mut command = rdlm(server.port(), &["resources"]);
    printed(&command.env("SSL_CERT_FILE", "/nope").output().unwrap());
    let mut https = rdlm(1, &["resources", "--url", "https://127.0.0.1:1"]);
    complaint(&https.env("SSL_CERT_FILE", "/nope").output().unwrap(), 64);
    complaint(&https.env("SSL_CERT_FILE", "").output().unwrap(), 69);
}

#[test]
fn what_is_no_rdlm_server_is_code_76() {
    let html = "<html>\u{1b}[2J</html>";
    let ok = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{html}",
        html.len()
    );
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n".to_string(),
        "\0\u{1}\u{2}garbage\r\n\r\n".to_string(),
        ok.clone(),
        ok.replace("200 OK", "404 Not Found"),
        ok.replace("200 OK", "201 Created"),
        ok.replace("200 OK", "201 Created\r\nLocation: http://h/locks/foo/..%2f"),
        ok.replace("200 OK", "301 Moved\r\nLocation: https://elsewhere/"),
    ] {
        let fake = Fake::start(vec![Then::Answer(answer.clone())]);
        for args in [&["acquire", "foo"][..], &["resources"]] {
            let line = complaint(&output(fake.port, args), 76);
            assert!(line.contains("rdlm"), "{line}");
            assert!(!line.contains('\x1b'));
        }
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let fake = Fake::start(vec![Then::Silence]);
    let one_try = rdlm(fake.port, &["acquire", "--wait", "0", "foo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    fake.requests.recv().unwrap();
    // A signal does not have to wait for that.
    let mut waiting = Running::start(&mut rdlm(fake.port, &["acquire", "foo"]));
    fake.requests.recv().unwrap();
    let began = Instant::now();
    waiting.signal("-INT");
    assert_eq!(waiting.wait(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    let output = one_try.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    // After five seconds it has said that it waits.
    let [_, line] = errors.lines().collect::<Vec<_>>()[..] else { panic!("{errors}") };
    assert!(line.contains("does not answer within 10 s"), "{errors}");
}

#[test]
fn https_is_spoken_and_certificates_are_checked() {
    if !needed::are_installed(&["openssl"]) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out"];
    let extensions = ["cert.pem", "-addext", "basicConstraints=critical,CA:FALSE"];
    let mut made = openssl(&[&new[..], &extensions, &subject].concat());
    assert!(made.wait().unwrap().success());
    let port = free_port();
    let accept = port.to_string();
    // It answers every request with a page of its own.
    let mut tls =
        openssl(&["s_server", "-www", "-cert", "cert.pem", "-key", "key.pem", "-accept", &accept]);
    let mut command = rdlm(1, &["resources", "--url", &format!("https://localhost:{port}")]);
    command.env_remove("SSL_CERT_FILE");
    let unknown = command.output().unwrap();
    let known = command.env("SSL_CERT_FILE", dir.path().join("cert.pem")).output().unwrap();
    let none = command.env("SSL_CERT_FILE", dir.path().join("key.pem")).output().unwrap();
    tls.kill().unwrap();
    tls.wait().unwrap();
    assert!(complaint(&unknown, 76).contains("certificate"));
    assert!(complaint(&known, 76).contains("not as rdlm does"));
    assert!(complaint(&none, 64).contains("there is no certificate in it"));
}

#[test]
fn a_certificate_that_cannot_be_used_is_an_error_in_a_line() {
    let authority = Authority::new();
    let [one, other] = ["one", "other"].map(|user| authority.client(user));
    let mut command = rdlm(1, &["resources", "--url", "https://localhost:1", "--cert"]);
    let output = command.arg(&one.certificate).arg("--key").arg(&other.key).output().unwrap();
    let complaint = complaint(&output, 64);
    assert!(complaint.contains("one.pem: it cannot be used with this key"), "{complaint}");
}

/// It is sent, to the server alone, and shown to nobody.
#[test]
fn a_password_in_the_url_is_not_printed() {
    let fake = Fake::start(vec![Then::Drop]);
    let url = |port: u16| format!("http://me:s3cret%21@127.0.0.1:{port}/base");
    let run = |url: &str, args: &[&str]| {
        let output = rdlm(1, args).env("RDLM_URL", url).output().unwrap();
        let both = [output.stdout.clone(), output.stderr.clone()].concat();
        let text = String::from_utf8(both).unwrap();
        assert!(!text.contains("s3cret"), "{args:?}: {text}");
        text
    };
    let text = run(&url(fake.port), &["run", "--wait", "0", "foo", "--", "true"]);
    assert!(text.contains("http://127.0.0.1:"), "{text}");
    let request = fake.requests.recv().unwrap();
    assert!(request.contains("uthorization: Basic bWU6czNjcmV0IQ=="), "{request}");

    let server = Server::start();
    let at_server = format!("http://me:s3cret@127.0.0.1:{}", server.port());
    let lock = run(&at_server, &["acquire", "foo"]);
    assert_eq!(lock.trim().split('/').nth(2), Some(&*format!("127.0.0.1:{}", server.port())));
    assert_eq!(run(&at_server, &["release", lock.trim()]), "");
    let printed = run(&at_server, &["run", "foo", "--", "sh", "-c", "echo $RDLM_LOCK_URL"]);
    assert!(printed.starts_with("http://127.0.0.1:"), "{printed}");
    for wrong in [
        "http://me:s3cret@",
        "http://me:s3cret@h:99999",
        "ftp://me:s3cret@h",
        "me:s3cret@h",
        "ftp:me:s3cret@h",
        "http:/me:s3cret@h",
        "me:s3cret://x@h",
        "http://h,me:s3cret@h",
        "http://me:s3cret@a@b",
    ] {
        run(wrong, &["resources"]);
        run("http://127.0.0.1:1", &["resources", "--url", wrong]);
        run("http://127.0.0.1:1", &["release", wrong]);
    }
}

/// Several servers: any of them will do.
#[test]
fn the_next_server_is_asked_when_one_is_not_there_or_not_the_one() {
    let server = Server::start();
    let there = format!("http://127.0.0.1:{}", server.port());
    let detail =
        r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"standby"}"#;
    let standby = Fake::start(vec![Then::Answer(problem(503, detail))]);
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nServer: rdlm/1.0.0\r\nLocation: {there}/locks/foo\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let other = Fake::start(vec![Then::Answer(redirect)]);
    for first in [free_port(), standby.port, other.port] {
        let urls = format!("http://127.0.0.1:{first},{there}");
        let mut acquire = rdlm(1, &["acquire", "foo"]);
        let url = printed(&acquire.env("RDLM_URL", &urls).output().unwrap());
        let uid = url.trim().rsplit('/').next().unwrap();
        assert_eq!(server.locks("foo")[0]["uid"], uid);
        assert_eq!(server.delete(&format!("/locks/foo/{uid}")).status, 204);
    }
    let nowhere = format!("http://127.0.0.1:{},http://127.0.0.1:{}", free_port(), free_port());
    complaint(&output(1, &["acquire", "--url", &nowhere, "foo"]), 69);
}

const GONE: &str =
    r#"{"type":"about:blank","title":"","status":404,"detail":"","reason":"no_such_lock"}"#;

fn problem(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} No\r\nServer: rdlm/1.0.0\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// It may have been granted the lock: the same key asks for the same one.
#[test]
fn an_unknown_outcome_is_asked_again_with_the_same_key_at_the_next_server() {
    let server = Server::start();
    let detail =
        r#"{"type":"about:blank","title":"","status":503,"detail":"?","outcome":"unknown"}"#;
    let unknown = Fake::start(vec![Then::Answer(problem(503, detail))]);
    let dropped = Fake::start(vec![Then::Drop]);
    let tells = Fake::start(vec![Then::Answer(problem(503, detail)), Then::Forward(server.port())]);
    for first in [&unknown, &dropped] {
        let urls = format!("http://127.0.0.1:{},http://127.0.0.1:{}", first.port, tells.port);
        let mut run = rdlm(1, &["run", "foo", "--", "echo", "ran"]);
        assert_eq!(printed(&run.env("RDLM_URL", &urls).output().unwrap()), "ran\n");
        let key = |request: &str| field(request, "idempotency-key").to_string();
        let first = key(&first.requests.recv().unwrap());
        if let Ok(second) = tells.requests.try_recv() {
            assert_eq!(key(&second), first);
        }
    }
}

/// The server behind a gateway is changed for a moment: its 404 is not that of the lock.
#[test]
fn a_404_of_something_else_does_not_end_a_wait_or_a_command() {
    let server = Server::start();
    let held = server.hold("foo");
    let backend = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n\
                   Connection: close\r\n\r\ndefault backend - 404";
    let gateway = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no route"}"#;
    let gateway = problem(404, gateway).replace("Server: rdlm/1.0.0", "Server: gateway");
    let forward = || Then::Forward(server.port());
    let script = vec![
        forward(),
        Then::Answer(backend.into()),
        Then::Answer(gateway.clone()),
        Then::Answer(gateway),
        forward(),
    ];
    let fake = Fake::start(script);
    // The wait, and then the first renewals.
    let mut run = rdlm(fake.port, &["run", "--lifetime", "1.5", "foo", "--", "sleep", "1"]);
    let mut run = Running::start(&mut run);
    wait_until("it waits", || server.locks("foo").len() == 2);
    assert_eq!(server.delete(&held).status, 204);
    assert_eq!(run.wait(), Some(0));
}

#[test]
fn a_base_that_is_not_that_of_the_api_is_no_lost_lock() {
    let server = Server::start();
    let url = format!("http://127.0.0.1:{}/base", server.port());
    let path = format!("{url}/locks/foo/{}", "0".repeat(32));
    for args in [&["renew", &path][..], &["release", &path], &["acquire", "foo", "--url", &url]] {
        let line = complaint(&output(1, args), 76);
        assert!(line.contains("knows no such path"), "{line}");
    }
}

/// A proxy has answered in place of the server, which had released it.
#[test]
fn a_release_whose_answer_a_proxy_replaced_is_done() {
    let server = Server::start();
    let bad = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let fake = Fake::start(vec![Then::Answer(bad.into()), Then::Answer(problem(404, GONE))]);
    let path = server.hold("foo");
    assert_eq!(printed(&output(fake.port, &["release", &path])), "");
}

#[test]
fn a_release_that_another_server_has_done_is_done() {
    let server = Server::start();
    let late = "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let first = Fake::start(vec![Then::Answer(late.into())]);
    let second = Fake::start(vec![Then::Answer(problem(404, GONE))]);
    let urls = [first, second].map(|fake| format!("http://127.0.0.1:{}", fake.port)).join(",");
    let path = server.hold("foo");
    assert_eq!(printed(&output(1, &["release", "--url", &urls, &path])), "");
}

#[test]
fn a_request_that_did_not_come_in_whole_is_sent_again() {
    let server = Server::start();
    let slow = r#"{"type":"about:blank","title":"","status":408,"detail":"too slow"}"#;
    let fake = Fake::start(vec![Then::Answer(problem(408, slow)), Then::Forward(server.port())]);
    printed(&output(fake.port, &["acquire", "foo"]));
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn health_is_0_or_69() {
    let server = Server::start();
    assert_eq!(printed(&output(server.port(), &["health"])), "");
    complaint(&output(free_port(), &["health"]), 69);
    let ill = Fake::start(vec![Then::Answer(problem(503, r#"{"detail":"the disk is full"}"#))]);
    assert!(complaint(&output(ill.port, &["health"]), 69).contains("the disk is full"));
}
