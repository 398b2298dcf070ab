//! All commands and options, as data. The parser, `--help`, the manual page and the completions of
//! shells are made from this table alone.

use super::syntax::Value::{Directory, File, OneOf, Seconds, Text, WordOrFile};
use super::syntax::{Group, Opt, Subcommand};

/// In the order of `rdlm --help`.
pub(super) static COMMANDS: [&Subcommand; 18] = [
    &SERVE,
    &HEALTH,
    &RUN,
    &ACQUIRE,
    &RENEW,
    &RELEASE,
    &GET,
    &RESOURCES,
    &LOCKS,
    &DELETE,
    &WATCH,
    &EVENTS,
    &HISTORY,
    &HASH_PASSWORD,
    &HASH_TOKEN,
    &HELP,
    &MAN,
    &COMPLETIONS,
];

pub(super) fn find(name: &str) -> Option<&'static Subcommand> {
    COMMANDS.into_iter().find(|command| command.name == name)
}

/// The options that need no command.
pub(super) static WITHOUT_COMMAND: Group =
    Group { title: "", variables: None, options: &[PRINT_HELP, PRINT_VERSION] };

/// The operands of `completions`.
pub(super) const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The modes of locks, with the two that have a second name.
pub(super) const MODES: [&str; 8] = ["NL", "CR", "CW", "PR", "PW", "EX", "shared", "exclusive"];

/// The exit codes of the commands; most are those of sysexits.h. `serve` has its own.
pub(super) const EXIT_CODES: [(&str, &str); 12] = [
    ("0", "done"),
    ("1", "the output could not be written"),
    ("64", "wrong usage, or the server rejected the request"),
    ("69", "no server could be reached, none answered, or it has no room"),
    ("71", "the operating system refused a process or a thread"),
    ("74", "the lock was lost, or no longer exists"),
    ("75", "somebody else has the lock, or the request was deleted"),
    ("76", "what answered is not an rdlm server"),
    ("77", "not allowed"),
    ("124", "CMD was ended by --timeout"),
    ("126", "CMD cannot be executed"),
    ("127", "CMD was not found"),
];

const SERVER: &str = "The server";
const FOR_A_LOCK: &str = "Locks";
const FOR_ADMINISTRATORS: &str = "For administrators";
const FOR_USERS_FILE: &str = "For the file of users";
const ABOUT_RDLM: &str = "About rdlm";

const PRINT_HELP: Opt = Opt::flag("--help", "print this help and exit");
const PRINT_VERSION: Opt = Opt::flag("--version", "print the version and exit");

// --- The server ---

const SERVE_VARIABLES: Option<&str> = Some("RDLM_SERVE");

pub(super) static SERVE: Subcommand = Subcommand {
    name: "serve",
    operands: "",
    section: SERVER,
    brief: "run the lock server",
    about: "Run the lock server until SIGTERM or Ctrl-C. Invoked as rdlm-daemon, the program does \
            the same without the word serve.",
    groups: &[
        &LISTENING,
        &KEEPING_LOCKS,
        &SEVERAL_SERVERS,
        &SERVER_TLS,
        &ACCESS,
        &LIMITS,
        &LOGS,
        &OTHER_PROTOCOLS,
        &CHECKING,
        &WITHOUT_COMMAND,
    ],
    notes: "Each option can also be set in the environment, --port as RDLM_SERVE_PORT and so on; \
            commas separate the values of one that may be repeated. SECONDS is a number, or a \
            time such as 250ms, 5m or 1h30m.",
    examples: &[
        "rdlm serve &",
        "curl -i localhost:8888/locks/demo -d '{\"title\":\"me\",\"wait\":5,\"lifetime\":60}'",
    ],
};

static LISTENING: Group = Group {
    title: "Listening",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new("--port", Text("PORT"), "port to listen on; 0 picks a free one, which is logged")
            .or("8888"),
        Opt::new("--bind", Text("ADDR"), "address to listen on").otherwise("all, IPv4 and IPv6"),
        Opt::new("--base-url", Text("URL"), "base of the lock URLs, for use behind a proxy")
            .otherwise("http:// and the Host of the request"),
        Opt::new(
            "--host",
            Text("NAME"),
            "another name by which browsers may address this server, besides IP addresses, \
             localhost, the host name and that of --base-url",
        )
        .repeated(),
        Opt::new(
            "--trusted-proxy",
            Text("CIDR"),
            "proxy whose X-Forwarded-For is trusted to name the client, as 10.0.0.0/8 or 10.1.2.3",
        )
        .repeated()
        .otherwise("none"),
    ],
};

