//! Completions for shells, from the table.

use std::collections::BTreeMap;

use super::syntax::{Opt, Subcommand, Value};
use super::table::{COMMANDS, SHELLS, WITHOUT_COMMAND};

/// The completions for a shell, if there are any.
pub(super) fn of(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// The words that may follow the options.
fn operands(command: &Subcommand) -> Vec<&'static str> {
    match command.operands {
        "SHELL" => SHELLS.to_vec(),
        "[COMMAND]" => COMMANDS.map(|it| it.name).to_vec(),
        _ => Vec::new(),
    }
}

/// Whether the names of resources follow the options: those that the server knows.
fn is_about_resources(command: &Subcommand) -> bool {
    command.operands.contains("RESOURCE")
}

/// Whether a command follows after `--`.
fn runs(command: &Subcommand) -> bool {
    command.operands.contains("-- ")
}

// --- bash ---

fn bash() -> String {
    let all = || COMMANDS.iter().flat_map(|command| command.options());
    let values: BTreeMap<_, _> =
        all().filter_map(|option| Some((option.name, bash_value(option.value)?))).collect();
    let value = |(name, words)| format!("        {name}) COMPREPLY=({words}); return ;;\n");
    let words = |command: &&Subcommand| {
        let mut words: Vec<_> = command.options().map(|option| option.name).collect();
        words.extend(operands(command));
        words.extend(runs(command).then_some("--"));
        format!("        {}) words=\"{}\" ;;\n", command.name, words.join(" "))
    };
    let first = COMMANDS.iter().map(|it| it.name);
    let first: Vec<_> = first.chain(WITHOUT_COMMAND.options.iter().map(|it| it.name)).collect();
    let resources = COMMANDS.into_iter().filter(|it| is_about_resources(it)).map(|it| it.name);
    let resources: Vec<_> = resources.collect();
    include_str!("completions.bash")
        .replace("@FIRST@", &first.join(" "))
        .replace("@VALUES@\n", &values.into_iter().map(value).collect::<String>())
        .replace("@RESOURCES@", &resources.join("|"))
        .replace("@WORDS@\n", &COMMANDS.iter().map(words).collect::<String>())
}

/// How bash completes the value of an option, if it has one.
fn bash_value(value: Value) -> Option<String> {
    let generated = |how: &str| format!("$(compgen {how} -- \"$current\")");
    let words = |all: &[&str]| generated(&format!("-W \"{}\"", all.join(" ")));
    Some(match value {
        Value::Nothing => return None,
        Value::Text(_) | Value::Seconds => String::new(),
        Value::File => generated("-f"),
        Value::Directory => generated("-d"),
        Value::OneOf(_, all) => words(all),
        Value::WordOrFile(all) => format!("{} {}", words(all), generated("-f")),
    })
}

// --- zsh ---

fn zsh() -> String {
    let first = COMMANDS.map(|it| format!("        '{}:{}'\n", it.name, quotable(it.brief)));
    let command = |command: &&Subcommand| {
        let specs = command.options().map(zsh_option).chain(zsh_operand(command));
        let specs: String = specs.map(|spec| format!(" \\\n                    {spec}")).collect();
        format!("                {}) _arguments{specs} ;;\n", command.name)
    };
    let general = WITHOUT_COMMAND
        .options
        .iter()
        .map(|option| format!(" \\\n        '(- *){}[{}]'", option.name, quotable(option.brief())));
    include_str!("completions.zsh")
        .replace("@FIRST@\n", &first.concat())
        .replace(" @GENERAL@", &general.collect::<String>())
        .replace("@COMMANDS@\n", &COMMANDS.iter().map(command).collect::<String>())
}

fn zsh_option(option: &Opt) -> String {
    let repeated = if option.may_be_repeated { "*" } else { "" };
    let value = match option.value {
        Value::Nothing => String::new(),
        Value::Text(name) => format!(":{name}:"),
        Value::Seconds => ":SECONDS:".into(),
        Value::File => ":FILE:_files".into(),
        Value::Directory => ":DIR:_directories".into(),
        Value::OneOf(name, all) => format!(":{name}:({})", all.join(" ")),
        Value::WordOrFile(all) => {
            let all = all.join(" ");
            format!(":FILE:{{_alternative \"words\\:word\\:({all})\" \"files\\:file\\:_files\"}}")
        }
    };
    format!("'{repeated}{}[{}]{value}'", option.name, quotable(option.brief()))
}

fn zsh_operand(command: &Subcommand) -> Option<String> {
    let words = operands(command);
    let name = command.operands.split(' ').next().filter(|name| !name.is_empty())?;
    let how = if is_about_resources(command) { "_rdlm_resources" } else { "" };
    Some(match name.strip_suffix("...") {
        Some(name) => format!("'*:{name}:{how}'"),
        None if words.is_empty() => format!("'1:{name}:{how}'"),
        None => format!("'1:{name}:({})'", words.join(" ")),
    })
}

// --- fish ---

fn fish() -> String {
    let mut lines = String::new();
    for option in WITHOUT_COMMAND.options {
        lines += &fish_option("", option);
    }
    for command in COMMANDS {
        let (name, brief) = (command.name, quotable(command.brief));
        lines += &format!("complete -c rdlm -n '__rdlm_is \"\"' -a {name} -d '{brief}'\n");
        for option in command.options() {
            lines += &fish_option(name, option);
        }
        let words = operands(command).join(" ");
        if is_about_resources(command) {
            let names = "(rdlm __names (commandline -ct) 2>/dev/null)";
            lines += &format!("complete -c rdlm -n '__rdlm_is {name}' -a '{names}'\n");
        }
        if !words.is_empty() {
            lines += &format!("complete -c rdlm -n '__rdlm_is {name}' -a '{words}'\n");
        }
    }
    include_str!("completions.fish").replace("@LINES@\n", &lines)
}

fn fish_option(command: &str, option: &Opt) -> String {
    let value = match option.value {
        Value::Nothing => String::new(),
        Value::Text(_) | Value::Seconds => " -x".into(),
        Value::File => " -r -F".into(),
        Value::Directory => " -x -a '(__fish_complete_directories)'".into(),
        Value::OneOf(_, all) => format!(" -x -a '{}'", all.join(" ")),
        Value::WordOrFile(all) => format!(" -r -F -a '{}'", all.join(" ")),
    };
    let kind = if option.name.starts_with("--") { "-l" } else { "-s" };
    let (name, brief) = (option.name.trim_start_matches('-'), quotable(option.brief()));
    let is = if command.is_empty() { "\"\"" } else { command };
    format!("complete -c rdlm -n '__rdlm_is {is}' {kind} {name}{value} -d '{brief}'\n")
}

/// A text to put between apostrophes, without those and without what zsh interprets.
fn quotable(text: &str) -> String {
    text.replace('\'', "\u{2019}").replace('[', "(").replace(']', ")").replace(':', " -")
}
