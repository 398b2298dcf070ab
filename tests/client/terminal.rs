//! `rdlm run` in a terminal: who reads from it, and what Ctrl-C and Ctrl-Z do; and passwords that
//! are typed there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{PATIENCE, Server, wait_until};
use crate::needed;

/// A command that has a terminal of its own; it is killed with the test.
struct Terminal {
    master: File,
    shown: String,
    process: Child,
}

impl Terminal {
    /// Runs a command in a session of its own; the server is that of the environment.
    fn start(server: &Server, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let slave = OwnedFd::from(slave);
        let process = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(args)
            .env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()))
            .env("RDLM", env!("CARGO_BIN_EXE_rdlm"))
            .env("PS1", "ready$ ")
            .env("TERM", "dumb")
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave))
            .spawn()
            .unwrap();
        Self { master: File::from(master), shown: String::new(), process }
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads up to this text, which comes after all that was waited for before; returns both.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        while !self.shown.contains(text) {
            assert!(self.read(PATIENCE), "in vain: {text:?}, after {:?}", self.shown);
        }
        let at = self.shown.find(text).unwrap() + text.len();
        self.shown.drain(..at).collect()
    }

    /// The same, typing the keys again and again, as somebody does who sees nothing happen.
    #[track_caller]
    fn type_until(&mut self, keys: &str, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.shown.contains(text) && Instant::now() < end {
            self.type_in(keys);
            while !self.shown.contains(text) && self.read(Duration::from_secs(1)) {}
        }
        self.wait_for(text);
    }

    /// Reads what comes next; `false` if nothing comes for so long.
    #[track_caller]
    fn read(&mut self, patience: Duration) -> bool {
        let mut master = [PollFd::new(&self.master, PollFlags::IN)];
        if poll(&mut master, Some(&patience.try_into().unwrap())).unwrap() == 0 {
            return false;
        }
        let mut bytes = [0; 1024];
        let read = self.master.read(&mut bytes).unwrap_or(0);
        assert_ne!(read, 0, "the end came after {:?}", self.shown);
        self.shown += &String::from_utf8_lossy(&bytes[..read]);
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Types two passwords, and returns what is to be seen afterwards, up to the end of the command.
/// Then the terminal shows again what is typed.
#[track_caller]
fn hash_password(first: &str, second: &str) -> String {
    let server = Server::start();
    let script = "trap : INT; $RDLM hash-password; echo code $?; read y; echo got $y";
    let mut terminal = Terminal::start(&server, &["sh", "-c", script]);
    terminal.wait_for("Password: ");
    terminal.type_in(first);
    if !second.is_empty() {
        terminal.wait_for("Once more: ");
        terminal.type_in(second);
    }
    let shown = terminal.wait_for("code ") + &terminal.wait_for("\n");
    terminal.type_in("plain\n");
    assert!(terminal.wait_for("got plain").starts_with("plain\r\n"));
    shown
}

#[test]
fn a_password_is_typed_twice_and_not_shown() {
    let shown = hash_password("open sesame\n", "open sesame\n");
    let lines: Vec<_> = shown.split("\r\n").collect();
    let ["", hash, "code 0", ""] = lines[..] else { panic!("{shown:?}") };
    assert!(bcrypt::verify("open sesame", hash).unwrap());
    let shown = hash_password("open sesame\n", "open sesam\n");
    assert_eq!(shown, "\r\nrdlm: the two are not the same\r\ncode 64\r\n");
}

#[test]
fn ctrl_c_at_a_password_leaves_the_terminal_as_it_was() {
    let shown = hash_password("open\x03", "");
    assert_eq!(shown, "code 130\r\n");
}

#[test]
fn the_command_reads_from_the_terminal_and_gives_it_back() {
    let server = Server::start();
    let script = "$RDLM run foo -- sh -c 'read x; echo got $x'; read y; echo then $y";
    let mut terminal = Terminal::start(&server, &["sh", "-c", script]);
    terminal.type_in("one\n");
    terminal.wait_for("got one");
    terminal.type_in("two\n");
    terminal.wait_for("then two");
}

#[test]
fn ctrl_c_ends_the_command() {
    let server = Server::start();
    let script = "trap : INT; $RDLM run foo -- sh -c 'echo begun; exec sleep 100'; echo code $?";
    let mut terminal = Terminal::start(&server, &["sh", "-c", script]);
    terminal.wait_for("begun");
    terminal.type_in("\x03");
    terminal.wait_for("code 130");
    assert_eq!(server.locks("foo").len(), 0);
}

#[test]
fn ctrl_c_ends_a_script_and_not_only_one_round_of_it() {
    let server = Server::start();
    let script = "for round in 1 2 3; do $RDLM run foo -- sh -c \"echo round $round; exec sleep \
                  100\"; done; echo all rounds";
    let mut terminal = Terminal::start(&server, &["sh", "-c", script]);
    terminal.wait_for("round 1");
    terminal.type_in("\x03");
    assert!(!terminal.process.wait().unwrap().success());
    assert!(!terminal.shown.contains("round 2"), "{}", terminal.shown);
}

#[test]
fn ctrl_z_stops_it_and_fg_goes_on() {
    if !needed::are_installed(&["bash"]) {
        return;
    }
    let server = Server::start();
    // Once a command that has the terminal, because it reads; once one that has not. That one
    // starts no process meanwhile: a shell that is just about to (vfork) cannot be stopped.
    let reads = "sh -c 'echo begun; read x; echo got $x; exit 7'";
    let does_not_read =
        "sh -c 'trap \"echo going on; kill \\$!; exit 7\" CONT; sleep 100 & echo begun; wait'";
    for (command, input, expected) in [(reads, "one\n", "got one"), (does_not_read, "", "going on")]
    {
        let mut terminal = Terminal::start(&server, &["bash", "--norc", "--noediting", "-i"]);
        terminal.wait_for("ready$ ");
        terminal.type_in(&format!("$RDLM run foo -- {command}\n"));
        terminal.wait_for("\nbegun");
        // A Ctrl-Z is lost in the moment in which the command gets the terminal: the kernel drops
        // it when the command goes on.
        terminal.type_until("\x1a", "Stopped");
        terminal.type_in("fg\n");
        terminal.type_in(input);
        terminal.wait_for(expected);
        terminal.type_in("echo code $?\n");
        terminal.wait_for("code 7");
    }
}

/// While it is stopped, nothing is renewed. A command whose lock is lost by then is told so as it
/// goes on, and not later.
#[test]
fn fg_after_the_lock_ran_out_ends_the_command() {
    if !needed::are_installed(&["bash"]) {
        return;
    }
    let server = Server::start();
    let mut terminal = Terminal::start(&server, &["bash", "--norc", "--noediting", "-i"]);
    terminal.wait_for("ready$ ");
    // The shell shows the command, too, but not the words that it prints.
    let command = r#"sh -c 'trap "echo goes\_on" CONT; trap "echo is\_told; exit" TERM; sleep 100 & echo begun; wait; wait'"#;
    terminal.type_in(&format!("$RDLM run --lifetime 2 foo -- {command}\n"));
    terminal.wait_for("\nbegun");
    terminal.type_until("\x1a", "Stopped");
    wait_until("the lock has run out", || server.locks("foo").is_empty());
    terminal.type_in("fg\n");
    let shown = terminal.wait_for("is_told");
    assert!(!shown.contains("goes_on"), "{shown}");
    terminal.type_in("echo code $?\n");
    terminal.wait_for("code 74");
}

#[test]
fn a_wait_tells_what_it_waits_for() {
    let server = Server::start();
    let held = server.hold("foo");
    let script = "stty cols 120; $RDLM run --title me foo -- sh -c 'echo ran'; echo code $?";
    let mut terminal = Terminal::start(&server, &["sh", "-c", script]);
    terminal.wait_for("waiting for foo, held by a test for ");
    terminal.wait_for("1st in line");
    assert_eq!(server.delete(&held).status, 204);
    terminal.wait_for("\r\x1b[Kran");
    terminal.wait_for("code 0");
}

#[test]
fn watch_draws_over_what_it_drew() {
    let server = Server::start();
    let script = "stty rows 5 cols 20; exec $RDLM watch";
    server.acquire_with("foo", r#""wait":0,"lifetime":600"#);
    let mut terminal = Terminal::start(&server, &["sh", "-c", script]);
    terminal.wait_for("\x1b[2J\x1b[HRESOURCE  STATE  TIT\x1b[K");
    terminal.wait_for("foo       held   a t\x1b[K");
    terminal.wait_for("\x1b[J\x1b[HRESOURCE");
    terminal.type_in("\x03");
    assert!(terminal.process.wait().unwrap().success());
}

#[test]
fn a_deletion_of_everything_is_asked_about() {
    if !needed::are_installed(&["setsid"]) {
        return;
    }
    let server = Server::start();
    server.hold("foo");
    let _waiting = server.join_line("foo");
    let delete = [env!("CARGO_BIN_EXE_rdlm"), "delete", "--all"];
    let asked = format!(
        "delete 1 locks and 1 waiting requests at http://127.0.0.1:{}? [y/N] ",
        server.port()
    );
    let mut terminal = Terminal::start(&server, &delete);
    terminal.wait_for(&asked);
    terminal.type_in("\n");
    terminal.wait_for("nothing was deleted");
    assert_eq!(server.locks("foo").len(), 2);
    let mut terminal = Terminal::start(&server, &delete);
    terminal.wait_for(&asked);
    terminal.type_in("y\n");
    terminal.wait_for("foo       waits 1");
    assert_eq!(server.locks("foo").len(), 0);
}
