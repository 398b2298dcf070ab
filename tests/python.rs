//! The Python client keeps its promises with this server: the tests that it brings along.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::needed;

/// A file of tests that takes longer hangs; with its servers, it is ended. In seconds.
const PATIENCE: &str = "120";

/// A Python that the client supports. Without one, the test is skipped, or fails.
pub(crate) fn recent() -> Option<&'static str> {
    if !needed::are_installed(&["python3"]) {
        return None;
    }
    let is_recent = succeeds("import sys; sys.exit(sys.version_info < (3, 9))");
    if !is_recent {
        needed::cannot_run("python3 is older than 3.9");
    }
    is_recent.then_some("python3")
}

/// The same with what reads YAML.
pub(crate) fn with_yaml() -> Option<&'static str> {
    let python = recent()?;
    let knows_yaml = succeeds("import yaml");
    if !knows_yaml {
        needed::cannot_run("python3 knows no YAML: apt-get install python3-yaml");
    }
    knows_yaml.then_some(python)
}

fn succeeds(script: &str) -> bool {
    let run = Command::new("python3").args(["-c", script]).output();
    run.is_ok_and(|run| run.status.success())
}

#[test]
fn the_python_client_has_the_version_of_the_server() {
    let module = include_str!("../clients/python/rdlm_client/__init__.py");
    assert!(module.contains(concat!("__version__ = \"", env!("CARGO_PKG_VERSION"), "\"\n")));
}

#[test]
fn the_python_client_keeps_its_promises() {
    let Some(python) = recent() else { return };
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python");
    let files = fs::read_dir(client.join("tests")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.starts_with("test_")).collect();
    assert!(!names.is_empty());
    // All at once: most of the time they wait.
    let run = |name: String| {
        let child = Command::new("timeout")
            .args([
                PATIENCE, python, "-m", "unittest", "discover", "-v", "-s", "tests", "-p", &name,
            ])
            .current_dir(&client)
            .env("RDLM_BINARY", env!("CARGO_BIN_EXE_rdlm"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        (name, child.unwrap())
    };
    let running: Vec<_> = names.into_iter().map(run).collect();
    // None of them outlives this test, also if one fails.
    let end = |(name, child): (String, Child)| (name, child.wait_with_output().unwrap());
    let ended: Vec<_> = running.into_iter().map(end).collect();
    for (name, output) in ended {
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}:\n{report}");
        assert!(report.contains("\nOK") && !report.contains("Ran 0 tests"), "{name}:\n{report}");
    }
}
