//! The blocks of the documents, and which of them are not run.

use std::fmt;

/// Text between two fences.
pub(super) struct Block {
    page: String,
    line: usize,
    pub(super) language: String,
    pub(super) text: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({})", self.page, self.line, self.language)
    }
}

/// How a block is tested.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// It is run here.
    Run,
    /// It is used as it stands by the tests in this file.
    Test(&'static str),
    /// It cannot be run here, for this reason.
    Cannot(&'static str),
    /// Nothing runs it.
    Missing,
}

/// A block that is not run here.
pub(super) struct Exception {
    pub(super) page: &'static str,
    pub(super) begins: &'static str,
    pub(super) way: Way,
}

impl Exception {
    pub(super) fn is_about(&self, block: &Block) -> bool {
        block.page == self.page && block.text.starts_with(self.begins)
    }
}

const fn not_here(page: &'static str, begins: &'static str, why: &'static str) -> Exception {
    Exception { page, begins, way: Way::Cannot(why) }
}

const fn elsewhere(page: &'static str, begins: &'static str, test: &'static str) -> Exception {
    Exception { page, begins, way: Way::Test(test) }
}

/// Blocks that are not run here. The recipes are whole scripts, which tests/recipes.rs runs.
pub(super) const EXCEPTIONS: [Exception; 32] = [
    not_here("ARCHITECTURE.md", "socket →", "a drawing"),
    not_here("docs/client.md", "RDLM_URL=http://locks", "a crontab"),
    not_here("docs/client.md", "0 3 * * *", "a crontab"),
    not_here(
        "docs/client.md",
        "echo \"one line\" | cargo",
        "tests/client/library.rs builds and runs it",
    ),
    not_here("docs/doors.md", "terraform {", "tests/terraform has backends of its own"),
    not_here("docs/doors.md", "rdlm run infra:prod -- terraform", "needs an infrastructure"),
    not_here("docs/doors.md", "# /etc/zincati", "needs Fedora CoreOS"),
    elsewhere("docs/doors.md", "# /etc/systemd/system/reboot-in-turn", "tests/documents/tools.rs"),
    elsewhere("docs/doors.md", "# /etc/systemd/system/reboot-done", "tests/documents/tools.rs"),
    not_here("docs/getting-started.md", "0 3 * * *", "a crontab"),
    not_here(
        "docs/high-availability.md",
        "# on each of the three hosts",
        "needs hosts; tests/cluster has the same on one",
    ),
    not_here("docs/high-availability.md", "backend rdlm", "needs hosts"),
    not_here(
        "docs/high-availability.md",
        "rdlm serve --etcd https",
        "needs hosts; tests/cluster/tls.rs has the same on one",
    ),
    not_here("docs/high-availability.md", "export ETCDCTL_API=3", "needs an etcd that is full"),
    elsewhere("docs/integrations.md", "name: deploy", "tests/documents/ci.rs"),
    elsewhere("docs/integrations.md", "deploy:", "tests/documents/ci.rs"),
    elsewhere("docs/integrations.md", "- hosts: localhost", "tests/clients/playbook.py"),
    elsewhere("docs/integrations.md", "apiVersion: batch/v1", "tests/documents/ci.rs"),
    elsewhere("docs/integrations.md", "# dags/warehouse.py", "tests/recipes.rs"),
    elsewhere("docs/integrations.md", "# tasks.py", "tests/recipes.rs"),
    elsewhere("docs/operations.md", "rdlm history", "tests/history.rs"),
    elsewhere("docs/troubleshooting.md", "rdlm history", "tests/history.rs"),
    elsewhere("docs/operations.md", "[Service]", "tests/packaging.rs"),
    elsewhere("docs/operations.md", "upstream rdlm", "tests/clients/proxies.py"),
    elsewhere("docs/operations.md", "        proxy_pass https", "tests/clients/proxies.py"),
    elsewhere("docs/operations.md", "defaults\n", "tests/clients/proxies.py"),
    elsewhere("docs/operations.md", "Listen 443", "tests/clients/proxies.py"),
    elsewhere("docs/operations.md", "/var/log/rdlm/events.json {", "tests/documents/tools.rs"),
    not_here("docs/operations.md", "scrape_configs:", "needs Prometheus"),
    not_here("docs/operations.md", "2026-11-25T17", "a line of a log"),
    elsewhere("docs/security.md", "[anonymous]", "tests/documents/mod.rs"),
    elsewhere("docs/security.md", "[Service]", "tests/packaging.rs"),
];

/// Lines of shell that are left out wherever they stand, by their beginning.
pub(super) const LINES: [(&str, &str); 5] = [
    ("make", "it builds; what make does is tested by tests/packaging.rs and `make test-packages`"),
    ("sudo ", "it needs root"),
    ("htpasswd ", "it asks at a terminal, and needs root"),
    ("journalctl ", "it needs systemd"),
    ("pip install ", "it writes into the Python of the host"),
];

pub(super) fn way(block: &Block) -> Way {
    if let Some(exception) = EXCEPTIONS.iter().find(|exception| exception.is_about(block)) {
        return exception.way;
    }
    match &*block.language {
        _ if block.page == "docs/recipes.md" => Way::Test("tests/recipes.rs"),
        "sh" | "console" | "python" => Way::Run,
        _ => Way::Missing,
    }
}

pub(super) fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        match line.trim_start().strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                inside = true;
                let (page, language) = (page.into(), language.into());
                found.push(Block { page, line: number, language, text: String::new() });
            }
            None if inside => {
                let block = found.last_mut().unwrap();
                block.text += line;
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!inside, "{page}: a block does not end");
    found
}