static KEEPING_LOCKS: Group = Group {
    title: "Keeping locks",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new(
            "--data-dir",
            Directory,
            "keep locks in DIR, so that they survive a crash; created if missing",
        )
        .otherwise("in memory"),
        Opt::new(
            "--restart-grace",
            Seconds,
            "minimum lifetime of a lock after a restart, so that its holder can renew it",
        )
        .or("5"),
        Opt::new(
            "--history",
            Text("TIME,SIZE"),
            "what to keep of what has happened, for rdlm events --since, in --data-dir or \
             --history-dir; off keeps nothing",
        )
        .or("7d,64MiB"),
        Opt::new("--history-dir", Directory, "keep the history in DIR; created if missing")
            .otherwise("in --data-dir; without that, the latest events in memory"),
        Opt::new(
            "--reconnect-grace",
            Seconds,
            "how long to keep the place in line of a client that disconnected, if it sent an \
             Idempotency-Key",
        )
        .or("5"),
    ],
};

pub(super) static SEVERAL_SERVERS: Group = Group {
    title: "Several servers on etcd",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new(
            "--etcd",
            Text("URL,URL"),
            "keep locks in etcd, shared with the other servers that do; URLs of its members",
        )
        .otherwise("off"),
        Opt::new("--etcd-prefix", Text("PREFIX"), "prefix of the keys in etcd").or("/rdlm/"),
        Opt::new("--etcd-ca", File, "CA certificates to verify etcd with (PEM)")
            .otherwise("Mozilla's"),
        Opt::new("--etcd-cert", File, "client certificate to present to etcd (PEM)"),
        Opt::new("--etcd-key", File, "private key of that certificate (PEM)"),
        Opt::new("--etcd-user", Text("USER"), "user to authenticate to etcd as"),
        Opt::new("--etcd-password-file", File, "file whose first line is that user's password"),
        Opt::new(
            "--etcd-accept-restored",
            Text("NUMBER"),
            "accept an etcd that was emptied or restored, by this number of its head; /health and \
             the log say which",
        )
        .otherwise("refuse it"),
        Opt::new("--advertise-url", Text("URL"), "where the other servers reach this one")
            .otherwise("http://, or https:// with --tls-cert, and --bind or the host name"),
        Opt::new(
            "--advertise-ca",
            File,
            "CA certificates by which servers on TLS verify each other (PEM)",
        )
        .otherwise("Mozilla's"),
        Opt::new(
            "--failover-after",
            Seconds,
            "silence of the active server after which a standby takes over, 1 to 60",
        )
        .or("5"),
        Opt::new(
            "--standby",
            OneOf("MODE", &["forward", "redirect"]),
            "what a standby does with requests: forward them to the active server, or redirect \
             the client",
        )
        .or("forward"),
    ],
};

static SERVER_TLS: Group = Group {
    title: "TLS",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new(
            "--tls-cert",
            File,
            "serve TLS with this certificate chain (PEM); reloaded within seconds of a change, \
             or on SIGHUP",
        )
        .otherwise("plain HTTP"),
        Opt::new("--tls-key", File, "private key of that certificate (PEM)"),
        Opt::new(
            "--tls-client-ca",
            File,
            "require client certificates issued by this CA (PEM); the first DNS name, or else the \
             common name, is the user",
        ),
    ],
};

static ACCESS: Group = Group {
    title: "Access",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new(
            "--users",
            File,
            "users and their rights, in TOML, in place of --admin-userpass-file; reloaded when it \
             changes",
        )
        .otherwise("anyone may take locks"),
        Opt::new(
            "--admin-userpass-file",
            WordOrFile(&["yes", "no"]),
            "who may list and delete resources: yes for everybody, no for nobody, or a file with \
             a user:password per line, plain or from htpasswd -nB",
        )
        .also("--admin_userpass_file")
        .or("yes"),
        Opt::flag("--open-metrics", "let anyone read /metrics, even with --users"),
    ],
};

