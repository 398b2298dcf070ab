//! Signals: to the command while it runs, to the end of the wait before.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Running, is_alive, kill, rdlm, run_script};
use crate::harness::{Server, wait_until};

#[test]
fn the_command_and_its_children_get_them() {
    let server = Server::start();
    for (signal, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1), ("-QUIT", 3)] {
        // The shell ignores SIGINT and SIGQUIT for what it runs in the background, so it is
        // the grandchild itself that a shell in the foreground waits for.
        let script = "sh -c 'echo $$; exec sleep 100'; exit 9";
        let mut run = run_script(&server, &[], script);
        let grandchild = run.line();
        run.signal(signal);
        let (code, _) = run.end();
        assert_eq!(code, Some(128 + number), "{signal}");
        wait_until("the child of the command has ended", || !is_alive(&grandchild));
        assert_eq!(server.locks("foo").len(), 0);
    }
}

#[test]
fn the_command_decides_what_it_does_about_them() {
    let server = Server::start();
    let script = "sleep 100 & trap 'echo got it' TERM; echo ready; wait; wait; exit 5";
    let mut run = run_script(&server, &[], script);
    assert_eq!(run.line(), "ready");
    run.signal("-TERM");
    assert_eq!(run.line(), "got it");
    assert_eq!(run.end().0, Some(5));
}

#[test]
fn while_it_waits_they_end_it_and_leave_no_request() {
    let server = Server::start();
    server.hold("foo");
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        for command in ["run", "acquire"] {
            let args: &[&str] = match command {
                "run" => &["run", "foo", "--", "echo", "ran"],
                _ => &["acquire", "foo"],
            };
            let mut waiting = Running::start(&mut rdlm(server.port(), args));
            wait_until("it waits", || server.locks("foo").len() == 2);
            waiting.signal(signal);
            assert_eq!(waiting.wait(), Some(code));
            // At once, not after the grace of its key.
            assert_eq!(server.locks("foo").len(), 1);
            assert_eq!(waiting.line(), "");
        }
    }
}

#[test]
fn a_signal_at_any_moment_leaves_nothing_behind() {
    let server = Server::start();
    for round in 0..30 {
        let held = server.hold("foo");
        let mut run = run_script(&server, &[], "sleep 100");
        // From before the handlers are there, over the moment when the request is sent, to
        // that of the grant.
        std::thread::sleep(Duration::from_millis(round / 2));
        if round % 3 == 0 {
            server.delete(&held);
        }
        run.signal("-TERM");
        if round % 3 == 1 {
            server.delete(&held);
        }
        let code = run.wait();
        // Killed before there was a handler, or before the lock, or with the command.
        assert_eq!(code, Some(143));
        let held_by_others = if round % 3 == 2 { 1 } else { 0 };
        wait_until("it has left", || server.locks("foo").len() == held_by_others);
        server.delete(&held);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_server_that_is_gone() {
    let mut server = Server::start();
    server.hold("foo");
    let mut run = run_script(&server, &[], "echo ran");
    wait_until("it waits", || server.locks("foo").len() == 2);
    server.signal("-KILL");
    server.wait();
    run.signal("-INT");
    assert_eq!(run.wait(), Some(130));
}

#[test]
fn kill_9_takes_the_command_along() {
    let server = Server::start();
    let mut run = run_script(&server, &[], "echo $$; exec sleep 100");
    let command = run.line();
    run.signal("-KILL");
    assert_eq!(run.wait(), Some(137));
    wait_until("the command has ended", || !is_alive(&command));
    // Nobody could release it.
    assert_eq!(server.locks("foo").len(), 1);
}

#[test]
fn what_is_ignored_from_the_start_stays_ignored() {
    let server = Server::start();
    let script = format!(
        "trap '' HUP; exec {} run foo -- sh -c 'echo $$; read _; echo alive; sleep 100'",
        env!("CARGO_BIN_EXE_rdlm")
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(std::process::Stdio::piped());
    shell.env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()));
    let mut run = Running::start(shell.process_group(0));
    let command = run.line();
    run.signal("-HUP");
    kill("-HUP", &command);
    drop(run.process.stdin.take());
    assert_eq!(run.line(), "alive");
    run.signal("-TERM");
    assert_eq!(run.wait(), Some(143));
}

#[test]
fn a_signal_that_is_ignored_does_not_hide_the_end_of_the_command() {
    let server = Server::start();
    let mut run = Command::new("env");
    run.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_rdlm"), "run", "foo", "--"]);
    run.args(["sh", "-c", "exit 3"]);
    run.env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()));
    assert_eq!(Running::start(&mut run).wait(), Some(3));
    assert_eq!(server.locks("foo").len(), 0);
}

