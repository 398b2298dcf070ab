//! Blocks of shell, pasted one after the other into one bash for each page.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::blocks::{Block, LINES};
use super::{pages, to_run};
use crate::harness::Server;
use crate::needed;

/// What a page needs to be run as it stands.
#[derive(Default)]
struct Page {
    path: &'static str,
    /// What is done before the first block.
    before: &'static str,
    /// What is done before a block with a session.
    before_session: &'static str,
    /// What is written here in place of something: shorter times, and what only the reader has.
    instead: &'static [(&'static str, &'static str)],
    /// What is printed, beside other things; what stands here twice is printed twice.
    prints: &'static [&'static str],
}

/// The pages with blocks of shell.
const PAGES: [Page; 10] = [
    Page {
        path: "README.md",
        prints: &[
            "HTTP/1.1 201 Created",
            "HTTP/1.1 201 Created",
            "HTTP/1.1 408 Request Timeout",
            "{\"name\":\"demo\"",
            "backing up",
        ],
        ..Page::NONE
    },
    Page { path: "docs/api.md", instead: &[("--max-time 1 ", "--max-time 3 ")], ..Page::NONE },
    Page {
        path: "docs/client.md",
        before: "for name in deploy.sh swap-roles.sh step-1 step-2; do
                     echo \"echo $name $*\" > $name; chmod +x $name
                 done",
        before_session: r#"
lock() { curl -s localhost:8888/locks/$1 -d "{\"title\":\"$2\",\"wait\":600,\"lifetime\":$3}" > /dev/null; }
lock deploy "alice@web1: sh" 50
lock nightly-backup "root@db1: backup" 41
(lock deploy "bob@web4: sh" 60 &)
until curl -s localhost:8888/resources/deploy | grep -q position; do sleep 0.1; done
"#,
        prints: &["deploy.sh", "deployed", "swap-roles.sh", "step-1", "step-2"],
        ..Page::NONE
    },
    Page {
        path: "docs/doors.md",
        prints: &["HTTP/1.1 201 Created", "HTTP/1.1 204 No Content"],
        ..Page::NONE
    },
    Page { path: "docs/durability.md", ..Page::NONE },
    Page {
        path: "docs/getting-started.md",
        instead: &[("sleep 30", "sleep 0.1")],
        prints: &["my turn", "nobody holds or waits for demo"],
        ..Page::NONE
    },
    Page {
        path: "docs/moving-from-rdlm.md",
        before: "echo alice:secret > users",
        instead: &[("/etc/rdlm/users", "users")],
        ..Page::NONE
    },
    Page {
        path: "docs/operations.md",
        before: "echo '{\"time\":\"T\",\"event\":\"released\",\"resource\":\"nightly-backup\",\
                 \"title\":\"me\",\"client\":\"10.0.0.7\",\"held\":2.5}' > events.json",
        prints: &["T released me 10.0.0.7 2.5"],
        ..Page::NONE
    },
    Page {
        path: "docs/security.md",
        prints: &[
            "it works",
            "{\"status\":\"ok\"",
            "$2",
            "sha256:",
            "{\"resources\":[",
            "/locks/deploy-web/",
        ],
        ..Page::NONE
    },
    Page {
        path: "docs/troubleshooting.md",
        before_session: r#"
lock() { curl -s localhost:8888/locks/$1 -d "{\"title\":\"$2\",\"wait\":600,\"lifetime\":41}" > /dev/null; }
lock nightly-backup "root@db1: backup"
(lock nightly-backup "root@db2: restore" &)
until curl -s localhost:8888/resources/nightly-backup | grep -q position; do sleep 0.1; done
"#,
        ..Page::NONE
    },
];

impl Page {
    const NONE: Self = Self { path: "", before: "", before_session: "", instead: &[], prints: &[] };
}

