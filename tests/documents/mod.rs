//! The documents: what they paste is run, their links lead somewhere, their options exist.

mod blocks;
mod ci;
mod limits;
mod links;
mod openapi;
mod options;
mod queries;
mod shell;
mod tools;

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::Server;
use crate::python;
use blocks::{Block, Way, blocks, way};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The documents, by their paths from the root, with their text.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let names = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<_> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    let others = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "clients/python/README.md"];
    pages.extend(others.map(String::from));
    pages.sort();
    let read = |page: String| {
        let text = fs::read_to_string(Path::new(ROOT).join(&page)).unwrap();
        (page, text)
    };
    pages.into_iter().map(read).collect()
}

/// The blocks of a page that are run here, in one language or several.
fn to_run(page: &str, text: &str, languages: &[&str]) -> Vec<Block> {
    let mut found = blocks(page, text);
    found.retain(|block| languages.contains(&&*block.language) && matches!(way(block), Way::Run));
    found
}

#[test]
fn every_block_is_run_or_says_why_it_is_not() {
    let all: Vec<_> = pages().iter().flat_map(|(page, text)| blocks(page, text)).collect();
    for block in &all {
        if let Way::Missing = way(block) {
            panic!("{block}: run it, or say in tests/documents/blocks.rs why it cannot be run");
        }
    }
    for exception in &blocks::EXCEPTIONS {
        let found = all.iter().filter(|block| exception.is_about(block)).count();
        assert_eq!(found, 1, "blocks that begin with {:?} in {}", exception.begins, exception.page);
        match exception.way {
            Way::Test(file) => {
                let test = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
                assert!(test.contains(exception.page), "{file} does not read {}", exception.page);
            }
            Way::Cannot(why) => {
                println!("not run: {}, {:?}: {why}", exception.page, exception.begins)
            }
            Way::Run | Way::Missing => unreachable!(),
        }
    }
    for (line, why) in blocks::LINES {
        let left_out = |block: &Block| block.text.lines().any(|text| text.starts_with(line));
        assert!(all.iter().any(left_out), "no block has {line:?}, left out because: {why}");
    }
}

/// The C is in dependencies, and rustc links by that compiler.
#[test]
fn pages_that_name_what_a_build_needs_name_a_c_compiler() {
    let lock = fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"cc\"\n"));
    let needs: Vec<_> =
        pages().into_iter().filter(|(_, text)| text.contains("You need Rust")).collect();
    assert!(needs.len() >= 2);
    for (page, text) in needs {
        assert!(text.contains("a C compiler"), "{page}");
    }
}

#[test]
fn what_is_pasted_into_python_works() {
    let Some(python) = python::recent() else { return };
    let server = Server::start();
    let url = format!("http://localhost:{}", server.port());
    let mut run = 0;
    for (page, text) in pages() {
        for block in to_run(&page, &text, &["python"]) {
            let script = block.text.replace("http://locks:8888", &url);
            let dir = TempDir::new().unwrap();
            let output = Command::new(python)
                .args(["-c", include_str!("pasted.py"), &script])
                .current_dir(dir.path())
                .env("PYTHONPATH", Path::new(ROOT).join("clients/python"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{block}: {errors}");
            assert!(printed.starts_with("worked under "), "{block}: {printed}");
            run += 1;
        }
    }
    assert_ne!(run, 0);
    assert_eq!(server.get("/status").json()["totals"]["active"], 0);
}

#[test]
fn the_file_of_users_of_the_document_is_taken() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/security.md")).unwrap();
    let mut file = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap().to_string();
    let dir = TempDir::new().unwrap();
    for (command, left_out) in [("hash-password", "$2y$10$…"), ("hash-token", "sha256:9f86d0…")]
    {
        fs::write(dir.path().join("secret"), format!("a {command}")).unwrap();
        let mut hash = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        let secret = fs::File::open(dir.path().join("secret")).unwrap();
        let hash = hash.arg(command).stdin(secret).output().unwrap();
        assert!(file.contains(left_out));
        file = file.replace(left_out, str::from_utf8(&hash.stdout).unwrap().trim());
    }
    let path = dir.path().join("users.toml");
    fs::write(&path, file).unwrap();
    let server = Server::start_with(&["--users", path.to_str().unwrap()]);
    let token = "Host: localhost\r\nAuthorization: Bearer a hash-token";
    let mut client = server.connect();
    client.send_with_headers("GET", "/resources", token, "");
    assert_eq!(client.response().status, 200);
    assert_eq!(server.get("/resources").status, 401);
    assert_eq!(server.acquire("ci-1", 0.0, 1.0).status, 201);
}
