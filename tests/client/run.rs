//! `rdlm run`: what the command gets, and what becomes of its end.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::fakes::{Fake, Then};
use super::{Running, complaint, output, printed, rdlm, run_script, shell_code};
use crate::harness::{Server, wait_until};

#[test]
fn the_command_gets_its_streams_and_the_lock_in_its_environment() {
    let server = Server::start();
    let script = "cat; echo $RDLM_RESOURCE $RDLM_FENCING_TOKEN $RDLM_LOCK_URL; echo oops >&2";
    let mut process = rdlm(server.port(), &["run", "a:b@c", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(b"in\n").unwrap();
    wait_until("it has the lock", || !server.locks("a:b@c").is_empty());
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stderr, b"oops\n");
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words[..2], ["in", "a:b@c"]);
    let token: u64 = words[2].parse().unwrap();
    assert!(token > 1_000_000);
    let url = format!("http://127.0.0.1:{}/locks/a:b@c/", server.port());
    assert_eq!(words[3].strip_prefix(&url).map(str::len), Some(32), "{}", words[3]);
    assert_eq!(server.locks("a:b@c").len(), 0);
}

#[test]
fn its_end_is_that_of_run() {
    let server = Server::start();
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill $$", 143)] {
        let output = output(server.port(), &["run", "foo", "--", "sh", "-c", script]);
        assert_eq!(shell_code(output.status), Some(code), "{output:?}");
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0), "{output:?}");
        assert_eq!(server.locks("foo").len(), 0);
    }
    let missing = output(server.port(), &["run", "foo", "--", "no-such-command"]);
    assert!(complaint(&missing, 127).contains("cannot run \"no-such-command\""));
    let not_executable = output(server.port(), &["run", "foo", "--", "/etc/passwd"]);
    assert!(complaint(&not_executable, 126).contains("cannot run \"/etc/passwd\""));
    assert_eq!(server.locks("foo").len(), 0);
}

