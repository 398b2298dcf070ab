//! The man page and the completions have the commands and options of `--help`, no more and no
//! less.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::{output, printed};

const COMMANDS: [&str; 11] = [
    "serve",
    "run",
    "acquire",
    "renew",
    "release",
    "get",
    "resources",
    "locks",
    "delete",
    "watch",
    "events",
];

/// The words of a text that begin with two dashes.
fn options(text: &str) -> BTreeSet<String> {
    let in_option = |char: char| char.is_ascii_lowercase() || char == '-';
    let words = text.split(|char| !in_option(char));
    words.filter(|word| word.len() > 2 && word.starts_with("--")).map(String::from).collect()
}

/// The options of a command as its help lists them, at the start of a line.
fn in_help(command: &str) -> BTreeSet<String> {
    let text = printed(&output(1, &[command, "--help"]));
    let too_long = text.lines().find(|line| line.len() > 80);
    assert_eq!(too_long, None);
    let lines = text.lines().filter_map(|line| line.strip_prefix("  --"));
    options(
        &lines.map(|line| format!("--{} ", line.split(' ').next().unwrap())).collect::<String>(),
    )
}

fn file(path: &str) -> String {
    fs::read_to_string(format!("{}/packaging/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_man_page_has_every_option_and_no_other() {
    let page = file("rdlm.1").replace("\\-", "-");
    let entries = |part: &str| {
        let part = page.split(&format!(".SH {part}\n")).nth(1).unwrap();
        let part = part.split("\n.SH").next().unwrap();
        options(&part.lines().filter(|line| line.starts_with(".B")).collect::<String>())
    };
    assert_eq!(entries("OPTIONS OF SERVE"), in_help("serve"));
    let client: BTreeSet<_> = COMMANDS[1..].iter().flat_map(|command| in_help(command)).collect();
    assert_eq!(entries("OPTIONS OF THE CLIENT COMMANDS"), client);
    for command in &COMMANDS[1..] {
        assert!(
            page.contains(&format!("\n.BI {command}~").replace('~', "\\~"))
                || page.contains(&format!("\n.B {command}\n"))
                || page.contains(&format!("\n.BR {command} ")),
            "{command}"
        );
    }
}

#[test]
fn the_completions_have_every_option_of_each_command() {
    let bash = file("completions/rdlm.bash");
    let by_command = bash.split("case $command in").nth(1).unwrap();
    for command in COMMANDS {
        let branch = by_command.split(&format!("\n        {command})")).nth(1).unwrap();
        let branch = branch.split(";;").next().unwrap();
        assert_eq!(options(branch), in_help(command), "{command}");
    }
    let zsh = file("completions/_rdlm");
    let all: BTreeSet<_> = COMMANDS.iter().flat_map(|command| in_help(command)).collect();
    assert_eq!(options(&zsh), all);
    for command in COMMANDS {
        assert!(zsh.contains(&format!("        '{command}:")), "{command}");
    }
}

#[test]
fn bash_completes_commands_options_and_modes() {
    let script = r#"
        . "$1"
        complete_it() { # WORD...
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _rdlm rdlm "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[*]}"
        }
        complete_it rdlm re
        complete_it rdlm run --w
        complete_it rdlm run --mode s
        complete_it rdlm delete --a"#;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/completions/rdlm.bash");
    let Ok(output) = Command::new("bash").args(["-c", script, "bash", path]).output() else {
        println!("skipped: there is no bash");
        return;
    };
    assert_eq!(printed(&output), "renew release resources\n--wait\nshared\n--all\n");
}

#[test]
fn make_installs_the_pages_and_takes_them_away() {
    let dir = TempDir::new().unwrap();
    let (built, root) = (dir.path().join("built"), dir.path().join("root"));
    fs::create_dir_all(built.join("any/release")).unwrap();
    fs::copy("/bin/true", built.join("any/release/rdlm")).unwrap();
    let make = |target: &str| {
        let done = Command::new("make")
            .args([target, "PREFIX=/usr", "TARGET=any", "CARGO=no-cargo-here"])
            .arg(format!("DESTDIR={}", root.display()))
            .env("CARGO_TARGET_DIR", &built)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        done.is_ok_and(|done| {
            assert!(done.status.success(), "{done:?}");
            true
        })
    };
    if !make("install") {
        println!("skipped: there is no make");
        return;
    }
    let files = ["man/man1/rdlm.1", "bash-completion/completions/rdlm", "zsh/site-functions/_rdlm"];
    for file in files {
        assert!(root.join("usr/share").join(file).is_file(), "{file}");
    }
    assert!(make("uninstall"));
    for file in files {
        assert!(!root.join("usr/share").join(file).exists(), "{file}");
    }
}
