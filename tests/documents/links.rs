//! Links between the documents.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::{ROOT, pages};

/// The links of a page: what is in the parentheses behind brackets.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap())
}

/// The anchors of a page, as GitHub makes them of headings.
fn anchors(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        inside ^= line.starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !inside) else { continue };
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        found.push(words.chars().filter(|&c| c.is_alphanumeric() || "-_".contains(c)).collect());
    }
    found
}

/// `docs/../README.md` is `README.md`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(normal.pop(), "{} leaves the project", path.display()),
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages: HashMap<PathBuf, String> =
        pages().into_iter().map(|(page, text)| (page.into(), text)).collect();
    let mut checked = 0;
    for (page, text) in &pages {
        for link in links(text).filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => normal(&page.parent().unwrap().join(file)),
            };
            let from = page.display();
            assert!(Path::new(ROOT).join(&target).exists(), "{from}: {link} leads nowhere");
            let found = || anchors(&pages[&target]).iter().any(|heading| heading == anchor);
            assert!(anchor.is_empty() || found(), "{from}: {link}: there is no such heading");
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}
