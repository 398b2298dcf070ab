//! The commands for scripts and for administrators.

use std::fs;
use std::io::pipe;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::fakes::{Fake, Then};
use super::{Running, complaint, free_port, output, printed, rdlm};
use crate::harness::{Server, wait_until};

#[test]
fn acquire_prints_the_url_which_the_others_take() {
    let server = Server::start();
    let acquired = printed(&output(server.port(), &["acquire", "--lifetime", "600", "foo"]));
    let url = acquired.strip_suffix('\n').unwrap();
    let path = url.strip_prefix(&format!("http://127.0.0.1:{}", server.port())).unwrap();
    assert!(path.starts_with("/locks/foo/") && path.len() == 11 + 32);
    let title = server.get(path).json()["title"].as_str().unwrap().to_string();
    assert!(title.starts_with("alice@") && !title.contains(':'), "{title}");

    complaint(&output(server.port(), &["acquire", "--wait", "0", "foo"]), 75);
    assert_eq!(printed(&output(server.port(), &["renew", "--lifetime", "7", url])), "");
    let lock: Value =
        serde_json::from_str(&printed(&output(server.port(), &["get", "--json", url]))).unwrap();
    assert_eq!(lock["lifetime"], 7);
    let text = printed(&output(server.port(), &["get", url]));
    assert!(text.contains("\nlifetime ") && text.contains("\ntitle "), "{text}");
    // The URL names the server, whatever the environment says; a path is on that server.
    printed(rdlm(1, &["renew", url]).output().as_ref().unwrap());
    assert_eq!(printed(&output(server.port(), &["release", path])), "");
    assert_eq!(server.locks("foo").len(), 0);
    for command in ["release", "renew", "get"] {
        assert!(complaint(&output(server.port(), &[command, url]), 74).contains("is not held"));
    }
}

#[test]
fn renew_converts_a_lock_to_another_mode() {
    let server = Server::start();
    let acquired = ["acquire", "--mode", "PR", "--lifetime", "600", "foo"];
    let [url, other] = [(), ()].map(|()| printed(&output(server.port(), &acquired)));
    let [url, other] = [&url, &other].map(|url| url.trim_end());
    let convert =
        |options: &[&str]| output(server.port(), &[&["renew", url, "--mode"], options].concat());
    let lock = || {
        let lock = printed(&output(server.port(), &["get", "--json", url]));
        serde_json::from_str::<Value>(&lock).unwrap()
    };
    let before = lock();
    complaint(&convert(&["EX"]), 75);
    complaint(&convert(&["EX", "--wait", "0.1"]), 75);
    assert_eq!(lock(), before, "it is held as before");
    assert_eq!(printed(&convert(&["shared"])), "");
    assert_eq!(printed(&output(server.port(), &["release", other])), "");
    assert_eq!(printed(&convert(&["EX"])), "");
    let converted = lock();
    assert_eq!(converted["mode"], "EX");
    assert_eq!(converted["active_expires"], before["active_expires"]);
    assert_eq!(printed(&convert(&["CR", "--lifetime", "7"])), "");
    assert_eq!((&lock()["mode"], &lock()["lifetime"]), (&"CR".into(), &7.into()));
}

