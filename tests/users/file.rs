//! The file is read at the start and when it changes; mistakes are errors in a line.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{VIEWER, World};
use crate::authority::text;
use crate::harness::wait_until;

fn many_rights(count: usize) -> String {
    let rights: Vec<_> = (0..count).map(|n| format!("\"lock deploy-{n:04}\"")).collect();
    format!("[user.a]\nmay = [{}]\n", rights.join(", "))
}

#[test]
fn a_changed_file_is_used_and_mistakes_leave_the_old_rules() {
    let mut world = World::new();
    let mut changed = 0;
    let mut put = |file: &PathBuf, text: &str| {
        // By a rename, as editors and Kubernetes do.
        changed += 1;
        let next = file.with_extension(changed.to_string());
        fs::write(&next, text).unwrap();
        fs::rename(&next, file).unwrap();
    };
    for (text, line, says) in [
        ("[user.a", 1, ""),
        ("[user.a]\nmay = []\n[user.a]\nmay = []\n", 3, "duplicate key"),
        ("[user.a]\nmay = [\"write *\"]\n", 2, "expected a right"),
        (&many_rights(500), 2, "at most 6144 bytes"),
        ("[user.a]\nmay = [\n  \"see *\",\n  \"lock a*b\"]\n", 4, "expected a pattern"),
        ("[user.a]\nmay = [\"lock *a\"]\n", 2, "expected a pattern"),
        ("[user.a]\nmay = []\nrights = []\n", 3, "unknown field"),
        ("[user.a]\npassword = \"$1$x\"\nmay = []\n", 2, "bcrypt"),
        ("[user.a]\ntoken = \"secret\"\nmay = []\n", 2, "sha256:"),
        ("[user.a]\npassword = \"x\"\n", 1, "missing field"),
        ("[user.\"\"]\nmay = []\n", 1, "not empty"),
        ("[group.a]\nmay = []\n", 1, "unknown field"),
        ("a = \"\u{1b}\"\n", 1, ""),
    ] {
        put(&world.file, text);
        world.server.signal("-HUP");
        world.server.read_log_to(&format!("users.toml, line {line}, column "));
        assert_eq!(world.status(VIEWER, "GET", "/status"), 200, "{says}");
    }
    fs::remove_file(&world.file).unwrap();
    world.server.signal("-HUP");
    world.server.read_log_to("cannot read");
    assert_eq!(world.status(VIEWER, "GET", "/status"), 200);
    // A byte order mark is not part of the text. No signal is needed.
    put(&world.file, "\u{feff}[user.new]\npassword = \"new\"\nmay = [\"see *\"]\n");
    wait_until("it is taken anew", || world.status("new:new", "GET", "/status") == 200);
    assert_eq!(world.status(VIEWER, "GET", "/status"), 401, "who is gone is nobody");
    assert_eq!(world.acquire("", "ci-1").status, 401);
    // A symbolic link that is swapped, as Kubernetes does.
    let [one, two] = ["one", "two"].map(|name| world.file.with_extension(name));
    fs::write(&one, "[user.a]\npassword = \"1\"\nmay = [\"see *\"]\n").unwrap();
    fs::write(&two, "[user.a]\npassword = \"2\"\nmay = [\"see *\"]\n").unwrap();
    for (target, user) in [(&one, "a:1"), (&two, "a:2")] {
        let link = world.file.with_extension("link");
        symlink(target, &link).unwrap();
        fs::rename(&link, &world.file).unwrap();
        wait_until("it is taken anew", || world.status(user, "GET", "/status") == 200);
    }
    assert_eq!(world.status("a:1", "GET", "/status"), 401);
}

#[test]
fn a_mistake_at_the_start_is_an_error_in_a_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users.toml");
    let serve = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        command.args(["serve", "--port", "0", "--logging", "none"]).args(options);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (content, says) in [
        (
            &b"[user.a]\nmay = [\"see *\"]\n\n[user.a]\nmay = []\n"[..],
            "line 4, column 7: duplicate",
        ),
        (b"[user.a]\nmay = [\"admin x*y\"]\n", "line 2, column 8: expected a pattern"),
        (b"[user.a]\nmay = \xff", "line 2, column 7: it is not UTF-8"),
        (b"x", "line 1, column"),
        (&vec![b'#'; (1 << 20) + 1], "it is longer than 1048576 bytes"),
    ] {
        fs::write(&file, content).unwrap();
        let (code, line) = serve(&["--users", text(&file)]);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains(says) && line.lines().count() == 1, "{line}");
    }
    let (code, line) = serve(&["--users", "/nope"]);
    assert!(code == Some(1) && line.contains("cannot read /nope"), "{line}");
    let (code, line) = serve(&["--users", text(&file), "--admin-userpass-file", "yes"]);
    assert!(code == Some(2) && line.contains("do not go together"), "{line}");
}
