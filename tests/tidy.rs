//! The walls between the rooms, as ARCHITECTURE.md draws them, that neither the packages of the
//! workspace nor the lints in Cargo.toml and .clippy.toml can keep.

use std::fs;
use std::path::{Path, PathBuf};

/// All source files of all packages, with their paths relative to the repository.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = ["src", "crates/lock/src", "crates/http/src", "clients/rust/src"];
    let mut sources = Vec::new();
    let mut dirs: Vec<_> = packages.iter().map(|package| root.join(package)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(root).unwrap().to_path_buf(), text));
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
    let folders = ["tests", "model", "schedules"];
    let in_tests = path.iter().any(|part| folders.iter().any(|folder| part == *folder));
    !in_tests && !tests.iter().any(|file| path.ends_with(file))
}

#[track_caller]
fn assert_absent(what: &str, room: impl Fn(&Path) -> bool) {
    for (path, text) in sources() {
        if room(&path) {
            let found = code(&text).find(|line| line.contains(what));
            assert_eq!(found, None, "{what} in {}", path.display());
        }
    }
}

#[test]
fn the_lock_core_knows_no_network_and_the_journal_alone_writes_bytes() {
    assert_absent("std::net", |path| path.starts_with("crates/lock"));
    assert_absent("serde", |path| {
        path.starts_with("crates/lock")
            && !path.starts_with("crates/lock/src/journal/log")
            && !path.ends_with("stored.rs")
    });
}

#[test]
fn one_resource_is_pure() {
    for impure in [
        "Mutex", "Condvar", "thread", "std::io", "std::fs", "log::", "Atomic", "sleep", "::now()",
        "random()",
    ] {
        assert_absent(impure, |path| {
            path == Path::new("crates/lock/src/resource.rs")
                || path.starts_with("crates/lock/src/resource") && is_product(path)
        });
    }
}

#[test]
fn the_grammar_of_http_knows_no_socket() {
    for foreign in ["TcpStream", "TcpListener", "rustix", "socket2", "std::thread", "Instant"] {
        assert_absent(foreign, |path| {
            let pure = ["head.rs", "headers.rs", "chunked.rs", "accept.rs", "request.rs"];
            path.starts_with("crates/http") && pure.iter().any(|file| path.ends_with(file))
        });
    }
}

#[test]
fn doors_reach_the_locks_by_their_interface_alone() {
    for foreign in [
        "LockTable",
        "FileStore",
        "crate::server",
        "crate::cli",
        "crate::client",
        "crate::cluster",
        "crate::etcd_store",
        "crate::proxy",
    ] {
        assert_absent(foreign, |path| path.starts_with("src/doors"));
    }
    for foreign in ["TcpStream", "rustix", "socket2"] {
        assert_absent(foreign, |path| {
            path.starts_with("src/doors") && !path.ends_with("doors/tests.rs")
        });
    }
}

#[test]
fn rights_are_checked_in_one_place() {
    for asks in ["access.rules(", "passwords.check(", "rights.allow", "Authorization\""] {
        assert_absent(asks, |path| {
            path.starts_with("src/doors")
                && !["caller.rs", "identity.rs", "call.rs", "rights.rs", "page.html"]
                    .iter()
                    .any(|f| path.ends_with(f))
        });
    }
}

#[test]
fn the_command_line_opens_nothing() {
    for opens in ["std::fs", "std::net::Tcp", "std::io", "std::thread"] {
        assert_absent(opens, |path| path == Path::new("src/cli.rs") || path.starts_with("src/cli"));
    }
}

#[test]
fn commands_and_server_do_not_know_each_other() {
    for server in ["crate::lock", "crate::http", "crate::doors", "crate::server", "crate::cli::"] {
        assert_absent(server, |path| path.starts_with("src/commands"));
    }
    assert_absent("crate::commands", |path| {
        ["src/doors", "src/server", "src/server.rs", "src/cluster", "src/etcd_store", "src/proxy"]
            .iter()
            .any(|room| path.starts_with(room))
    });
    // A library writes to nobody's terminal.
    for of_commands in ["stderr", "stdout"] {
        assert_absent(of_commands, |path| path.starts_with("clients/rust"));
    }
}