static LIMITS: Group = Group {
    title: "Limits",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new("--max-wait", Seconds, "longest wait that a request may ask for").or("1000000000"),
        Opt::new("--max-lifetime", Seconds, "longest lifetime that a request may ask for")
            .or("1000000000"),
        Opt::new(
            "--max-locks",
            Text("N"),
            "maximum number of locks held, including the places in line kept for clients that \
             disconnected",
        )
        .or("1000000"),
        Opt::new(
            "--max-waiters",
            Text("N"),
            "maximum number of waiting requests; some connections always stay free for releases",
        )
        .or("10000"),
        Opt::new(
            "--max-waiters-per-resource",
            Text("N"),
            "maximum number of requests waiting for one resource",
        )
        .otherwise("as --max-waiters"),
        Opt::new(
            "--max-connections",
            Text("N"),
            "maximum number of open connections; fewer if the limit on open files is lower",
        )
        .or("12000"),
        Opt::new("--max-subscribers", Text("N"), "maximum number of clients following events")
            .or("64"),
        Opt::new(
            "--idle-timeout",
            Seconds,
            "close a connection after this long without a request; a client that waits for a lock \
             is not idle",
        )
        .or("75"),
    ],
};

static LOGS: Group = Group {
    title: "Logs",
    variables: SERVE_VARIABLES,
    options: &[
        Opt::new(
            "--logging",
            OneOf("LEVEL", &["debug", "info", "warning", "error", "none"]),
            "what to log on standard error: debug (every request), info, warning, error or none",
        )
        .or("info"),
        Opt::new(
            "--log-format",
            OneOf("FORMAT", &["text", "json"]),
            "format of the log: text, or json with one object per line",
        )
        .or("text"),
        Opt::new(
            "--event-log",
            File,
            "append every lock event to this file, one JSON object per line; SIGHUP reopens it",
        )
        .otherwise("off"),
        Opt::flag(
            "--event-log-uids",
            "write the uids of locks, too: who can read one can release the lock",
        ),
    ],
};

static OTHER_PROTOCOLS: Group = Group {
    title: "Other protocols",
    variables: SERVE_VARIABLES,
    options: &[Opt::new(
        "--fleetlock",
        Text("SLOTS"),
        "serve FleetLock, letting this many nodes per group reboot at a time, as in 1,workers=3",
    )
    .otherwise("off")],
};

static CHECKING: Group = Group {
    title: "Other",
    variables: None,
    options: &[Opt::flag(
        "--check",
        "read settings and files, print what would hold, and exit with 0 or 2",
    )],
};

static HEALTH: Subcommand = Subcommand {
    name: "health",
    operands: "",
    section: SERVER,
    brief: "ask whether the server is well",
    about: "Ask whether the server is well. Exits with 0 if it is, and with 69 if it is not or \
            cannot be reached.",
    groups: &[&CONNECTION, &GENERAL],
    notes: "Without --url and RDLM_URL, it asks the server of RDLM_SERVE_PORT, RDLM_SERVE_BIND and \
            RDLM_SERVE_TLS_CERT on this host, and takes no other certificate than that one.",
    examples: &[],
};

// --- The options of several commands ---

/// The options of all commands that talk to a server.
pub(super) static CONNECTION: Group = Group {
    title: "Server (or RDLM_URL, RDLM_CA, RDLM_CERT, RDLM_KEY)",
    variables: Some("RDLM"),
    options: &[
        Opt::new("--url", Text("URL"), "server to use, or several, separated by commas")
            .or("http://localhost:8888"),
        Opt::new("--ca", File, "CA certificates to verify the server with (PEM)")
            .otherwise("SSL_CERT_FILE, or Mozilla's"),
        Opt::new("--cert", File, "client certificate to present (PEM)"),
        Opt::new("--key", File, "private key of that certificate (PEM)"),
    ],
};

