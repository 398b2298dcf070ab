//! The recipes do what they say, pasted as they stand.

use std::fs;
use std::process::Command;

use crate::harness::{Server, TempDir};

/// The blocks of one language in a part of the page.
fn blocks<'a>(part: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    part.split(&*begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_recipe_prints_what_the_page_says_and_leaves_nothing_behind() {
    for tool in ["bash", "curl", "sqlite3"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("skipped: there is no {tool}");
            return;
        }
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md");
    let page = fs::read_to_string(page).unwrap();
    let mut parts = page.split("\n## ");
    let function = blocks(parts.next().unwrap(), "sh").concat();
    let server = Server::start();
    let recipes: Vec<_> = parts.collect();
    assert_eq!(recipes.len(), 6);
    for recipe in recipes {
        let name = recipe.lines().next().unwrap();
        let dir = TempDir::new();
        let script = function.clone() + &blocks(recipe, "sh").concat();
        let run = Command::new("bash")
            .args(["-c", &script])
            .current_dir(dir.path())
            .env("RDLM", format!("http://127.0.0.1:{}", server.port()))
            .output()
            .unwrap();
        let printed = String::from_utf8(run.stdout).unwrap();
        let errors = String::from_utf8(run.stderr).unwrap();
        assert_eq!(printed, blocks(recipe, "text").concat(), "{name}: {errors}");
        assert_eq!((run.status.code(), errors.as_str()), (Some(0), ""), "{name}");
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
        assert!(files.is_empty(), "{name}: {files:?}");
        let resources = server.get("/resources").json();
        assert_eq!(resources["_embedded"]["resources"].to_string(), "[]", "{name}");
    }
}
