//! What the packages say fits together.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::needed;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Runs make, with a Cargo that does nothing; `None` where there is none.
fn make(built: &Path, args: &[&str]) -> Option<Output> {
    if !needed::are_installed(&["make"]) {
        return None;
    }
    let mut make = Command::new("make");
    let make = make.args(args).arg("CARGO=true").current_dir(ROOT);
    Some(make.env("CARGO_TARGET_DIR", built).output().unwrap())
}

/// The version and the date above the changes of the newest release.
fn newest_release(changes: &str) -> &str {
    let mut headings = changes.lines().filter_map(|line| line.strip_prefix("## "));
    headings.find(|heading| *heading != "Unreleased").unwrap()
}

fn day_of(release: &str) -> &str {
    release.split(['(', ')']).nth(1).unwrap()
}

#[test]
fn there_is_one_version_and_one_date() {
    let printed = |arg: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_rdlm")).arg(arg).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let changes = file("CHANGELOG.md");
    let newest = newest_release(&changes);
    let date = day_of(newest);
    assert_eq!(newest, format!("{VERSION} ({date})"));
    assert_eq!(printed("--version"), format!("rdlm {newest}\n"));
    assert!(printed("man").starts_with(&format!(".TH RDLM 1 {date} \"rdlm {VERSION}\"")));
    for (path, text) in [
        ("docs/openapi.json", format!("\"version\": \"{VERSION}\",")),
        ("docs/integrations.md", format!("rdlm-{VERSION}-x86_64-unknown-linux-gnu")),
        ("docs/api.md", format!("Welcome to rdlm {VERSION}, ")),
        ("packaging/kubernetes.yaml", format!("image: rdlm:{VERSION} ")),
        ("packaging/kubernetes-ha.yaml", format!("image: rdlm:{VERSION} ")),
        ("packaging/compose.yaml", format!("image: rdlm:{VERSION}\n")),
        ("clients/python/rdlm_client/__init__.py", format!("__version__ = \"{VERSION}\"\n")),
    ] {
        assert!(file(path).contains(&text), "{path} has another version than {VERSION}");
    }
}

#[test]
fn the_manifest_names_the_image_that_make_builds() {
    let image = format!("rdlm:{VERSION}");
    for manifest in ["kubernetes.yaml", "kubernetes-ha.yaml", "compose.yaml"] {
        let manifest = file(&format!("packaging/{manifest}")).replace('\n', " ");
        assert!(manifest.contains(&format!("image: {image} ")));
    }
    let dir = TempDir::new().unwrap();
    let Some(output) = make(dir.path(), &["-n", "image"]) else { return };
    let commands = String::from_utf8(output.stdout).unwrap();
    assert!(commands.contains(&format!("build -t {image} ")), "{commands}");
}

/// The seconds until a probe of the manifest gives up.
fn patience(probe: &str) -> u32 {
    let manifest = file("packaging/kubernetes.yaml");
    let part = manifest.split(&format!("{probe}:\n")).nth(1).unwrap();
    let number = |name: &str| {
        let value = part.split(&format!("{name}: ")).nth(1).unwrap().lines().next().unwrap();
        value.parse::<u32>().unwrap()
    };
    number("periodSeconds") * number("failureThreshold")
}

#[test]
fn no_probe_restarts_a_server_that_recovers_by_itself() {
    const IDLE_TIMEOUT_S: u32 = 75;
    assert!(patience("livenessProbe") > IDLE_TIMEOUT_S);
    assert!(!file("packaging/kubernetes.yaml").contains("path: /health"));
}

/// Builds the package, with a program that runs the tested one; `None` where it cannot be built.
fn package(built: &Path) -> Option<PathBuf> {
    if !needed::are_installed(&["dpkg-deb"]) {
        return None;
    }
    let binary = built.join("any/release/rdlm");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    // Prints the pages; the binary itself would take long to compress.
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_rdlm"));
    fs::write(&binary, script).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let output = make(built, &["deb", "TARGET=any"])?;
    assert!(output.status.success(), "{output:?}");
    let mut files = fs::read_dir(built).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension() == Some("deb".as_ref()))
}

