//! The Python client keeps its promises with this server: the tests that it brings along.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A file of tests that takes longer hangs; with its servers, it is ended. In seconds.
const PATIENCE: &str = "120";

/// A Python that the client supports, if there is one.
pub(crate) fn recent() -> Option<&'static str> {
    let check = ["-c", "import sys; sys.exit(sys.version_info < (3, 9))"];
    let status = Command::new("python3").args(check).status();
    status.is_ok_and(|status| status.success()).then_some("python3")
}

#[test]
fn the_python_client_has_the_version_of_the_server() {
    let module = include_str!("../clients/python/rdlm_client/__init__.py");
    assert!(module.contains(concat!("__version__ = \"", env!("CARGO_PKG_VERSION"), "\"\n")));
}

#[test]
fn the_python_client_keeps_its_promises() {
    let Some(python) = recent() else {
        println!("skipped: there is no python3, of version 3.9 or newer");
        return;
    };
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