#[test]
fn a_lock_that_nobody_can_be_told_of_is_released() {
    let server = Server::start();
    let mut command = rdlm(server.port(), &["acquire", "foo"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert!(complaint(&output, 1).contains("cannot write the output"));
    assert_eq!(server.locks("foo").len(), 0);
    // Closed, or open for reading only.
    for (redirection, said) in [(">&-", "it is closed"), ("1</dev/null", "")] {
        let script = format!("exec \"$RDLM\" acquire foo {redirection}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).env("RDLM", env!("CARGO_BIN_EXE_rdlm"));
        shell.env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()));
        let line = complaint(&shell.output().unwrap(), 1);
        assert!(line.contains("cannot write the output") && line.contains(said), "{line}");
        assert_eq!(server.locks("foo").len(), 0, "{redirection}");
    }
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = rdlm(server.port(), &["acquire", "foo"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    complaint(&output, 1);
    assert_eq!(server.locks("foo").len(), 0);
    // This is said on purpose.
    let null = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let mut command = rdlm(server.port(), &["acquire", "foo"]);
    assert!(command.stdout(null).status().unwrap().success());
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let server = Server::start();
    let path = server.hold("foo");
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [
        &["get", &path][..],
        &["get", "--json", &path],
        &["resources"],
        &["locks", "--json", "foo"],
        &["events"],
        &["watch"],
        &["completions", "bash"],
        &["man"],
        &["run", "--help"],
    ] {
        let mut command = rdlm(server.port(), args);
        let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        assert!(complaint(&output, 1).contains("cannot write the output"), "{args:?}");
    }
}

/// A lock's URL may name another server than RDLM_URL does.
#[test]
fn an_error_names_the_server_that_was_asked() {
    let server = Server::start_with(&["--admin-userpass-file", "no"]);
    let uid = "0".repeat(32);
    let there = format!("127.0.0.1:{}", super::free_port());
    let url = format!("http://me:s3cret@{there}/locks/foo/{uid}");
    for args in [&["release", &url][..], &["renew", &url], &["get", &url]] {
        let line = complaint(&output(server.port(), args), 69);
        assert!(line.contains(&format!("cannot reach http://{there}")), "{line}");
        assert!(!line.contains("s3cret"), "{line}");
    }
}

#[test]
fn a_line_feed_behind_a_secret_is_not_part_of_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    fs::write(&file, "alice:s3:cret\n").unwrap();
    let server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    let with = |variables: &[(&str, &str)]| {
        let mut command = rdlm(server.port(), &["resources"]);
        command.envs(variables.iter().copied()).output().unwrap()
    };
    printed(&with(&[("RDLM_USER", "alice\n"), ("RDLM_PASSWORD", "s3:cret\r\n")]));
    let url = format!(" http://alice:s3%3Acret@127.0.0.1:{}\n", server.port());
    printed(&with(&[("RDLM_URL", &url)]));
    let line = complaint(&with(&[("RDLM_TOKEN", "s3cret\n")]), 77);
    assert!(line.contains("the token in RDLM_TOKEN is not accepted"), "{line}");
    for (variables, named) in [
        (&[("RDLM_TOKEN", "s3cret s3cret")][..], "RDLM_TOKEN"),
        (&[("RDLM_TOKEN", "s3cret\nmore")], "RDLM_TOKEN"),
        (&[("RDLM_USER", "a:s3cret"), ("RDLM_PASSWORD", "x")], "RDLM_USER"),
        (&[("RDLM_USER", "a"), ("RDLM_PASSWORD", "s3cret\nmore")], "RDLM_PASSWORD"),
        (&[("RDLM_URL", "http://alice:s3cret@a http://b")], "RDLM_URL"),
    ] {
        let line = complaint(&with(variables), 64);
        assert!(line.contains(named) && !line.contains("s3cret"), "{line}");
    }
}

#[test]
fn lists_are_tables_for_people_and_json_for_programs() {
    let server = Server::start();
    assert_eq!(printed(&output(server.port(), &["resources"])).lines().count(), 1);
    server.hold("bar");
    let title = "evil \\u001b[2J\\u202e title";
    let body = format!(r#"{{"title":"{title}","wait":0,"lifetime":600,"limit":2}}"#);
    server.request("POST", "/locks/foo", &body);
    server.request("POST", "/locks/foo", &body);
    let _waiter = {
        let mut client = server.connect();
        client.send_request("POST", "/locks/foo", &body.replace(":0,", ":600,"));
        wait_until("it waits", || server.locks("foo").len() == 3);
        client
    };
    let text = printed(&output(server.port(), &["resources"]));
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("RESOURCE  HOLDER") && lines[0].ends_with("WAITING"), "{text}");
    assert!(lines[1].starts_with("bar       a test") && lines[1].ends_with(" 0"), "{text}");
    assert!(lines[2].contains(r"evil \u{1b}[2J\u{202e} title and 1 more  EX of 2  127.0.0.1"));
    assert!(lines[2].ends_with(" 1"), "{text}");

    let text = printed(&output(server.port(), &["locks", "foo"]));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[1].starts_with(r"foo       held     evil \u{1b}[2J"), "{text}");
    assert!(lines[3].starts_with("foo       waits 1  evil"), "{text}");
    assert!(!text.contains('\x1b'));

    let json = printed(&output(server.port(), &["resources", "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["resources"], server.get("/status").json()["resources"]);
    let json = printed(&output(server.port(), &["locks", "--json", "foo"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["_embedded"]["locks"].as_array().unwrap().len(), 3);
}

#[test]
fn delete_takes_a_name_or_all() {
    let server = Server::start();
    server.hold("foo");
    server.hold("bar");
    server.hold("baz");
    printed(&output(server.port(), &["delete", "foo"]));
    assert!(complaint(&output(server.port(), &["delete", "foo"]), 74).contains("foo has no locks"));
    assert_eq!(server.locks("bar").len(), 1);
    let line = complaint(&output(server.port(), &["delete", "--all"]), 64);
    assert!(line.contains("no terminal to ask on: give --yes"), "{line}");
    assert_eq!(server.locks("bar").len(), 1);
    complaint(&output(server.port(), &["delete", "--all", "--yes", "foo"]), 64);
    let deleted = printed(&output(server.port(), &["delete", "--all", "--yes"]));
    let deleted: Vec<_> = deleted.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(deleted, ["RESOURCE", "bar", "baz"]);
    assert_eq!(server.locks("bar").len() + server.locks("baz").len(), 0);
}

#[test]
fn a_deletion_has_a_reason() {
    let done = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    let fake = Fake::start(vec![Then::Answer(done.into())]);
    printed(&output(fake.port, &["delete", "--reason", "it hung & burnt", "foo"]));
    let request = fake.requests.recv().unwrap();
    let expected = "DELETE /resources/foo?reason=it%20hung%20%26%20burnt HTTP/1.1";
    assert!(request.starts_with(expected), "{request}");
}

#[test]
fn a_request_whose_outcome_is_unknown_is_found_by_its_key() {
    let fake = Fake::start(vec![Then::Drop]);
    let line = complaint(&output(fake.port, &["acquire", "--wait", "0", "foo"]), 69);
    let key = line.split("the same command with --idempotency-key ").nth(1);
    let key = key.and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(fake.requests.recv().unwrap().to_lowercase().contains(key), "{line}");
    let server = Server::start();
    let args = ["acquire", "--wait", "0", "--idempotency-key", key, "foo"];
    let lock = printed(&output(server.port(), &args));
    assert_eq!(printed(&output(server.port(), &args)), lock, "it is the same lock");
    complaint(&output(server.port(), &["acquire", "--idempotency-key", "a b", "foo"]), 64);
    // Where nothing arrived, or the answer says what happened, there is nothing to find.
    for (port, code) in [(free_port(), 69), (server.port(), 75)] {
        let line = complaint(&output(port, &["acquire", "--wait", "0", "foo"]), code);
        assert!(!line.contains("--idempotency-key"), "{line}");
    }
}

#[test]
fn a_resource_without_locks_is_said_to_be_nobodys() {
    let server = Server::start();
    let text = printed(&output(server.port(), &["locks", "nope"]));
    assert_eq!(text, "nobody holds or waits for nope\n");
}

#[test]
fn administrators_are_asked_for() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    fs::write(&file, "alice:s3:cret\n").unwrap();
    let server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    for args in [
        &["resources"][..],
        &["locks", "foo"],
        &["delete", "--all", "--yes"],
        &["watch"],
        &["events"],
    ] {
        let line = complaint(&output(server.port(), args), 77);
        assert!(line.contains("set RDLM_USER and RDLM_PASSWORD"), "{line}");
    }
    let mut command = rdlm(server.port(), &["resources"]);
    command.env("RDLM_USER", "alice").env("RDLM_PASSWORD", "s3:cret");
    assert!(printed(&command.output().unwrap()).starts_with("RESOURCE"));
    let line = complaint(&command.env("RDLM_PASSWORD", "wrong").output().unwrap(), 77);
    assert!(line.contains("not accepted"), "{line}");

    let nobody = Server::start_with(&["--admin-userpass-file", "no"]);
    complaint(&output(nobody.port(), &["delete", "foo"]), 77);
}

#[test]
fn watch_prints_what_changes_and_goes_on_without_a_server() {
    let mut server = Server::start();
    let mut watch = Running::start(&mut rdlm(server.port(), &["watch"]));
    assert!(watch.line().starts_with("RESOURCE"));
    server.hold("foo");
    assert!(watch.line().starts_with("RESOURCE"));
    assert!(watch.line().starts_with("foo       held   a test"));
    server.signal("-KILL");
    server.wait();
    assert!(watch.line().starts_with("the server does not answer: cannot reach"));
    watch.signal("-INT");
    assert_eq!(watch.end(), (Some(0), String::new()));
}

#[test]
fn events_prints_what_has_happened_and_what_happens() {
    let server = Server::start();
    let lock = server.hold("foo");
    server.delete(&lock);
    server.hold("bar");
    let mut events = Running::start(&mut rdlm(server.port(), &["events", "foo"]));
    let granted = events.line();
    assert!(
        granted.contains("Z  granted      foo  a test (127.0.0.1), waited for 0s"),
        "{granted}"
    );
    assert!(events.line().contains("Z  released     foo  a test (127.0.0.1), held for "));
    let lock = server.hold("foo");
    assert!(events.line().contains("  granted      foo  "));
    let mut json = Running::start(&mut rdlm(server.port(), &["events", "--json"]));
    let line: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!((&line["event"], &line["resource"]), (&"granted".into(), &"foo".into()));
    assert!(line["id"].is_u64());
    server.delete(&lock);
    assert!(events.line().contains("  released     foo  "));
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let server = Server::start();
    server.hold("foo");
    for args in [&["resources"][..], &["watch", "foo"]] {
        let mut process = rdlm(server.port(), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(process.stdout.take());
        let output = process.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    }
}

#[test]
fn a_wrong_command_line_is_code_64() {
    for (args, expected) in [
        (&["run", "foo"][..], "the command to run is missing"),
        (&["run", "foo", "--"], "the command to run is missing"),
        (&["run", "--", "true"], "RESOURCE is missing"),
        (&["run", "foo", "echo", "x"], "as in rdlm run foo -- echo x"),
        (&["run", "--wiat", "5", "foo", "--", "true"], "unexpected argument \"--wiat\""),
        (&["run", "--wait", "soon", "foo", "--", "true"], "--wait \"soon\": expected a number"),
        (&["run", "--lifetime", "0", "foo", "--", "true"], "expected a number of seconds over 0"),
        (&["run", "--mode", "XX", "foo", "--", "true"], "expected one of NL, CR, CW, PR, PW, EX"),
        (&["run", "--limit", "0", "foo", "--", "true"], "expected a whole number from 1"),
        (&["run", "--limit=2", "--mode=PR", "foo", "--", "true"], "goes with the mode EX alone"),
        (&["run", "--url", "ftp://x", "foo", "--", "true"], "expected a URL such as"),
        (&["acquire"], "RESOURCE is missing"),
        (&["acquire", "foo", "--", "true"], "takes no command behind --"),
        (&["renew"], "URL is missing"),
        (&["renew", "--wait", "5", "/locks/foo/0"], "--wait goes with --mode"),
        (&["renew", "--mode", "XX", "/locks/foo/0"], "expected one of NL, CR, CW, PR, PW, EX"),
        (&["release", "foo"], "expected the URL of a lock"),
        (&["get", "http://h/locks/foo/12"], "expected the URL of a lock"),
        (&["delete"], "RESOURCE or --all is missing"),
        (&["watch", "foo", "bar"], "unexpected argument \"bar\""),
        (&["resources", "foo"], "unexpected argument \"foo\""),
    ] {
        let line = complaint(&output(1, args), 64);
        assert!(line.contains(expected), "{args:?}: {line}");
    }
    let mut command = rdlm(1, &["resources"]);
    assert!(
        complaint(&command.env("RDLM_URL", "nonsense").output().unwrap(), 64).contains("RDLM_URL")
    );
    let server = Server::start();
    // Nor is the value of an option, whatever it looks like.
    for title in ["-h", "--help", "--version", "-V", "--"] {
        let option = format!("--title={title}");
        let script = "echo ran";
        for options in [&["--title", title][..], &[&option]] {
            if options == ["--title", "--"] {
                continue;
            }
            let args = [&["run"], options, &["foo", "--", "sh", "-c", script]].concat();
            assert_eq!(printed(&output(server.port(), &args)), "ran\n", "{args:?}");
        }
    }
    for wait in ["0", "250ms", "5m", "1h30m", "1.5"] {
        let args = ["run", "--wait", wait, "--lifetime=2m", "foo", "--", "true"];
        assert_eq!(printed(&output(server.port(), &args)), "");
    }
    let help = printed(&output(1, &["help", "run"]));
    assert!(help.contains("--kill-after"), "{help}");
    assert_eq!(help, printed(&output(1, &["run", "--help"])));
    // What is behind -- is not ours.
    let help = output(server.port(), &["run", "foo", "--", "echo", "--help", "--version"]);
    assert_eq!(printed(&help), "--help --version\n");
}

#[test]
fn what_the_server_refuses_is_told_in_its_words() {
    let server = Server::start();
    let line = complaint(&output(server.port(), &["acquire", "--wait", "0", "a b/c"]), 64);
    assert!(line.contains("name"), "{line}");
}

#[test]
fn a_waiting_request_is_shown_with_its_place() {
    let server = Server::start();
    server.hold("foo");
    let _first = server.join_line("foo");
    let mut second = server.connect();
    second.send_acquire("foo", 1e9, 60.0);
    wait_until("it waits", || server.locks("foo").len() == 3);
    let path = format!("/locks/foo/{}", server.locks("foo")[2]["uid"].as_str().unwrap());
    let text = printed(&output(server.port(), &["get", &path]));
    let row = |field: &str| {
        let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line[field.len().min(line.len())..].trim().to_string()
    };
    assert_eq!(row("resource  "), "foo", "{text}");
    assert_eq!(
        (row("position"), row("wait_expires"), row("client")),
        ("2".into(), "–".into(), "127.0.0.1".into()),
        "{text}"
    );
    assert!(row("resource is").starts_with("held by a test for "), "{text}");
    let json = printed(&output(server.port(), &["get", "--json", &path]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["wait_expires"], Value::Null);
    let table = printed(&output(server.port(), &["locks", "foo"]));
    assert!(table.lines().nth(3).unwrap().ends_with("–"), "{table}");
}
