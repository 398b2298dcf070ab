//! The lines for TLS and users that are commented out in the unit and the manifest work.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::authority::Authority;
use crate::harness::Server;
use crate::{needed, python};

const UNIT: &str = include_str!("../packaging/rdlm.service");
const MANIFEST: &str = include_str!("../packaging/kubernetes.yaml");

/// The unit, with all of its settings.
fn unit() -> String {
    let is_setting = |line: &str| {
        let name = line.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    let line = |line: &str| match line.strip_prefix('#').filter(|rest| is_setting(rest)) {
        Some(setting) => format!("{setting}\n"),
        None => format!("{line}\n"),
    };
    UNIT.lines().map(line).collect()
}

/// The manifest, with all of its volumes and variables.
fn manifest() -> String {
    let is_entry = |line: &str| {
        let entry = line.trim_start();
        entry.starts_with("# - ") || entry.starts_with("#   secret:")
    };
    let line = |line: &str| match line {
        line if is_entry(line) => line.replacen("# ", "", 1) + "\n",
        line => line.replace("port: http}", "port: http, scheme: HTTPS}") + "\n",
    };
    MANIFEST.lines().map(line).collect()
}

/// What a document in YAML says; `None`, and says so, where nothing can read that.
pub(crate) fn parsed(yaml: &str) -> Option<Vec<Value>> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let mut process = Command::new(python::with_yaml()?)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// A certificate and users, in files with these names.
fn files(dir: &Path, [certificate, key, users]: [&str; 3]) -> Authority {
    let authority = Authority::new();
    let issued = authority.server("server");
    fs::copy(issued.certificate, dir.join(certificate)).unwrap();
    fs::copy(issued.key, dir.join(key)).unwrap();
    fs::write(dir.join(users), "[anonymous]\nmay = [\"lock *\"]\n").unwrap();
    authority
}

/// It speaks TLS alone, with this certificate, and has users.
#[track_caller]
fn assert_is_secured(server: &Server, authority: &Authority) {
    assert_eq!(server.get("/").status, 400, "it does not speak HTTP");
    let status = |path| authority.connect(server, None).request("GET", path, "").status;
    assert_eq!(status("/"), 200);
    assert_eq!(status("/status"), 401, "it asks who that is");
}

#[test]
fn the_unit_starts_a_server_with_tls_and_users() {
    let dir = TempDir::new().unwrap();
    let authority = files(dir.path(), ["cert", "key", "users"]);
    let unit = unit();
    let credentials = unit.lines().filter_map(|line| line.strip_prefix("LoadCredential="));
    let names: Vec<_> = credentials.map(|line| line.split_once(':').unwrap().0).collect();
    assert_eq!(names, ["cert", "key", "users"]);
    let variables = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .flat_map(str::split_whitespace);
    let variables = variables.map(|variable| variable.split_once('=').unwrap());
    let variables: Vec<_> = variables.filter(|(name, _)| !name.ends_with("DATA_DIR")).collect();
    assert_eq!(variables.iter().filter(|(_, value)| value.starts_with("%d/")).count(), 3);
    let value = |value: &str| value.replace("%d", dir.path().to_str().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.arg("serve").envs(variables.iter().map(|(name, text)| (name, value(text))));
    assert_is_secured(&Server::start_command(&mut command), &authority);
}

#[test]
fn systemd_takes_the_unit_with_all_of_its_settings() {
    if !needed::are_installed(&["systemd-analyze"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rdlm.service");
    // Only what is there may be started.
    fs::write(&path, unit().replace("/usr/local/bin/rdlm", "/bin/true")).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let about_it = |line: &&str| line.contains("rdlm.service");
    assert_eq!(said.lines().filter(about_it).collect::<Vec<_>>(), [""; 0], "{said}");
}

#[test]
fn the_manifest_starts_a_server_with_tls_and_users() {
    let Some(documents) = parsed(&manifest()) else { return };
    let deployment = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["scheme"], "HTTPS", "{probe}");
    }
    let named = |list: &Value, field: &str| -> BTreeSet<String> {
        let entries = list.as_array().unwrap().iter();
        entries.map(|entry| entry[field].as_str().unwrap().to_string()).collect()
    };
    let mounted = named(&container["volumeMounts"], "name");
    assert_eq!(named(&pod["volumes"], "name"), mounted);
    assert_eq!(mounted.len(), 3);

    let dir = TempDir::new().unwrap();
    for path in named(&container["volumeMounts"], "mountPath") {
        fs::create_dir(dir.path().join(path.trim_start_matches('/'))).unwrap();
    }
    let authority = files(dir.path(), ["tls/tls.crt", "tls/tls.key", "users/users.toml"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    assert_eq!(container["args"], serde_json::json!(["serve"]));
    command.arg("serve");
    let variables = container["env"].as_array().unwrap().iter();
    let variables =
        variables.map(|it| (it["name"].as_str().unwrap(), it["value"].as_str().unwrap()));
    for (name, value) in variables.filter(|(name, _)| *name != "RDLM_SERVE_PORT") {
        let here = value.strip_prefix('/').map(|path| dir.path().join(path));
        command.env(name, here.unwrap_or(value.into()));
    }
    assert_is_secured(&Server::start_command(&mut command), &authority);
}

/// As the health check of the image, which knows the server's settings by its variables.
#[test]
fn a_health_check_finds_the_server_by_its_variables() {
    let dir = TempDir::new().unwrap();
    files(dir.path(), ["cert", "key", "users"]);
    let variables = ["cert", "key"]
        .map(|name| (format!("RDLM_SERVE_TLS_{}", name.to_uppercase()), dir.path().join(name)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    let mut server = Server::start_command(command.arg("serve").envs(variables.clone()));
    let health = || {
        let mut health = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        health.arg("health").env_remove("RDLM_URL").envs(variables.clone());
        health.env("RDLM_SERVE_PORT", server.port().to_string()).output().unwrap()
    };
    let output = health();
    assert!(output.status.success(), "{output:?}");
    // Another server on its port is not taken for it.
    let authority = Authority::new();
    let other = authority.server("server");
    fs::copy(other.certificate, dir.path().join("cert")).unwrap();
    assert_eq!(health().status.code(), Some(69));
    server.signal("-TERM");
    server.wait();

    let plain = Server::start();
    let mut health = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    health.arg("health").env("RDLM_SERVE_PORT", plain.port().to_string());
    assert!(health.status().unwrap().success());
}