#[test]
fn it_renews_as_long_as_the_command_runs() {
    let server = Server::start();
    let mut run = run_script(&server, &["--lifetime", "0.9"], "echo $RDLM_LOCK_URL; sleep 2");
    let url = run.line();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert!(url.ends_with(server.locks("foo")[0]["uid"].as_str().unwrap()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(run.end(), (Some(0), String::new()));
    assert!(began.elapsed() > Duration::from_millis(1900));
    assert_eq!(server.locks("foo").len(), 0);
}

#[test]
fn a_wait_that_runs_out_is_code_75() {
    let server = Server::start();
    server.hold("foo");
    for (wait, at_least_ms) in [("0", 0), ("0.3", 300)] {
        let began = Instant::now();
        let late = output(server.port(), &["run", "--wait", wait, "foo", "--", "echo", "ran"]);
        assert!(began.elapsed() >= Duration::from_millis(at_least_ms));
        let line = complaint(&late, 75);
        assert!(line.contains("foo: the lock was not granted within the wait"), "{line}");
        assert!(line.contains("; it is held by a test for "), "{line}");
        assert_eq!(late.stdout, b"");
    }
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn it_waits_as_long_as_it_takes_and_renews_before_the_command_begins() {
    let server = Server::start();
    let held = server.hold("foo");
    // A third of the lifetime is over when the lock is granted.
    let mut run = run_script(&server, &["--lifetime", "0.6"], "echo $RDLM_LOCK_URL");
    wait_until("it waits", || server.locks("foo").len() == 2);
    std::thread::sleep(Duration::from_millis(700));
    server.delete(&held);
    assert!(run.line().contains("/locks/foo/"));
    assert_eq!(run.end(), (Some(0), String::new()));
}

#[test]
fn an_administrator_who_deletes_the_waiting_request_ends_the_wait() {
    let server = Server::start();
    server.hold("foo");
    let run = run_script(&server, &[], "echo ran");
    wait_until("it waits", || server.locks("foo").len() == 2);
    server.delete("/resources/foo");
    let (code, errors) = run.end();
    assert_eq!(code, Some(75));
    assert!(errors.contains("deleted while it waited"), "{errors}");
}

#[test]
fn title_mode_and_limit_are_as_asked_for() {
    let server = Server::start();
    let look = |options: &[&str]| {
        let mut run = run_script(&server, options, "echo; exec sleep 100");
        run.line();
        let lock = server.locks("foo").remove(0);
        server.delete("/resources/foo");
        drop(run);
        lock
    };
    let plain = look(&[]);
    let title = plain["title"].as_str().unwrap();
    assert!(title.starts_with("alice@") && title.contains(": sh ["), "{title}");
    assert_eq!((&plain["mode"], &plain["lifetime"]), (&"EX".into(), &60.into()));
    let shared = look(&["--mode=shared", "--title", "a reader", "--lifetime", "7.5"]);
    assert_eq!((&shared["mode"], &shared["title"]), (&"PR".into(), &"a reader".into()));
    assert_eq!(shared["lifetime"], 7.5);
    assert_eq!(look(&["--limit", "3"])["limit"], 3);
}

#[test]
fn up_to_the_limit_run_at_once() {
    let server = Server::start();
    let start = || {
        let args = ["run", "--limit", "2", "foo", "--", "sh", "-c", "echo in; sleep 100"];
        Running::start(&mut rdlm(server.port(), &args))
    };
    let (mut first, mut second) = (start(), start());
    assert_eq!((first.line(), second.line()), ("in".into(), "in".into()));
    let third = output(server.port(), &["run", "--limit=2", "--wait=0", "foo", "--", "true"]);
    complaint(&third, 75);
    let other = output(server.port(), &["run", "--limit=3", "--wait=0", "foo", "--", "true"]);
    assert!(complaint(&other, 64).contains("have the limit 2"));
    first.signal("-TERM");
    assert_eq!(first.wait(), Some(143));
    printed(&output(server.port(), &["run", "--limit=2", "foo", "--", "true"]));
    second.signal("-TERM");
    assert_eq!(second.wait(), Some(143));
}

#[test]
fn what_it_leaves_in_the_background_is_not_waited_for() {
    let server = Server::start();
    let mut run = run_script(&server, &[], "sleep 100 >/dev/null 2>&1 & echo $!");
    let left = run.line();
    assert_eq!(run.end().0, Some(0));
    assert_eq!(server.locks("foo").len(), 0);
    assert!(super::is_alive(&left));
    super::kill("-KILL", &left);
}

/// Without the variables that a login sets, as in cron.
#[test]
fn the_title_names_the_user_and_the_process() {
    let server = Server::start();
    let mut run = rdlm(server.port(), &["run", "foo", "--", "sleep", "100"]);
    run.env_remove("LOGNAME").env("USER", "");
    let mut run = Running::start(&mut run);
    wait_until("it has the lock", || !server.locks("foo").is_empty());
    let title = server.locks("foo")[0]["title"].as_str().unwrap().to_string();
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    assert!(title.starts_with(&format!("{}@", user.trim())), "{title}");
    assert!(title.ends_with(&format!(": sleep [{}]", run.process.id())), "{title}");
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_rdlm"))
        .args(["run", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[USER@HOST: CMD [PID]]"), "{help}");
    run.signal("-TERM");
    run.wait();
}

/// For cron: the host that loses says nothing, and with the code that its script expects.
#[test]
fn what_happens_to_the_one_that_loses_can_be_chosen() {
    let server = Server::start();
    server.hold("foo");
    let run = |options: &[&str]| {
        let args = [&["run", "--wait", "0"], options, &["foo", "--", "echo", "ran"]].concat();
        output(server.port(), &args)
    };
    let quiet = run(&["--quiet"]);
    assert_eq!((quiet.status.code(), quiet.stderr.len()), (Some(75), 0), "{quiet:?}");
    assert!(complaint(&run(&["--conflict-exit-code", "1"]), 1).contains("not granted"));
    let both = run(&["--quiet", "--conflict-exit-code=0"]);
    assert_eq!((both.status.code(), both.stderr.len(), both.stdout.len()), (Some(0), 0, 0));
}

#[test]
fn a_command_that_hangs_is_ended() {
    let server = Server::start();
    let mut run = run_script(&server, &["--timeout", "0.3"], "sleep 100");
    assert_eq!(run.wait(), Some(124));
    assert_eq!(server.locks("foo").len(), 0);
    let options = ["--timeout", "300ms", "--kill-after", "0.2"];
    let mut run = run_script(&server, &options, "trap '' TERM; while :; do sleep 1; done");
    assert_eq!(run.wait(), Some(124));
    assert_eq!(server.locks("foo").len(), 0);
    let mut run = run_script(&server, &["--timeout", "100"], "exit 3");
    assert_eq!(run.wait(), Some(3));
}

#[test]
fn several_locks_are_taken_in_the_order_of_their_names_and_released() {
    let server = Server::start();
    let b = server.hold("b");
    let script = "echo $RDLM_RESOURCE; echo $RDLM_FENCING_TOKEN | wc -w; for url in \
                  $RDLM_LOCK_URL; do echo $url | cut -d/ -f5; done";
    let args = ["run", "--lifetime", "0.9", "c", "a", "b", "a", "--", "sh", "-c", script];
    let mut run = Running::start(&mut rdlm(server.port(), &args));
    wait_until("it waits for the second", || server.locks("b").len() == 2);
    // It is kept alive meanwhile, and the third is not asked for.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((server.locks("a").len(), server.locks("c").len()), (1, 0));
    assert_eq!(server.delete(&b).status, 204);
    for expected in ["a b c", "3", "a", "b", "c"] {
        assert_eq!(run.line(), expected);
    }
    assert_eq!(run.wait(), Some(0));
    for name in ["a", "b", "c"] {
        assert_eq!(server.locks(name).len(), 0);
    }
}

#[test]
fn the_wait_is_for_all_locks_together_and_leaves_nothing_behind() {
    let server = Server::start();
    server.hold("b");
    let late = output(server.port(), &["run", "--wait", "0.3", "a", "b", "--", "echo", "ran"]);
    assert!(complaint(&late, 75).contains("b: the lock was not granted"));
    assert_eq!((server.locks("a").len(), server.locks("b").len()), (0, 1));
    let mut waiting = Running::start(&mut rdlm(server.port(), &["run", "a", "b", "--", "true"]));
    wait_until("it waits", || server.locks("b").len() == 2);
    waiting.signal("-TERM");
    assert_eq!(waiting.wait(), Some(143));
    assert_eq!((server.locks("a").len(), server.locks("b").len()), (0, 1));
}

#[test]
fn one_lock_that_is_lost_ends_the_command_or_the_wait_for_the_others() {
    let server = Server::start();
    let args = ["run", "--lifetime", "0.6", "a", "b", "--", "sh", "-c", "echo begun; sleep 100"];
    let mut run = Running::start(&mut rdlm(server.port(), &args));
    assert_eq!(run.line(), "begun");
    assert_eq!(server.delete("/resources/b").status, 204);
    let (code, line) = run.end();
    assert_eq!(code, Some(74));
    assert!(line.contains("the lock on b is lost"), "{line}");
    assert_eq!(server.locks("a").len(), 0);

    server.hold("b");
    let run = Running::start(&mut rdlm(server.port(), &args));
    wait_until("it waits", || server.locks("b").len() == 2);
    assert_eq!(server.delete("/resources/a").status, 204);
    let (code, line) = run.end();
    assert_eq!(code, Some(74));
    assert!(line.contains("the lock on a was lost"), "{line}");
    assert_eq!(server.locks("b").len(), 1);
}

#[test]
fn a_run_within_a_run_does_not_wait_for_itself() {
    let server = Server::start();
    let rdlm_path = env!("CARGO_BIN_EXE_rdlm");
    let nested = |options: &str| format!("{rdlm_path} run {options} -- echo ran");
    for (options, code, said) in [
        ("a foo", 64, "would wait for itself"),
        ("--wait 0 foo", 75, "not granted"),
        ("other", 0, ""),
    ] {
        let output = output(server.port(), &["run", "foo", "--", "sh", "-c", &nested(options)]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
}

/// Others see it in lists, also when the request was sent again.
#[test]
fn a_wait_without_an_end_stays_one() {
    let server = Server::start();
    server.hold("foo");
    let drops = Fake::start(vec![Then::Drop, Then::Forward(server.port())]);
    let _run = Running::start(&mut rdlm(drops.port, &["run", "foo", "--", "true"]));
    wait_until("it waits", || server.locks("foo").len() == 2);
    assert_eq!(server.locks("foo")[1]["wait"].as_f64(), Some(1e9));
}

/// The same name at another server is another lock.
#[test]
fn a_run_within_a_run_may_hold_the_same_name_of_another_server() {
    let (server, other) = (Server::start(), Server::start());
    let nested = format!(
        "{} run --url http://127.0.0.1:{} foo -- echo ran",
        env!("CARGO_BIN_EXE_rdlm"),
        other.port()
    );
    let output = output(server.port(), &["run", "foo", "--", "sh", "-c", &nested]);
    assert_eq!(printed(&output), "ran\n");
}
