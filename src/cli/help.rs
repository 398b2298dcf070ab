//! `--help`: the table, in lines of at most 80 columns.

use super::syntax::{Group, Opt, Subcommand};
use super::table::{COMMANDS, CONNECTION, CREDENTIALS, EXIT_CODES, WITHOUT_COMMAND};

const WIDTH: usize = 80;

/// After a longer left column, the right one begins on the next line.
const LONGEST_LEFT: usize = 26;

const ABOUT: &str = "rdlm, a lock manager over HTTP";

const SERVER: &str = "Commands talk to the server of --url or RDLM_URL, by default \
                      http://localhost:8888.";

const EXAMPLES: [&str; 2] = ["rdlm serve &", "rdlm run demo -- sleep 5"];

/// The help text of rdlm itself: its commands.
pub(super) fn all() -> String {
    let mut text = format!("{ABOUT}\n\nUsage: rdlm COMMAND [OPTIONS]\n");
    let indent = indent(COMMANDS.iter().map(|command| command.synopsis()));
    for commands in COMMANDS.chunk_by(|one, next| one.section == next.section) {
        text += &format!("\n{}:\n", commands[0].section);
        let rows = commands.iter().map(|command| row(&command.synopsis(), command.brief, indent));
        text.extend(rows);
    }
    text += &group(&WITHOUT_COMMAND, indent);
    text += &format!("\n{}", paragraphs(&format!("{SERVER} {CREDENTIALS}")));
    text + &examples(&EXAMPLES)
}

/// The help text of a command.
pub(super) fn of(command: &Subcommand) -> String {
    let mut text = paragraphs(command.about);
    text += &format!("\nUsage: rdlm {}\n", command.usage());
    let indent = indent(command.options().map(Opt::usage));
    for part in command.groups {
        text += &group(part, indent);
    }
    if !command.notes.is_empty() {
        text += &format!("\n{}", paragraphs(command.notes));
    }
    if command.has(&CONNECTION) {
        text += &format!("\n{}", paragraphs(CREDENTIALS));
    }
    if command.name == "run" {
        text += "\nExit codes, beside those of CMD:\n";
        text.extend(EXIT_CODES.iter().map(|(code, what)| row(code, what, 7)));
    }
    text + &examples(command.examples)
}

/// Such as `one, another or a third`.
pub(super) fn any_of(words: &[&str]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        _ => words.concat(),
    }
}

impl Subcommand {
    /// Such as `run RESOURCE`.
    fn synopsis(&self) -> String {
        format!("{} {}", self.name, self.operands).trim_end().into()
    }

    /// The same with `[OPTIONS]`.
    pub(super) fn usage(&self) -> String {
        let has_options = self.options().count() > 1;
        let options = if has_options { " [OPTIONS]" } else { "" };
        format!("{}{options} {}", self.name, self.operands).trim_end().into()
    }
}

fn group(group: &Group, indent: usize) -> String {
    let rows = group.options.iter().map(|option| row(&option.usage(), &explained(option), indent));
    let heading = if group.title.is_empty() { "" } else { &format!("{}:\n", group.title) };
    format!("\n{heading}{}", rows.collect::<String>())
}

fn explained(option: &Opt) -> String {
    let repeated = if option.may_be_repeated { "; may be repeated" } else { "" };
    let unset = option.unset.shown().map(|unset| format!(" [{unset}]")).unwrap_or_default();
    format!("{}{repeated}{unset}", option.text)
}

fn examples(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    if lines.is_empty() { lines } else { format!("\nTry it:\n{lines}") }
}

/// Where the right column begins.
fn indent(left: impl Iterator<Item = String>) -> usize {
    let widths = left.map(|text| text.len()).filter(|width| *width <= LONGEST_LEFT);
    widths.max().unwrap_or(LONGEST_LEFT) + 4
}

fn row(left: &str, right: &str, indent: usize) -> String {
    let left = format!("  {left}  ");
    let lines = filled(right, WIDTH - indent).join(&format!("\n{:indent$}", ""));
    if left.len() <= indent {
        format!("{left:indent$}{lines}\n")
    } else {
        format!("{}\n{:indent$}{lines}\n", left.trim_end(), "")
    }
}

fn paragraphs(text: &str) -> String {
    let paragraph = |text: &str| filled(text, WIDTH).join("\n") + "\n";
    text.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n")
}

/// The words of a text in lines of at most this width.
pub(super) fn filled(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
