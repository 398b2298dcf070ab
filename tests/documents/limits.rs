//! Each limit has a test, and the document names it.

use std::fs;
use std::path::Path;

use super::ROOT;

/// The text of all files of Rust below a directory.
fn sources(directory: &Path) -> String {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(kind) if kind == "rs" => fs::read_to_string(path).unwrap(),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn the_tests_that_the_limits_name_are_there() {
    let rooms = ["src", "crates", "clients/rust", "tests"];
    let sources = rooms.map(|room| sources(&Path::new(ROOT).join(room))).concat();
    let document = fs::read_to_string(Path::new(ROOT).join("docs/limits.md")).unwrap();
    let tables = document.split("| test |\n").skip(1);
    let rows: Vec<_> = tables.flat_map(|table| table.lines().skip(1)).collect();
    let rows = rows.iter().filter(|row| row.starts_with("| ") && row.matches('|').count() == 6);
    let mut named = 0;
    for row in rows {
        let last = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        for name in last.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {name}()")), "there is no test {name}: {row}");
            named += 1;
        }
        assert!(last == "–" || last.contains('`'), "it names no test: {row}");
    }
    assert!(named > 35, "{named}");
}
