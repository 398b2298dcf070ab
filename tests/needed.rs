//! Programs that tests need, and what happens where one is missing: a test is skipped and says so;
//! where the variable CI is set, it fails.

use std::env;
use std::process::Command;

/// Which package of Debian has which program. .ci/run installs all of them.
const PACKAGES: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("curl", "curl"),
    ("deb-systemd-helper", "init-system-helpers"),
    ("dpkg-deb", "dpkg"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("faketime", "faketime"),
    ("fish", "fish"),
    ("groff", "groff"),
    ("jq", "jq"),
    ("logrotate", "logrotate"),
    ("make", "make"),
    ("mandoc", "mandoc"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("prlimit", "util-linux"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("python3", "python3"),
    ("qemu-aarch64", "qemu-user"),
    ("qemu-x86_64", "qemu-user"),
    ("sqlite3", "sqlite3"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("unshare", "util-linux"),
    ("zsh", "zsh"),
];

/// Whether all of them are there. If not, the test is skipped, or fails.
#[track_caller]
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !is_installed(program));
    if let Some(program) = missing {
        cannot_run(&how_to_install(program));
    }
    missing.is_none()
}

/// Fails where it is missing: too much depends on it.
#[track_caller]
pub(crate) fn insist(program: &str) {
    assert!(is_installed(program), "{}", how_to_install(program));
}

/// The test is skipped, or fails.
#[track_caller]
pub(crate) fn cannot_run(why: &str) {
    let ci = env::var("CI").unwrap_or_default();
    assert!(["", "false"].contains(&ci.as_str()), "{why}");
    println!("skipped: {why}");
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn how_to_install(program: &str) -> String {
    // Not all are in Debian.
    let package = PACKAGES.iter().find(|(known, _)| *known == program);
    let how = package.map_or(format!("pip install {program}"), |(_, package)| {
        format!("apt-get install {package}")
    });
    format!("there is no {program}: {how}")
}

#[test]
fn all_of_them_are_installed_before_a_change_is_taken() {
    let script = include_str!("../.ci/run");
    for (program, package) in PACKAGES {
        let line = format!("need {program} {package}");
        assert!(script.lines().any(|found| found == line), "no {line} in .ci/run");
    }
}

#[test]
fn scripts_that_lack_something_fail_where_ci_is_set() {
    let bash = ["bash", "-c", ". tests/scripts/skip.sh; skip why"];
    let python = "import run; run.skipped('a', 'why'); exit(bool(run.failed))";
    for script in [bash, ["python3", "-Bc", python]] {
        for (ci, code) in [("", 0), ("false", 0), ("true", 1)] {
            let mut command = Command::new(script[0]);
            command.args(&script[1..]).env("CI", ci).env("PYTHONPATH", "tests/clients");
            assert_eq!(command.status().unwrap().code(), Some(code), "{script:?} CI={ci}");
        }
    }
}
