//! The recipe for GitHub Actions, with the test as the runner.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Running, is_alive};
use crate::harness::{Server, wait_until};
use crate::needed;

/// The command of the step, as the document has it.
fn step() -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/integrations.md");
    let text = fs::read_to_string(document).unwrap();
    let steps = text.lines().find_map(|line| line.trim().strip_prefix("- run: "));
    steps.unwrap().to_string()
}

/// The step as the runner starts it, with a deployment of its own.
fn start(server: &Server, directory: &Path, deploy: &str) -> Running {
    let script = directory.join("deploy.sh");
    fs::write(&script, format!("#!/bin/sh\n{deploy}\n")).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(directory.join("step.sh"), step()).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_rdlm")).parent().unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-e", "step.sh"]).current_dir(directory).env("RDLM_NAME", programs);
    shell.env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()));
    Running::start(&mut shell)
}

/// The runner sends SIGINT, then SIGTERM, each to the process that it started and to no other.
/// (SIGKILL for all that are left would come 10 s after the first: nothing waits for that here.)
#[test]
fn a_cancelled_job_ends_its_deployment_and_releases_the_lock() {
    if !needed::are_installed(&["bash"]) {
        return;
    }
    let server = Server::start();
    let directory = TempDir::new().unwrap();
    let on = |signal| format!("trap 'echo rolled back; exit 1' {signal}");
    let wait = "echo $$; sleep 100 & wait; wait";
    for deploy in [format!("{}; {wait}", on("INT")), format!("trap '' INT; {}; {wait}", on("TERM"))]
    {
        let mut job = start(&server, directory.path(), &deploy);
        let deployment = job.line();
        job.signal("-INT");
        if deploy.contains("TERM") {
            job.signal("-TERM");
        }
        assert_eq!(job.line(), "rolled back");
        assert_eq!(job.wait(), Some(1));
        assert!(!is_alive(&deployment));
        assert_eq!(server.locks("deploy-prod").len(), 0);
    }
}

#[test]
fn a_cancelled_job_that_waits_leaves_the_line() {
    if !needed::are_installed(&["bash"]) {
        return;
    }
    let server = Server::start();
    server.hold("deploy-prod");
    let directory = TempDir::new().unwrap();
    let mut job = start(&server, directory.path(), "echo deployed");
    wait_until("it waits", || server.locks("deploy-prod").len() == 2);
    job.signal("-INT");
    assert_eq!(job.wait(), Some(130));
    assert_eq!(server.locks("deploy-prod").len(), 1);
}
