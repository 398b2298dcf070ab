//! Options that the documents name.

use std::collections::HashMap;
use std::process::Command;

use super::blocks::blocks;
use super::pages;

/// The options that `rdlm COMMAND --help` lists; none if there is no such command.
fn listed(command: &str) -> Vec<String> {
    let rdlm = env!("CARGO_BIN_EXE_rdlm");
    let help = Command::new(rdlm).args([command, "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    options(&help).map(String::from).collect()
}

/// The long options in a text.
fn options(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    words.filter(|word| word.len() > 3 && word.starts_with("--"))
}

/// What follows each `rdlm` that begins a command, up to the end of that command.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("rdlm ").map(|(at, name)| (at, at + name.len()));
    let begins =
        |&(at, _): &(usize, usize)| !text[..at].ends_with(|c: char| !" \n`/(=\"".contains(c));
    starts.filter(begins).map(|(_, at)| {
        let rest = &text[at..];
        let end = rest.find(['\n', '`', '|', ';']).unwrap_or(rest.len());
        rest[..end].split(" -- ").next().unwrap()
    })
}

#[test]
fn every_option_in_the_documents_exists() {
    let mut known: HashMap<String, Vec<String>> = HashMap::new();
    let mut checked = 0;
    for (page, text) in pages() {
        let inside = blocks(&page, &text).into_iter().map(|block| block.text);
        let prose: String = text.split("```").step_by(2).collect();
        let quoted = prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " "));
        let texts = inside.chain(quoted).map(|text| text.replace("\\\n", " "));
        for text in texts {
            for command in commands(&text) {
                let name = command.split_whitespace().next().unwrap_or_default();
                let known = known.entry(name.into()).or_insert_with(|| listed(name));
                for option in options(command).filter(|_| !name.starts_with('-')) {
                    let exists = known.iter().any(|known| known == option);
                    assert!(exists, "{page}: rdlm {command}: there is no {option}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 30, "{checked}");
}