/// A note for all commands with these options.
pub(super) const CREDENTIALS: &str = "If the server asks who you are, set RDLM_USER and \
                                      RDLM_PASSWORD, or RDLM_TOKEN, or present a certificate.";

static GENERAL: Group = Group { title: "", variables: None, options: &[PRINT_HELP] };

static JSON: Group = Group {
    title: "Options",
    variables: None,
    options: &[Opt::flag("--json", "print the server's JSON, for programs")],
};

const WAIT: Opt = Opt::new(
    "--wait",
    Seconds,
    "how long to wait for the lock before giving up with code 75; 0 does not wait",
)
.otherwise("as long as it takes");

const MODE: Opt = Opt::new(
    "--mode",
    OneOf("MODE", &MODES),
    "lock mode: NL, CR, CW, PR, PW, EX, shared (PR) or exclusive (EX)",
)
.otherwise("EX");

const LIMIT: Opt = Opt::new(
    "--limit",
    Text("N"),
    "how many may hold the resource at a time; everyone must name the same number",
)
.otherwise("1");

const TITLE: Opt = Opt::new("--title", Text("TITLE"), "who is asking and why, shown in lists");

// --- Locks ---

static RUN: Subcommand = Subcommand {
    name: "run",
    operands: "RESOURCE... -- CMD ARG...",
    section: FOR_A_LOCK,
    brief: "run a command while holding a lock",
    about: "Take the lock on RESOURCE, run CMD while renewing the lock at a third of its lifetime, \
            and release it when CMD ends. Exits with CMD's exit code, or 128 + N if signal N ended \
            it.\n\
            \n\
            Several resources are locked in order of their names, so that two commands cannot \
            wait for each other; --wait covers all of them together.",
    groups: &[&RUN_OPTIONS, &CONNECTION, &GENERAL],
    notes: "SECONDS is a number, or a time such as 250ms, 5m or 1h30m.\n\
            \n\
            CMD finds RDLM_RESOURCE, RDLM_LOCK_URL and RDLM_FENCING_TOKEN in its environment; for \
            several resources, their values are separated by spaces. Signals are passed on to CMD \
            and its children.",
    examples: &["rdlm run --wait 0 nightly-backup -- /usr/local/bin/backup"],
};

static RUN_OPTIONS: Group = Group {
    title: "Options",
    variables: None,
    options: &[
        WAIT,
        Opt::new(
            "--lifetime",
            Seconds,
            "how long the lock outlives its last renewal; if this host dies, others wait this long",
        )
        .otherwise("60, or as the server allows"),
        TITLE.otherwise("USER@HOST: CMD [PID]"),
        MODE,
        LIMIT,
        Opt::new("--timeout", Seconds, "end CMD after this long, with code 124"),
        Opt::new(
            "--kill-after",
            Seconds,
            "time between SIGTERM and SIGKILL when CMD has to end, because the lock was lost or \
             --timeout has passed",
        )
        .or("10"),
        Opt::flag("--quiet", "print nothing while waiting, nor if the lock is not granted"),
        Opt::new("--conflict-exit-code", Text("N"), "exit code if somebody else has the lock")
            .otherwise("75"),
    ],
};

static ACQUIRE: Subcommand = Subcommand {
    name: "acquire",
    operands: "RESOURCE",
    section: FOR_A_LOCK,
    brief: "take a lock and print its URL",
    about: "Take the lock on RESOURCE and print its URL, which renew, release and get take. \
            Nothing renews the lock by itself: it expires at the end of its lifetime.",
    groups: &[&ACQUIRE_OPTIONS, &CONNECTION, &GENERAL],
    notes: "",
    examples: &[
        "lock=$(rdlm acquire --wait 60 --lifetime 600 migrate) || exit",
        "trap 'rdlm release \"$lock\"' EXIT",
    ],
};

static ACQUIRE_OPTIONS: Group = Group {
    title: "Options",
    variables: None,
    options: &[
        WAIT,
        Opt::new("--lifetime", Seconds, "how long the lock lives")
            .otherwise("60, or as the server allows"),
        TITLE.otherwise("USER@HOST [PID]"),
        MODE,
        LIMIT,
        Opt::new(
            "--idempotency-key",
            Text("KEY"),
            "key of the request: the same command with the same key finds the lock that an earlier \
             one may have been granted",
        )
        .otherwise("a new one"),
    ],
};