/// A bash that reads its commands from a pipe and ends with the first that fails.
struct Shell {
    process: Child,
    commands: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What begins a line on standard error if something is wrong.
const WRONG: [&str; 4] = ["bash:", "./block", "curl:", "rdlm:"];

const END: &str = "-- the end of a block --";

impl Shell {
    fn start(dir: &Path) -> Self {
        let binaries = Path::new(env!("CARGO_BIN_EXE_rdlm")).parent().unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let mut process = Command::new("bash")
            .current_dir(dir)
            .env("PATH", path)
            .env("HOME", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("errors")).unwrap())
            .spawn()
            .unwrap();
        // curl shows its progress otherwise.
        fs::write(dir.join(".curlrc"), "silent\nmax-time=60\n").unwrap();
        let commands = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut shell = Self { process, commands, output };
        writeln!(shell.commands, "set -e").unwrap();
        shell
    }

    /// What a script prints; None if it fails.
    fn run(&mut self, dir: &Path, script: &str) -> Option<String> {
        fs::write(dir.join("block"), script).unwrap();
        // Prompts for a secret get one.
        let commands = format!(". ./block <<< secret\necho; echo '{END}'\n");
        self.commands.write_all(commands.as_bytes()).ok()?;
        let mut printed = String::new();
        while !printed.ends_with(&format!("{END}\n")) {
            if self.output.read_line(&mut printed).unwrap() == 0 {
                return None;
            }
        }
        Some(printed)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is typed, up to a server that is started.
struct Step {
    commands: String,
    server: Option<String>,
}

/// The commands and servers of a block.
struct Script {
    steps: Vec<Step>,
    /// What the page shows that is printed.
    shown: Vec<String>,
}

fn script(block: &Block) -> Script {
    let mut script = Script { steps: Vec::new(), shown: Vec::new() };
    let mut commands = String::new();
    let session = block.language == "console";
    for line in block.text.replace("\\\n", " ").lines() {
        let Some(command) = (if session { line.strip_prefix("$ ") } else { Some(line) }) else {
            // What is shown in several lines is printed in one.
            match script.shown.last_mut().filter(|_| line.starts_with(' ')) {
                Some(last) => *last += line.trim_start(),
                None => script.shown.push(line.into()),
            }
            continue;
        };
        if LINES.iter().any(|(left_out, _)| command.starts_with(left_out)) {
            continue;
        }
        if command.starts_with("rdlm serve") || command.starts_with("rdlm-daemon") {
            let commands = std::mem::take(&mut commands);
            script.steps.push(Step { commands, server: Some(command.into()) });
        } else if let Some(follower) = command.strip_suffix(" &").filter(|_| session) {
            // What comes next is for it to see.
            commands += follower;
            commands += " > >(tee seen) &\nuntil [ -s seen ]; do sleep 0.1; done\n";
        } else {
            commands += command;
            commands.push('\n');
        }
    }
    if session {
        commands += "wait\n";
    }
    if !commands.is_empty() {
        script.steps.push(Step { commands, server: None });
    }
    script
}

/// Starts what a page starts, on a free port.
fn serve(command: &str, dir: &Path) -> Server {
    let binary = env!("CARGO_BIN_EXE_rdlm");
    let command = command.replace("--port 8888", "").replace("--port=8888", "");
    let command = command.replace("/var/lib/rdlm", "data");
    let command = match command.strip_prefix("rdlm-daemon") {
        Some(options) => format!("exec -a rdlm-daemon {binary} {options}"),
        None => command.replacen("rdlm", &format!("exec {binary}"), 1),
    };
    let mut bash = Command::new("bash");
    let bash = bash.args(["-c", &format!("{command} \"$@\""), "bash"]);
    Server::start_command(bash.current_dir(dir).env("HOME", dir))
}

/// A word without what differs each time: numbers of many digits, times, addresses, lengths.
fn constant(word: &str) -> String {
    let mut constant = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let hex = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let time = rest.find(|c: char| !c.is_ascii_digit() && !"-T:.".contains(c));
        let taken = match time {
            Some(end) if end > 18 && rest[end..].starts_with('Z') => end + 1,
            _ if hex >= 12 => hex,
            _ => 0,
        };
        constant.push(if taken == 0 { first } else { '*' });
        rest = &rest[taken.max(first.len_utf8())..];
    }
    let digits = |allowed: &str| word.chars().all(|c| c.is_ascii_digit() || allowed.contains(c));
    if digits(".") && word.matches('.').count() == 3 || digits("hms") && digits("") != digits("hms")
    {
        return "*".into();
    }
    constant
}

/// A line without what differs from run to run.
fn same_each_time(line: &str) -> String {
    if let Some((name @ ("Date" | "Content-Length"), _)) = line.split_once(": ") {
        return format!("{name}: *");
    }
    let words: Vec<_> = line.split_whitespace().map(constant).collect();
    words.join(" ")
}

/// Whether a printed line matches the one in the document, where `…` matches anything.
fn is_as_shown(printed: &str, shown: &str) -> bool {
    let (printed, shown) = (same_each_time(printed), same_each_time(shown));
    let mut parts: Vec<_> = shown.split('…').collect();
    let last = parts.pop().unwrap();
    let Some(mut rest) = printed.strip_suffix(last) else { return false };
    for (number, part) in parts.iter().enumerate() {
        match rest.find(part) {
            Some(at) if number > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || !parts.is_empty()
}

fn run(page: &Page, text: &str) {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start();
    let mut servers = Vec::new();
    let mut shell = Shell::start(dir.path());
    let adapt = |text: &str, port: u16| {
        let text =
            page.instead.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to));
        text.replace("localhost:8888", &format!("localhost:{port}"))
    };
    let mut all = String::new();
    assert!(shell.run(dir.path(), page.before).is_some(), "{}", page.path);
    for block in to_run(page.path, text, &["sh", "console"]) {
        let script = script(&block);
        if !script.shown.is_empty() {
            let before = adapt(page.before_session, server.port());
            assert!(shell.run(dir.path(), &before).is_some(), "{block}");
        }
        let mut printed = String::new();
        for step in &script.steps {
            let port = server.port();
            let url = format!("export RDLM_URL=${{RDLM_URL-http://localhost:{port}}}\n");
            let commands = url + &adapt(&step.commands, port);
            let output = shell.run(dir.path(), &commands);
            let errors = fs::read_to_string(dir.path().join("errors")).unwrap();
            let output = output.unwrap_or_else(|| panic!("{block} fails: {errors}"));
            let wrong = |line: &&str| WRONG.iter().any(|who| line.starts_with(who));
            assert_eq!(errors.lines().find(wrong), None, "{block}");
            printed += &output.replace(&format!("localhost:{port}"), "localhost:8888");
            if let Some(command) = &step.server {
                let started = serve(&adapt(command, 0), dir.path());
                servers.push(std::mem::replace(&mut server, started));
            }
        }
        let mut lines = printed.lines();
        for shown in &script.shown {
            let found = lines.any(|line| is_as_shown(line, shown));
            assert!(
                found,
                "{block}: {shown:?} is not, or not there, in what is printed:\n{printed}"
            );
        }
        all += &printed;
    }
    all += &shell.run(dir.path(), "wait").unwrap();
    for expected in page.prints {
        assert!(all.contains(expected), "{}: no {expected:?} in {all}", page.path);
        all = all.replacen(expected, "", 1);
    }
}

#[test]
fn what_is_pasted_into_a_shell_does_what_the_page_says() {
    if !needed::are_installed(&["bash", "curl", "jq", "openssl"]) {
        return;
    }
    let mut run_pages = 0;
    // Most of the time they wait.
    thread::scope(|scope| {
        for (path, text) in pages() {
            let mut scripts =
                to_run(&path, &text, &["sh", "console"]).into_iter().map(|block| script(&block));
            if scripts.all(|script| script.steps.is_empty()) {
                continue;
            }
            let page = PAGES.iter().find(|page| page.path == path);
            let page = page.unwrap_or_else(|| panic!("{path}: say here what it prints"));
            run_pages += 1;
            thread::Builder::new()
                .name(path)
                .spawn_scoped(scope, move || run(page, &text))
                .unwrap();
        }
    });
    assert_eq!(run_pages, PAGES.len());
}