#[test]
fn the_package_is_installed_upgraded_and_purged_as_debian_does() {
    if !needed::are_installed(&["deb-systemd-helper", "unshare"]) {
        return;
    }
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        needed::cannot_run("only root may have a root directory of its own");
        return;
    }
    let dir = TempDir::new().unwrap();
    let Some(package) = package(dir.path()) else { return };
    let script = Path::new(ROOT).join("tests/scripts/debian.sh");
    let output =
        Command::new(script).arg(package).arg(env!("CARGO_BIN_EXE_rdlm")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn an_uninstalled_server_is_stopped_first() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    // Notes whether the unit is still there when it is asked to stop it.
    let systemctl =
        format!("#!/bin/sh\necho \"$* $(ls {})\" >> {}\n", path("units"), path("calls"));
    fs::write(path("systemctl"), systemctl).unwrap();
    fs::set_permissions(path("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(path("units")).unwrap();
    fs::write(path("units/rdlm.service"), "").unwrap();
    if !needed::are_installed(&["make"]) {
        return;
    }
    let mut make = Command::new("make");
    let make = make.args(["uninstall", "DESTDIR=", "CARGO=true"]).current_dir(ROOT);
    make.arg(format!("PREFIX={}", path("prefix"))).arg(format!("UNITDIR={}", path("units")));
    make.arg(format!("SYSTEMD={}", path("units")));
    let programs = format!("{}:{}", path(""), std::env::var("PATH").unwrap());
    let output = make.env("PATH", programs).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let calls = fs::read_to_string(path("calls")).unwrap();
    assert_eq!(calls, "disable --now rdlm rdlm.service\ndaemon-reload \n");
}

#[test]
fn a_package_knows_neither_who_made_it_nor_when() {
    let dir = TempDir::new().unwrap();
    let Some(package) = package(dir.path()) else { return };
    let name = package.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("rdlm_{VERSION}_")), "{name}");

    let changes = file("CHANGELOG.md");
    let released = day_of(newest_release(&changes));
    let mut list = Command::new("dpkg-deb");
    let list = list.arg("--contents").arg(&package).env("TZ", "UTC").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for path in ["bin/rdlm", "share/man/man1/rdlm.1.gz", "share/zsh/vendor-completions/_rdlm"] {
        assert!(list.contains(&format!(" ./usr/{path}\n")), "{path} is missing in\n{list}");
    }
    for line in list.lines() {
        assert!(line.contains(&format!(" {released} 00:00 ")), "{line}");
        assert!(line.contains(" root/root "), "{line}");
    }
}

#[test]
fn a_build_for_musl_says_what_it_lacks() {
    let dir = TempDir::new().unwrap();
    let target = "TARGET=loongarch64-unknown-linux-musl";
    let Some(output) = make(dir.path(), &["toolchain", target]) else { return };
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("rustup target add loongarch64-unknown-linux-musl"), "{error}");
}

#[test]
fn systemd_takes_the_unit_and_the_drop_ins_of_the_documents() {
    if !needed::are_installed(&["systemd-analyze"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let unit = dir.path().join("rdlm.service");
    // Only what is there may be started.
    let text = file("packaging/rdlm.service").replace("/usr/local/bin/rdlm", "/bin/true");
    fs::write(&unit, text).unwrap();
    fs::create_dir(dir.path().join("rdlm.service.d")).unwrap();
    for (page, name) in [("docs/operations.md", "override.conf"), ("docs/security.md", "tls.conf")]
    {
        let document = file(page);
        let drop_in = document.split("```ini\n").nth(1).unwrap().split("```").next().unwrap();
        assert!(drop_in.contains("LoadCredential="));
        fs::write(dir.path().join("rdlm.service.d").join(name), drop_in).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let names = ["rdlm.service", "override.conf", "tls.conf"];
    let about_it = |line: &&str| names.iter().any(|name| line.contains(name));
    assert_eq!(said.lines().filter(about_it).collect::<Vec<_>>(), [""; 0], "{said}");
}

#[test]
fn checkov_finds_nothing_in_the_manifests() {
    if !needed::are_installed(&["checkov"]) {
        return;
    }
    for manifest in ["kubernetes.yaml", "kubernetes-ha.yaml"] {
        let mut checkov = Command::new("checkov");
        let checkov = checkov.args(["--compact", "--quiet", "--skip-download", "-f"]);
        let checkov = checkov.arg(Path::new(ROOT).join("packaging").join(manifest));
        let output = checkov.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
