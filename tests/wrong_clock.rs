//! What the server says of a clock that cannot be right.

use std::env::consts::ARCH;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::needed;

/// What a server logs before it listens.
fn log_of_start(command: &mut Command) -> Vec<String> {
    // What wraps the server is ended with it.
    let command = command.args(["serve", "--port", "0"]).process_group(0).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let log = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let log = log.take_while(|line| !line.contains("listening on")).collect();
    let group = format!("-{}", server.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    server.wait().unwrap();
    log
}

#[test]
fn a_clock_that_shows_a_time_before_the_release_is_told_of() {
    let tells = |log: &[String]| log.iter().filter(|line| line.contains("the clock shows")).count();
    let rdlm = env!("CARGO_BIN_EXE_rdlm");
    assert_eq!(tells(&log_of_start(&mut Command::new(rdlm))), 0);
    // The binary is static and asks the kernel; an emulator asks for it, which is not.
    let emulator = format!("qemu-{ARCH}");
    if needed::are_installed(&["faketime", &emulator]) {
        let mut faked = Command::new("faketime");
        let log = log_of_start(faked.args(["2026-01-01 00:00:00", &emulator, rdlm]));
        assert_eq!(tells(&log), 1, "{log:?}");
    }
}
