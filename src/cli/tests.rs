use std::ffi::OsString;

use super::syntax::Value;
use super::table::COMMANDS;
use super::{Command, UsageError, parse};

fn parsed(words: &[&str]) -> Result<Command, UsageError> {
    parse(["rdlm"].iter().chain(words).map(OsString::from))
}

/// The parser looks options up by name: one that is not in the table fails for any arguments, and one
/// that only the table has is left over.
#[test]
fn the_parser_takes_every_option_of_the_table() {
    for command in COMMANDS {
        for option in command.options().filter(|it| !["--help", "--version"].contains(&it.name)) {
            let error = parsed(&[command.name, option.name]).err().map(|error| error.to_string());
            let error = error.unwrap_or_default();
            if option.value == Value::Nothing {
                assert!(!error.contains("unexpected"), "{}: {error}", command.name);
            } else {
                assert_eq!(error, format!("{} needs a value", option.name), "{}", command.name);
            }
        }
    }
}

#[test]
fn every_command_of_the_table_can_be_given() {
    for command in COMMANDS {
        let what = match parsed(&[command.name]) {
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        assert!(what.contains("missing"), "{}: {what}", command.name);
        assert!(!command.operands.is_empty(), "{}: {what}", command.name);
    }
}

#[test]
fn the_server_starts_without_an_option() {
    assert!(matches!(parsed(&["serve"]), Ok(Command::Serve { .. })));
}

/// Shells show them beside names of up to 26 characters, and do not break lines.
#[test]
fn what_completions_show_is_short() {
    for option in COMMANDS.iter().flat_map(|command| command.options()) {
        assert!(option.brief().len() <= 76, "{}: {}", option.name, option.brief());
    }
}