static RENEW: Subcommand = Subcommand {
    name: "renew",
    operands: "URL",
    section: FOR_A_LOCK,
    brief: "extend a lock, or convert it to another mode",
    about: "Extend a lock by another lifetime, counted from now, or convert it to another mode. \
            Exits with 74 if the lock is no longer held, and with 75 if the mode was not granted; \
            the lock is then held as before.",
    groups: &[&RENEW_OPTIONS, &CONNECTION, &GENERAL],
    notes: URL_OR_PATH,
    examples: &[],
};

static RENEW_OPTIONS: Group = Group {
    title: "Options",
    variables: None,
    options: &[
        Opt::new(
            "--lifetime",
            Seconds,
            "new lifetime, counted from now; with --mode, the end stays as it is unless this is \
             given",
        )
        .otherwise("60, or as the server allows"),
        Opt::new(
            "--mode",
            OneOf("MODE", &MODES),
            "convert the lock to this mode: NL, CR, CW, PR, PW, EX, shared or exclusive",
        ),
        Opt::new("--wait", Seconds, "how long to wait for that mode").or("0"),
    ],
};

const URL_OR_PATH: &str = "URL is what acquire printed. A bare path, /locks/..., is looked up on \
                           the server of --url.";

static RELEASE: Subcommand = Subcommand {
    name: "release",
    operands: "URL",
    section: FOR_A_LOCK,
    brief: "release a lock",
    about: "Release a lock. Exits with 74 if it was no longer held.",
    groups: &[&CONNECTION, &GENERAL],
    notes: URL_OR_PATH,
    examples: &[],
};

static GET: Subcommand = Subcommand {
    name: "get",
    operands: "URL",
    section: FOR_A_LOCK,
    brief: "show a lock",
    about: "Show a lock, held or waiting. Exits with 74 if it no longer exists.",
    groups: &[&JSON, &CONNECTION, &GENERAL],
    notes: URL_OR_PATH,
    examples: &[],
};

// --- For administrators ---

static RESOURCES: Subcommand = Subcommand {
    name: "resources",
    operands: "",
    section: FOR_ADMINISTRATORS,
    brief: "show who holds what",
    about: "Show the resources that have locks, who holds them and how many requests wait.",
    groups: &[&JSON, &CONNECTION, &GENERAL],
    notes: "",
    examples: &[],
};

static LOCKS: Subcommand = Subcommand {
    name: "locks",
    operands: "RESOURCE",
    section: FOR_ADMINISTRATORS,
    brief: "show who holds a resource and who waits for it",
    about: "Show who holds a resource and who waits for it, in order.",
    groups: &[&JSON, &CONNECTION, &GENERAL],
    notes: "",
    examples: &[],
};

static DELETE: Subcommand = Subcommand {
    name: "delete",
    operands: "RESOURCE|--all",
    section: FOR_ADMINISTRATORS,
    brief: "delete the locks of a resource, or all locks",
    about: "Delete the locks of a resource: its holders lose them, and the requests that wait for \
            it are refused. With --all, those of all resources, which are printed.",
    groups: &[&DELETE_OPTIONS, &CONNECTION, &GENERAL],
    notes: "",
    examples: &[],
};

static DELETE_OPTIONS: Group = Group {
    title: "Options",
    variables: None,
    options: &[
        Opt::flag("--all", "delete the locks of all resources, after a question on the terminal"),
        Opt::flag("--yes", "delete all without a question, for scripts"),
        Opt::new("--reason", Text("TEXT"), "why, for those who lose their locks, and for the log"),
    ],
};

static WATCH: Subcommand = Subcommand {
    name: "watch",
    operands: "[RESOURCE]",
    section: FOR_ADMINISTRATORS,
    brief: "show locks as a live table",
    about: "Show who holds and who waits, kept up to date until Ctrl-C. If the output is not a \
            terminal, the table is printed again whenever it changes.",
    groups: &[&CONNECTION, &GENERAL],
    notes: "",
    examples: &[],
};

