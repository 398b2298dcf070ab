//! The walls between the rooms, as ARCHITECTURE.md draws them, where no lint in Cargo.toml and
//! clippy.toml can see them.

use std::fs;
use std::path::{Path, PathBuf};

/// All files below src with their paths relative to it.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut dirs = vec![src.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(&src).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(sources.len() > 10);
    sources
}

/// The lines of code outside of comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

/// Not a file of tests, nor what they alone use.
fn is_product(path: &Path) -> bool {
    let tests = ["tests.rs", "model.rs", "schedules.rs", "sync/checked.rs"];
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    !in_tests && !tests.iter().any(|file| path.ends_with(file))
}

#[track_caller]
fn assert_absent(what: &str, room: impl Fn(&Path) -> bool) {
    for (path, text) in sources() {
        if room(&path) {
            let found = code(&text).find(|line| line.contains(what));
            assert_eq!(found, None, "{what} in src/{}", path.display());
        }
    }
}

/// Nothing of the crate's `room` is used there.
#[track_caller]
fn assert_not_used(room: &str, by: impl Fn(&Path) -> bool) {
    for path in [format!("crate::{room}::"), format!("crate::{room};"), format!("crate::{{{room}")]
    {
        assert_absent(&path, &by);
    }
}

#[test]
fn the_lock_core_knows_no_http_json_command_line_or_socket() {
    for foreign in [
        "crate::http",
        "crate::doors",
        "crate::cli",
        "crate::server",
        "crate::metrics",
        "serde_json",
        "httparse",
        "rustix::event",
        "rustix::net",
        "std::net",
        "pico_args",
    ] {
        assert_absent(foreign, |path| path.starts_with("lock"));
    }
    // The journal's records are bytes of its own making.
    assert_absent("serde", |path| {
        path.starts_with("lock") && !path.starts_with("lock/journal/log")
    });
}

#[test]
fn one_resource_is_pure() {
    for impure in [
        "Mutex", "Condvar", "thread", "std::io", "std::fs", "log::", "Atomic", "sleep", "::now()",
        "random()",
    ] {
        assert_absent(impure, |path| {
            path == Path::new("lock/resource.rs")
                || path.starts_with("lock/resource") && is_product(path)
        });
    }
}

#[test]
fn http_knows_no_lock_and_no_door() {
    for room in ["lock", "doors", "server", "metrics", "cli", "client"] {
        assert_not_used(room, |path| path.starts_with("http"));
    }
}

#[test]
fn the_grammar_of_http_knows_no_socket() {
    for foreign in ["TcpStream", "TcpListener", "rustix", "socket2", "std::thread", "Instant"] {
        assert_absent(foreign, |path| {
            let pure = ["head.rs", "headers.rs", "chunked.rs", "accept.rs", "request.rs"];
            path.starts_with("http") && pure.iter().any(|file| path.ends_with(file))
        });
    }
}

#[test]
fn doors_reach_the_locks_by_their_interface_alone() {
    for inside in ["LockTable", "lock::table", "lock::resource", "lock::reaper", "FileStore"] {
        assert_absent(inside, |path| path.starts_with("doors"));
    }
    for room in ["server", "cli", "client"] {
        assert_not_used(room, |path| path.starts_with("doors"));
    }
    for foreign in ["TcpStream", "rustix", "socket2"] {
        assert_absent(foreign, |path| path.starts_with("doors") && !path.ends_with("doors/mod.rs"));
    }
}

#[test]
fn who_may_what_is_asked_in_one_place() {
    for asks in ["access.check(", "passwords.check(", "rights.allow", "Authorization\""] {
        assert_absent(asks, |path| {
            path.starts_with("doors")
                && !["caller.rs", "access.rs", "rights.rs", "page.html"]
                    .iter()
                    .any(|f| path.ends_with(f))
        });
    }
}

#[test]
fn the_command_line_opens_nothing() {
    for opens in ["std::fs", "std::net::Tcp", "std::io", "std::thread"] {
        assert_absent(opens, |path| path == Path::new("cli.rs") || path.starts_with("cli"));
    }
}

#[test]
fn the_client_knows_the_api_alone_and_the_server_knows_no_client() {
    for inside in
        ["crate::lock", "crate::http", "crate::doors", "crate::server", "crate::cli::", "pico_args"]
    {
        assert_absent(inside, |path| path.starts_with("client") || path.starts_with("commands"));
    }
    // A library writes to nobody's terminal, and its user handles the signals.
    for of_commands in ["crate::commands", "signal_hook", "stderr", "stdout"] {
        assert_absent(of_commands, |path| path.starts_with("client"));
    }
    for foreign in ["crate::client", "crate::commands", "ureq"] {
        assert_absent(foreign, |path| {
            ["lock", "http", "doors", "server", "server.rs"]
                .iter()
                .any(|room| path.starts_with(room))
        });
    }
}
