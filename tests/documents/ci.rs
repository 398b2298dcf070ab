//! Snippets for CI systems and Kubernetes: valid by their schemas, and what they install is checked.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::tools::block;
use crate::needed;
use crate::packaged_tls::parsed;

const PAGE: &str = "docs/integrations.md";

/// How each snippet begins, and what knows its schema.
const SNIPPETS: [(&str, &[&str]); 3] = [
    ("name: deploy", &["check-jsonschema", "--builtin-schema", "vendor.github-workflows"]),
    ("deploy:", &["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci"]),
    ("apiVersion: batch/v1", &["kubernetes-validate", "--strict"]),
];

#[test]
fn the_snippets_are_valid_by_their_schemas() {
    if !needed::are_installed(&["check-jsonschema", "kubernetes-validate"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("snippet.yaml");
    let check = |text: &str, command: &[&str]| {
        fs::write(&file, text).unwrap();
        Command::new(command[0]).args(&command[1..]).arg(&file).output().unwrap()
    };
    for (begins, command) in SNIPPETS {
        let text = block(PAGE, begins);
        let output = check(&text, command);
        assert!(output.status.success(), "{begins}: {output:?}");
        // The schema is one that finds mistakes.
        for (right, wrong) in [("steps:", "step:"), ("  script:", "  scirpt:"), ("backoff", "back")]
        {
            if text.contains(right) {
                let output = check(&text.replace(right, wrong), command);
                assert!(!output.status.success(), "{wrong} is taken: {output:?}");
            }
        }
    }
}

/// The lines of a snippet that install rdlm.
fn installation(begins: &str, snippet: &Value) -> String {
    match begins {
        "name: deploy" => snippet["jobs"]["deploy"]["steps"][1]["run"].as_str().unwrap().into(),
        "deploy:" => {
            let lines = snippet["deploy"]["before_script"].as_array().unwrap();
            lines.iter().map(|line| line.as_str().unwrap().to_string() + "\n").collect()
        }
        _ => {
            let pod = &snippet["spec"]["jobTemplate"]["spec"]["template"]["spec"];
            pod["initContainers"][0]["args"][0].as_str().unwrap().into()
        }
    }
}

/// Runs it where the archive is in a directory in place of a server.
fn install(script: &str, files: &Path, checksum: &str) -> (TempDir, Output) {
    let dir = TempDir::new().unwrap();
    let script =
        script.replace("https://files.example.com", &format!("file://{}", files.display()));
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(dir.path());
    let output = shell.env("RDLM_NAME", "rdlm-any").env("RDLM_SHA256", checksum).output().unwrap();
    (dir, output)
}

#[test]
fn the_snippets_install_what_has_the_checksum_and_nothing_else() {
    if !needed::are_installed(&["curl"]) {
        return;
    }
    let files = TempDir::new().unwrap();
    let inside = files.path().join("rdlm-any");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("rdlm"), "the program").unwrap();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(files.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run("tar", &["-czf", "rdlm-any.tar.gz", "rdlm-any"]);
    let sum = run("sha256sum", &["rdlm-any.tar.gz"]);
    let sum = sum.split_whitespace().next().unwrap();
    for (begins, _) in SNIPPETS {
        let Some(documents) = parsed(&block(PAGE, begins)) else { return };
        let script = installation(begins, &documents[0]);
        let (dir, output) = install(&script, files.path(), sum);
        assert!(output.status.success(), "{begins}: {output:?}");
        let places = ["rdlm", "rdlm-any/rdlm"].map(|name| dir.path().join(name));
        assert!(places.iter().any(|place| place.is_file()), "{begins}: it is not there");

        let (dir, output) = install(&script, files.path(), &"0".repeat(64));
        assert!(!output.status.success(), "{begins}: another archive is taken");
        assert!(!dir.path().join("rdlm-any").exists(), "{begins}");
    }
}
