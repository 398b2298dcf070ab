//! Blocks for other tools, which read them here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::blocks::blocks;
use super::pages;
use crate::harness::{Server, wait_until};
use crate::needed;

/// The block of a page that begins with this.
pub(super) fn block(page: &str, begins: &str) -> String {
    let (_, text) = pages().into_iter().find(|(path, _)| path == page).unwrap();
    let mut found = blocks(page, &text).into_iter().filter(|block| block.text.starts_with(begins));
    found.next().unwrap().text
}

/// Runs this first in the path in place of a program.
fn stand_in(dir: &Path, program: &str, script: &str) -> String {
    let file = dir.join(program);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn logrotate_moves_the_event_log_and_the_server_goes_on_in_a_new_file() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("events.json");
    let server = Server::start_with(&["--event-log", log.to_str().unwrap()]);
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    server.hold("before");
    wait_until("it is written", || read("events.json").contains("before"));
    let text = block("docs/operations.md", "/var/log/rdlm/events.json {");
    let configuration = dir.path().join("logrotate.conf");
    fs::write(&configuration, text.replace("/var/log/rdlm/events.json", log.to_str().unwrap()))
        .unwrap();
    // What every version of systemctl understands.
    let script =
        format!("[ \"$*\" = 'kill -s HUP rdlm' ] && exec kill -HUP {}; exit 1", server.pid());
    needed::insist("logrotate");
    let mut command = Command::new("logrotate");
    command.env("PATH", stand_in(dir.path(), "systemctl", &script)).arg("--force").arg("--state");
    let rotated = command.arg(dir.path().join("state")).arg(configuration).output();
    succeeded(&rotated.unwrap());
    // It is opened for the next event.
    let mut count = 0;
    wait_until("the new file is open", || {
        count += 1;
        server.hold(&format!("between-{count}"));
        log.exists()
    });
    server.hold("after");
    wait_until("it is written", || read("events.json").contains("after"));
    assert!(read("events.json.1").contains("before"));
}

/// Of a unit, what it starts by a shell, with this server in place of that of the document.
fn starts(unit: &str, server: &Server) -> Vec<String> {
    let here = format!("localhost:{}", server.port());
    let unit = unit.replace("\\\n", " ").replace("locks.example.com:8888", &here);
    let lines = unit.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    lines.map(|line| line.replace("%m", "this-node").replace("/usr/bin/", "")).collect()
}

#[test]
fn the_units_of_fleetlock_take_a_slot_and_give_it_back_at_the_next_boot() {
    let server = Server::start_with(&["--fleetlock", "1"]);
    let dir = TempDir::new().unwrap();
    let reboots = dir.path().join("reboots");
    let path = stand_in(dir.path(), "systemctl", &format!("echo \"$*\" >>{}", reboots.display()));
    let run = |name: &str| {
        let unit = block("docs/doors.md", &format!("# /etc/systemd/system/{name}.service"));
        for command in starts(&unit, &server) {
            let mut shell = Command::new("sh");
            succeeded(&shell.arg("-ec").arg(command).env("PATH", &path).output().unwrap());
        }
    };
    run("reboot-in-turn");
    assert_eq!(fs::read_to_string(&reboots).unwrap(), "reboot\n");
    assert_eq!(server.locks("reboot:default")[0]["title"], "reboot of this-node");
    run("reboot-done");
    assert!(server.locks("reboot:default").is_empty(), "the next node may reboot");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_of_fleetlock() {
    if !needed::are_installed(&["systemd-analyze"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    let names = ["reboot-in-turn.service", "reboot-done.service"];
    for name in names {
        let unit = dir.path().join(name);
        fs::write(&unit, block("docs/doors.md", &format!("# /etc/systemd/system/{name}"))).unwrap();
        verify.arg(unit);
    }
    let output = verify.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let about_them = |line: &&str| names.iter().any(|name| line.contains(name));
    assert_eq!(said.lines().filter(about_them).collect::<Vec<_>>(), [""; 0], "{said}");
}
