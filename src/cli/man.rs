//! The manual page, in the markup of man(7): the table, and prose around it.

use super::help::filled;
use super::syntax::{Group, Opt, Subcommand};
use super::table::{COMMANDS, CONNECTION, CREDENTIALS, EXIT_CODES};
use crate::RELEASED;

/// The width of source lines; man(1) fills them again.
const WIDTH: usize = 76;

const PROSE: &str = include_str!("man.roff");

/// `rdlm.1`
pub(super) fn page() -> String {
    let synopsis = COMMANDS.map(|it| format!("{}\n", signature(&format!("rdlm {}", it.usage()))));
    let codes = EXIT_CODES.map(|(code, what)| format!(".TP\n.B {code}\n{}", sentences(what, "")));
    let parts = [
        ("@DATE@", RELEASED.into()),
        ("@VERSION@", env!("CARGO_PKG_VERSION").into()),
        ("@SYNOPSIS@\n", synopsis.concat()),
        ("@COMMANDS@\n", COMMANDS.map(command).concat()),
        ("@CONNECTION@\n", options(&CONNECTION, "")),
        ("@CREDENTIALS@\n", sentences(CREDENTIALS, "")),
        ("@CODES@\n", codes.concat()),
    ];
    parts.iter().fold(PROSE.into(), |page: String, (mark, part)| page.replace(mark, part))
}

fn command(command: &'static Subcommand) -> String {
    let usage = command.usage();
    let mut text = format!(".SS {}\n{}", signature(&usage), paragraphs(command.about, &usage));
    for group in command.groups.iter().filter(|it| !it.title.is_empty() && **it != &CONNECTION) {
        if group.title != "Options" {
            text += &format!(".PP\n.I {}\n", group.title);
        }
        text += &options(group, &usage);
    }
    if !command.notes.is_empty() {
        text += &format!(".PP\n{}", paragraphs(command.notes, &usage));
    }
    if !command.examples.is_empty() {
        let lines = command.examples.iter().map(|line| format!("{}\n", escaped(line)));
        text += &format!(".PP\n.in +4n\n.EX\n{}.EE\n.in\n", lines.collect::<String>());
    }
    text
}

fn options(group: &Group, usage: &str) -> String {
    let option = |option: &Opt| {
        let names = format!("{usage} {}", option.usage());
        let repeated = if option.may_be_repeated { "; may be repeated" } else { "" };
        let mut text = format!("{}{repeated}.", option.text);
        if let Some(unset) = option.unset.shown() {
            text += &format!(" Default: {unset}.");
        }
        if let Some(variable) = group.variable(option) {
            text += &format!(" Environment: {variable}.");
        }
        format!(".TP\n{}\n{}", signature(&option.usage()), sentences(&text, &names))
    };
    group.options.iter().map(option).collect()
}

fn paragraphs(text: &str, usage: &str) -> String {
    let paragraphs: Vec<_> = text.split("\n\n").map(|text| sentences(text, usage)).collect();
    paragraphs.join(".PP\n")
}

/// Each sentence on a line of its own, or several, as man(7) recommends. Placeholders of the usage,
/// which are in capitals, are in italics.
fn sentences(text: &str, usage: &str) -> String {
    let places: Vec<_> = usage.split(|c: char| !c.is_ascii_uppercase()).collect();
    let mut lines = String::new();
    for sentence in text.split_inclusive(". ") {
        let words: Vec<_> = sentence.split_whitespace().map(|it| styled(it, &places)).collect();
        for line in filled(&capitalised(&words.join(" ")), WIDTH) {
            let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
            lines += &format!("{guard}{line}\n");
        }
    }
    lines
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn styled(word: &str, places: &[&str]) -> String {
    let is_edge = |c: char| "(),.:;".contains(c);
    let core = word.trim_matches(is_edge);
    let font = match core {
        "" => return escaped(word),
        _ if core.starts_with('-') || core.starts_with("RDLM_") => 'B',
        _ if places.contains(&core) => 'I',
        _ => return escaped(word),
    };
    let before = &word[..word.len() - word.trim_start_matches(is_edge).len()];
    let after = &word[before.len() + core.len()..];
    format!("{before}\\f{font}{}\\fR{after}", escaped(core))
}

/// A synopsis: placeholders in italics, what is typed in bold.
fn signature(usage: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphabetic() || c == '-';
    let mut text = String::new();
    for part in usage.split_inclusive(|c| !is_word(c)) {
        let word = part.trim_end_matches(|c| !is_word(c));
        let font = if word.chars().all(|c| c.is_ascii_uppercase()) { 'I' } else { 'B' };
        if !word.is_empty() {
            text += &format!("\\f{font}{}\\fR", escaped(word));
        }
        text += &part[word.len()..];
    }
    text
}

/// Escapes what roff interprets, or shows other than typed.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga")
}