static EVENTS: Subcommand = Subcommand {
    name: "events",
    operands: "[RESOURCE]",
    section: FOR_ADMINISTRATORS,
    brief: "print what happens to locks",
    about: "Print the latest 20 events, then each one as it happens, until Ctrl-C: who waits, is \
            granted a lock, releases it, lets it expire.\n\
            \n\
            With --since, print first who held what at that time, then what has happened since.",
    groups: &[&EVENTS_OPTIONS, &CONNECTION, &GENERAL],
    notes: TIMES,
    examples: &["rdlm events --since 02:55 --until 03:05 nightly-backup"],
};

static EVENTS_OPTIONS: Group = Group {
    title: "Options",
    variables: None,
    options: &[
        SINCE,
        UNTIL,
        Opt::flag("--no-follow", "with --since: end with what has happened already"),
        EVENTS_NUMBER.otherwise("20, or 10000 with --since"),
        EVENTS_JSON,
    ],
};

const SINCE: Opt = Opt::new("--since", Text("TIME"), "begin with what was held at this time");
const UNTIL: Opt = Opt::new("--until", Text("TIME"), "end with what happened until this time");
const EVENTS_NUMBER: Opt = Opt::new("-n", Text("N"), "how many events to print at most");
const EVENTS_JSON: Opt = Opt::flag("--json", "print JSON for programs, an object on each line");

const TIMES: &str = "TIME is a time of day such as 02:55, the last one there was, a local date and \
                     time such as '2026-11-25 02:55', or one with its offset as in RFC 3339. \
                     Times are printed in the time zone of this host.";

static HISTORY: Subcommand = Subcommand {
    name: "history",
    operands: "RESOURCE",
    section: FOR_ADMINISTRATORS,
    brief: "print what has happened to a resource",
    about: "Print all that the server knows of a resource: who waited for it and held it, and how \
            that ended.",
    groups: &[&HISTORY_OPTIONS, &CONNECTION, &GENERAL],
    notes: TIMES,
    examples: &["rdlm history nightly-backup"],
};

static HISTORY_OPTIONS: Group = Group {
    title: "Options",
    variables: None,
    options: &[SINCE, UNTIL, EVENTS_NUMBER.or("10000"), EVENTS_JSON],
};

// --- What needs no server ---

static HASH_PASSWORD: Subcommand = Subcommand {
    name: "hash-password",
    operands: "",
    section: FOR_USERS_FILE,
    brief: "print the hash of a password",
    about: "Read a password from the terminal, without showing it, or a line from a pipe, and \
            print its bcrypt hash for the file of --users.",
    groups: &[&GENERAL],
    notes: "",
    examples: &[],
};

static HASH_TOKEN: Subcommand = Subcommand {
    name: "hash-token",
    operands: "",
    section: FOR_USERS_FILE,
    brief: "print the hash of a token",
    about: "Read a token from the terminal, without showing it, or a line from a pipe, and print \
            its SHA-256 hash for the file of --users. Tokens must be long and random.",
    groups: &[&GENERAL],
    notes: "",
    examples: &["head -c 24 /dev/urandom | base64 | tee token | rdlm hash-token"],
};

static HELP: Subcommand = Subcommand {
    name: "help",
    operands: "[COMMAND]",
    section: ABOUT_RDLM,
    brief: "print this, or the options of a command",
    about: "Print the options of a command, as COMMAND --help does, or list the commands.",
    groups: &[&GENERAL],
    notes: "",
    examples: &[],
};

static MAN: Subcommand = Subcommand {
    name: "man",
    operands: "",
    section: ABOUT_RDLM,
    brief: "print the manual page",
    about: "Print the manual page, to be shown by man or installed as rdlm.1.",
    groups: &[&GENERAL],
    notes: "",
    examples: &["rdlm man | man -l -"],
};

static COMPLETIONS: Subcommand = Subcommand {
    name: "completions",
    operands: "SHELL",
    section: ABOUT_RDLM,
    brief: "print completions for bash, zsh or fish",
    about: "Print the completions of rdlm for bash, zsh or fish, to be sourced or installed.",
    groups: &[&GENERAL],
    notes: "",
    examples: &["source <(rdlm completions bash)", "rdlm completions fish | source"],
};