/// Somebody else than a terminal stops the command: its lock is renewed, and SIGTERM is taken.
#[test]
fn a_command_that_is_stopped_keeps_its_lock() {
    let server = Server::start();
    let mut run = run_script(&server, &["--lifetime", "0.6"], "echo $$; exec sleep 100");
    let command = run.line();
    let uid = server.locks("foo")[0]["uid"].clone();
    kill("-STOP", &command);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(server.locks("foo")[0]["uid"], uid);
        std::thread::sleep(Duration::from_millis(50));
    }
    kill("-CONT", &command);
    run.signal("-TERM");
    assert_eq!(run.wait(), Some(143));
    assert!(!is_alive(&command));
}

/// Nor does a stop keep it alive when the lock is lost.
#[test]
fn a_command_that_is_stopped_ends_with_its_lock() {
    let server = Server::start();
    let options = ["--lifetime", "0.6", "--kill-after", "0.2"];
    let mut run = run_script(&server, &options, "trap '' TERM; echo $$; while :; do sleep 1; done");
    let command = run.line();
    kill("-STOP", &command);
    assert_eq!(server.delete("/resources").status, 204);
    assert_eq!(run.wait(), Some(74));
    wait_until("the command has ended", || !is_alive(&command));
}

#[test]
fn a_command_may_begin_a_session() {
    let server = Server::start();
    let began = Instant::now();
    let mut run = rdlm(server.port(), &["run", "foo", "--", "setsid", "sh", "-c"]);
    let mut run = Running::start(run.arg("echo $$; sleep 1; exit 4"));
    let command = run.line();
    assert_eq!(server.locks("foo").len(), 1);
    assert_eq!(run.wait(), Some(4));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(!is_alive(&command));
    assert_eq!(server.locks("foo").len(), 0);

    // Signals reach it there, too.
    let mut run = rdlm(server.port(), &["run", "foo", "--", "setsid", "sh", "-c"]);
    let mut run =
        Running::start(run.arg("trap 'echo got it; exit 5' TERM; echo begun; sleep 100 & wait"));
    assert_eq!(run.line(), "begun");
    run.signal("-TERM");
    assert_eq!(run.line(), "got it");
    assert_eq!(run.wait(), Some(5));
}

/// What a shell looks at to end a script on Ctrl-C.
#[test]
fn it_dies_of_the_signal_that_ended_it() {
    let server = Server::start();
    let died_of = |mut run: Running| {
        run.wait();
        run.process.wait().unwrap().signal()
    };
    for (name, number) in [("-INT", 2), ("-TERM", 15), ("-QUIT", 3), ("-KILL", 9)] {
        let mut run = run_script(&server, &[], "echo $$; exec sleep 100");
        kill(name, &run.line());
        assert_eq!(died_of(run), Some(number));
    }
    server.hold("foo");
    for args in [&["run", "foo", "--", "true"][..], &["acquire", "foo"]] {
        let waiting = Running::start(&mut rdlm(server.port(), args));
        wait_until("it waits", || server.locks("foo").len() == 2);
        waiting.signal("-INT");
        assert_eq!(died_of(waiting), Some(2));
        wait_until("it has left", || server.locks("foo").len() == 1);
    }
}

#[test]
fn those_without_a_meaning_for_rdlm_are_for_the_command() {
    let server = Server::start();
    for name in ["USR1", "USR2", "ALRM", "WINCH", "VTALRM", "PROF"] {
        let script = format!("trap 'echo got it; exit 6' {name}; echo begun; sleep 100 & wait");
        let mut run = run_script(&server, &[], &script);
        assert_eq!(run.line(), "begun");
        run.signal(&format!("-{name}"));
        assert_eq!(run.line(), "got it", "{name}");
        assert_eq!(run.wait(), Some(6));
    }
}
