//! The manual page and the completions, which are made from the table that `--help` shows.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{complaint, output, printed};

use crate::harness::Server;
use crate::needed;

fn text_of(args: &[&str]) -> String {
    printed(&output(1, args))
}

/// The first words of the lines of a help text that are entries of a list.
fn entries(help: &str) -> impl Iterator<Item = &str> {
    let entries = help.lines().filter_map(|line| line.strip_prefix("  "));
    entries.filter_map(|line| line.split(' ').next()).filter(|word| !word.is_empty())
}

fn commands() -> Vec<String> {
    let help = text_of(&["--help"]);
    let listed = help.split("\nTry it:").next().unwrap();
    let commands = entries(listed).filter(|word| !word.starts_with('-')).map(String::from);
    let commands: Vec<_> = commands.collect();
    assert!(commands.len() > 15 && commands[0] == "serve", "{commands:?}");
    commands
}

fn options(command: &str) -> BTreeSet<String> {
    let help = text_of(&[command, "--help"]);
    entries(&help).filter(|word| word.starts_with("--")).map(String::from).collect()
}

/// Runs a script of a shell that has read its completions; `None` without the shell.
fn completed(shell: &str, script: &str) -> Option<String> {
    completed_with(1, shell, script)
}

/// The same with a server on this port.
fn completed_with(port: u16, shell: &str, script: &str) -> Option<String> {
    if !needed::are_installed(&[shell]) {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("completions");
    fs::write(&file, text_of(&["completions", shell])).unwrap();
    let mut command = Command::new(shell);
    let command = command.args(["-c", &script.replace("COMPLETIONS", file.to_str().unwrap())]);
    let program = Path::new(env!("CARGO_BIN_EXE_rdlm")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("RDLM_URL", format!("http://127.0.0.1:{port}"));
    let output = command.env("HOME", dir.path()).stdin(Stdio::null()).output().unwrap();
    Some(printed(&output))
}

#[test]
fn no_line_of_help_is_longer_than_a_terminal() {
    for command in commands().iter().map(String::as_str).chain(["help"]) {
        let text = text_of(&["help", command]);
        let too_long = text.lines().find(|line| line.len() > 80);
        assert_eq!(too_long, None, "{command}");
        assert!(text.contains(&format!("\nUsage: rdlm {command}")), "{text}");
        assert_eq!(text_of(&[command, "--help"]), text);
    }
}

#[test]
fn the_manual_page_has_every_option_of_each_command() {
    let page = text_of(&["man"]);
    let (_, commands_part) = page.split_once("\n.SH COMMANDS\n").unwrap();
    let (commands_part, connection) = commands_part.split_once("\n.SH CONNECTION\n").unwrap();
    let connection = in_page(connection);
    assert!(connection.contains("--url"));
    let sections: Vec<_> = commands_part.split(".SS ").skip(1).collect();
    let commands = commands();
    assert_eq!(sections.len(), commands.len());
    for (section, command) in sections.iter().zip(commands) {
        assert!(section.starts_with(&format!("\\fB{}\\fR", command.replace('-', "\\-"))));
        let mut expected = options(&command);
        if !connection.is_disjoint(&expected) {
            assert!(connection.is_subset(&expected), "{command}");
            expected.retain(|option| !connection.contains(option));
        }
        // The description has these, for all commands.
        expected.retain(|option| !["--help", "--version"].contains(&&**option));
        assert_eq!(in_page(section), expected, "{command}");
    }
}

/// The options that a part of the page explains.
fn in_page(part: &str) -> BTreeSet<String> {
    let entries = part.split(".TP\n\\fB\\-\\-").skip(1);
    entries.map(|it| format!("--{}", it.split("\\fR").next().unwrap().replace('\\', ""))).collect()
}

#[test]
fn the_manual_page_is_clean() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rdlm.1");
    fs::write(&file, text_of(&["man"])).unwrap();
    let file = file.to_str().unwrap();
    for (tool, args) in
        [("mandoc", ["-T", "lint", file].as_slice()), ("groff", &["-man", "-ww", "-z", file])]
    {
        if needed::are_installed(&[tool]) {
            let output = Command::new(tool).args(args).output().unwrap();
            let found = [output.stdout, output.stderr].concat();
            assert_eq!(String::from_utf8_lossy(&found), "", "{tool}");
        }
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    let script = r#"
        . COMPLETIONS
        complete_it() { # WORD...
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _rdlm rdlm "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[*]}"
        }
        complete_it rdlm re
        complete_it rdlm run --w
        complete_it rdlm run --mode s
        complete_it rdlm run --wait s
        complete_it rdlm delete --a
        complete_it rdlm completions z
        complete_it rdlm run foo -- rdlm-no-such
        for command in @COMMANDS@; do complete_it rdlm $command --; done"#;
    let commands = commands();
    let script = script.replace("@COMMANDS@", &commands.join(" "));
    let Some(text) = completed("bash", &script) else { return };
    let mut lines = text.lines();
    for expected in ["renew release resources", "--wait", "shared", "", "--all", "zsh", ""] {
        assert_eq!(lines.next(), Some(expected), "{text}");
    }
    for command in commands {
        let words = lines.next().unwrap().split(' ').filter(|word| *word != "--");
        assert_eq!(words.map(String::from).collect::<BTreeSet<_>>(), options(&command));
    }
}

#[test]
fn fish_completes_commands_options_and_values() {
    let script = r#"
        source COMPLETIONS
        for line in 'rdlm re' 'rdlm run --w' 'rdlm run --mode s' 'rdlm delete --a' \
                'rdlm completions z' 'rdlm run foo -- rdlm-no-such'
            echo (complete -C $line | string replace -r '\t.*' '')
        end
        for command in @COMMANDS@
            echo (complete -C "rdlm $command --" | string replace -r '\t.*' '')
        end"#;
    let commands = commands();
    let script = script.replace("@COMMANDS@", &commands.join(" "));
    let Some(text) = completed("fish", &script) else { return };
    let mut lines = text.lines();
    for expected in ["release renew resources", "--wait", "shared", "--all", "zsh", ""] {
        assert_eq!(lines.next(), Some(expected), "{text}");
    }
    for command in commands {
        let words = lines.next().unwrap().split(' ').map(String::from);
        assert_eq!(words.collect::<BTreeSet<_>>(), options(&command));
    }
}

#[test]
fn shells_complete_the_names_of_resources_that_the_server_has() {
    let server = Server::start();
    for name in ["db-main", "db-replica", "web", "db-~x"] {
        server.hold(name);
    }
    let bash = r#"
        . COMPLETIONS
        COMP_WORDS=(rdlm locks db); COMP_CWORD=2; _rdlm rdlm db locks; echo "${COMPREPLY[*]}"
        COMP_WORDS=(rdlm run ""); COMP_CWORD=2; _rdlm rdlm "" run; echo "${COMPREPLY[*]: -3}""#;
    let fish = r#"
        source COMPLETIONS
        echo (complete -C 'rdlm locks db' | string replace -r '\t.*' '')
        echo (complete -C 'rdlm run ' | string replace -r '\t.*' '')"#;
    let zsh = r#"
        compdef() { }; compadd() { print -- ${@:2} }
        . COMPLETIONS
        PREFIX=db; _rdlm_resources; PREFIX=; _rdlm_resources"#;
    for (shell, script) in [("bash", bash), ("fish", fish), ("zsh", zsh)] {
        let Some(text) = completed_with(server.port(), shell, script) else { continue };
        assert_eq!(text, "db-main db-replica\ndb-main db-replica web\n", "{shell}");
    }
}

/// What zsh is told; that it makes completions of it can be seen in a terminal alone.
#[test]
fn zsh_is_told_the_options_of_each_command() {
    let script = r#"
        compdef() { }
        . COMPLETIONS
        _arguments() {
            if [[ $1 == -C ]]; then state=argument; else print -l -- "${(@)@%%\[*}"; fi
        }
        for command in @COMMANDS@; do
            words=($command); CURRENT=1; _rdlm | tr '\n' ' '; print
        done"#;
    let commands = commands();
    let script = script.replace("@COMMANDS@", &commands.join(" "));
    let Some(text) = completed("zsh", &script) else { return };
    for (line, command) in text.lines().zip(&commands) {
        let words = line.split(' ').map(|word| word.trim_start_matches('*'));
        let words = words.filter(|word| word.starts_with("--")).map(String::from);
        assert_eq!(words.collect::<BTreeSet<_>>(), options(command), "{line}");
    }
    assert_eq!(text.lines().count(), commands.len());
}

#[test]
fn there_are_no_completions_for_other_shells() {
    let error = complaint(&output(1, &["completions", "tcsh"]), 64);
    assert!(error.contains("\"tcsh\": expected bash, zsh or fish"), "{error}");
}

#[test]
fn make_installs_the_pages_and_takes_them_away() {
    if !needed::are_installed(&["make"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let (built, root) = (dir.path().join("built"), dir.path().join("root"));
    fs::create_dir_all(built.join("any/release")).unwrap();
    symlink(env!("CARGO_BIN_EXE_rdlm"), built.join("any/release/rdlm")).unwrap();
    let make = |target: &str| {
        let done = Command::new("make")
            .args([target, "PREFIX=/usr", "TARGET=any", "CARGO=no-cargo-here"])
            .arg(format!("DESTDIR={}", root.display()))
            .env("CARGO_TARGET_DIR", &built)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    make("install");
    let pages = [
        ("man/man1/rdlm.1", &["man"][..]),
        ("bash-completion/completions/rdlm", &["completions", "bash"]),
        ("zsh/site-functions/_rdlm", &["completions", "zsh"]),
        ("fish/vendor_completions.d/rdlm.fish", &["completions", "fish"]),
    ];
    let installed = |file: &str| root.join("usr/share").join(file);
    for (file, args) in pages {
        assert_eq!(fs::read_to_string(installed(file)).unwrap(), text_of(args), "{file}");
    }
    let page_of_daemon = root.join("usr/share/man/man1/rdlm-daemon.1");
    assert_eq!(fs::read_to_string(&page_of_daemon).unwrap(), text_of(&["man"]));
    make("uninstall");
    for path in pages
        .map(|(file, _)| installed(file))
        .into_iter()
        .chain([root.join("usr/bin/rdlm"), page_of_daemon])
    {
        assert!(!Path::exists(&path), "{}", path.display());
    }
}
