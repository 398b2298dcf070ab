//! The command line. Parses and validates, opens nothing.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use pico_args::Arguments;

use crate::http::RequestLimits;
use crate::http::access::Access;
use crate::lock::MaxWaiters;
use crate::server;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run the server.
    Serve {
        /// How.
        options: server::Options,
        /// What to log.
        log_level: LevelFilter,
    },
    /// Print this help text.
    Help(&'static str),
    /// Print the version.
    Version,
}

/// The command line is wrong; says how, in one line.
#[derive(Debug, PartialEq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The longest `wait` and `lifetime` in seconds.
const MAX_SECONDS: f64 = 1e9;

const DEFAULT_PORT: u16 = 8888;
const DEFAULT_MAX_WAITERS: usize = 10_000;
const DEFAULT_MAX_CONNECTIONS: usize = 12_000;
const DEFAULT_RESTART_GRACE: Duration = Duration::from_secs(5);
const DEFAULT_RECONNECT_GRACE: Duration = Duration::from_secs(5);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

const HELP: &str = "\
rdlm, a lock manager over HTTP

Usage: rdlm serve [OPTIONS]
       rdlm-daemon [OPTIONS]   the same, as RDLM was started

Options:
  --port PORT                 port to listen on; 0: any free one [8888]
  --bind ADDR                 address to listen on [all, IPv4 and IPv6]
  --data-dir DIR              keep locks in DIR, so that they survive a crash;
                              made if it is missing [locks are in memory]
  --restart-grace SECONDS     a lock that is kept lives at least so long after a
                              restart, so that its holder can renew it [5]
  --reconnect-grace SECONDS   a client that has sent an Idempotency-Key and is
                              gone has its place in line for so long [5]
  --logging LEVEL             debug, info, warning, error or none [info]
  --admin-userpass-file FILE  who may list and delete resources: yes: everybody;
                              no: nobody; FILE: HTTP Basic, one user:password a
                              line, plain or as from `htpasswd -nB USER` [yes]
  --base-url URL              start of the lock URLs, for use behind a proxy
                              [http:// and the Host of the request]
  --max-wait SECONDS          longest wait that is accepted [1000000000]
  --max-lifetime SECONDS      longest lifetime that is accepted [1000000000]
  --max-waiters N             requests that wait for locks at a time; some
                              connections are kept for releases [10000]
  --max-waiters-per-resource N
                              the same for each resource [as --max-waiters]
  --max-connections N         connections open at a time; fewer if the system's
                              limits are low [12000]
  --idle-timeout SECONDS      a connection ends after so long without a request;
                              waiting for a lock is none [75]
  --help                      print this and exit
  --version                   print the version and exit

Try it:
  rdlm serve &
  curl -i localhost:8888/locks/demo -d '{\"title\":\"me\",\"wait\":5,\"lifetime\":60}'
";

/// Understands a command line, the name of the program first.
///
/// # Errors
/// An unknown command or option, or a value that is not accepted.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let is_daemon = Path::new(&program).file_name() == Some(OsStr::new("rdlm-daemon"));
    let mut args = Arguments::from_vec(args.collect());
    if args.contains(["-h", "--help"]) {
        return Ok(Command::Help(HELP));
    }
    if args.contains(["-V", "--version"]) {
        return Ok(Command::Version);
    }
    if is_daemon {
        return serve(args);
    }
    match args.subcommand().map_err(|error| UsageError(error.to_string()))?.as_deref() {
        Some("serve") => serve(args),
        Some("help") => Ok(Command::Help(HELP)),
        Some(other) => Err(UsageError(format!("unknown command {other:?}, expected serve"))),
        None => Err(UsageError("a command is missing, expected serve; see rdlm --help".into())),
    }
}

fn serve(mut args: Arguments) -> Result<Command, UsageError> {
    let log_level = option(&mut args, "--logging", log_level)?.unwrap_or(LevelFilter::Info);
    let access = match option(&mut args, "--admin-userpass-file", access)? {
        Some(access) => Some(access),
        // RDLM's spelling.
        None => option(&mut args, "--admin_userpass_file", access)?,
    };
    let max_wait = option(&mut args, "--max-wait", |text| seconds(text, true))?;
    let max_lifetime = option(&mut args, "--max-lifetime", |text| seconds(text, false))?;
    let longest = Duration::from_secs_f64(MAX_SECONDS);
    let max_waiters =
        option(&mut args, "--max-waiters", whole_number)?.unwrap_or(DEFAULT_MAX_WAITERS);
    let options = server::Options {
        bind: option(&mut args, "--bind", |text| number(text, "an IPv4 or IPv6 address"))?,
        port: option(&mut args, "--port", |text| number(text, "a port from 0 to 65535"))?
            .unwrap_or(DEFAULT_PORT),
        access: access.unwrap_or(Access::Open),
        limits: RequestLimits {
            max_wait: max_wait.unwrap_or(longest),
            max_lifetime: max_lifetime.unwrap_or(longest),
        },
        base_url: option(&mut args, "--base-url", base_url)?,
        max_waiters: MaxWaiters {
            in_all: max_waiters,
            per_resource: option(&mut args, "--max-waiters-per-resource", whole_number)?
                .unwrap_or(max_waiters),
        },
        max_connections: option(&mut args, "--max-connections", positive)?
            .unwrap_or(DEFAULT_MAX_CONNECTIONS),
        data_dir: option(&mut args, "--data-dir", directory)?,
        restart_grace: option(&mut args, "--restart-grace", |text| seconds(text, true))?
            .unwrap_or(DEFAULT_RESTART_GRACE),
        reconnect_grace: option(&mut args, "--reconnect-grace", |text| seconds(text, true))?
            .unwrap_or(DEFAULT_RECONNECT_GRACE),
        idle_timeout: option(&mut args, "--idle-timeout", |text| seconds(text, false))?
            .unwrap_or(DEFAULT_IDLE_TIMEOUT),
    };
    match args.finish().first() {
        None => Ok(Command::Serve { options, log_level }),
        Some(arg) => Err(UsageError(format!(
            "unexpected argument {:?}: not an option of serve, or given twice; see rdlm --help",
            arg.to_string_lossy()
        ))),
    }
}

/// The value of an option, if it is given; `parse` says what it expected instead.
fn option<T>(
    args: &mut Arguments,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, UsageError> {
    let value = args.opt_value_from_fn(name, |value| Ok::<_, Infallible>(value.to_string()));
    let text = match value {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(pico_args::Error::NonUtf8Argument) => {
            return Err(UsageError(format!("the value of {name} is not valid UTF-8")));
        }
        Err(_) => return Err(UsageError(format!("{name} needs a value"))),
    };
    match parse(&text) {
        Ok(value) => Ok(Some(value)),
        Err(expected) => Err(UsageError(format!("{name} {text:?}: expected {expected}"))),
    }
}

fn number<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| expected.into())
}

fn whole_number(text: &str) -> Result<usize, String> {
    number(text, "a whole number")
}

fn positive(text: &str) -> Result<usize, String> {
    let expected = "a whole number over 0";
    number(text, expected).and_then(|n| if n > 0 { Ok(n) } else { Err(expected.into()) })
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "debug" => Ok(LevelFilter::Debug),
        "info" => Ok(LevelFilter::Info),
        "warning" => Ok(LevelFilter::Warn),
        "error" => Ok(LevelFilter::Error),
        "none" => Ok(LevelFilter::Off),
        _ => Err("debug, info, warning, error or none".into()),
    }
}

fn access(text: &str) -> Result<Access, String> {
    match text {
        "yes" => Ok(Access::Open),
        "no" => Ok(Access::Denied),
        "" => Err("yes, no or a file".into()),
        path => Ok(Access::UserFile(path.into())),
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a directory".into()) } else { Ok(text.into()) }
}

fn seconds(text: &str, zero_allowed: bool) -> Result<Duration, String> {
    let expected = if zero_allowed { "from 0 to 1e9" } else { "over 0 to 1e9" };
    let in_range = |s: &f64| (0.0..=MAX_SECONDS).contains(s) && (zero_allowed || *s > 0.0);
    let seconds: Option<f64> = text.parse().ok().filter(in_range);
    let duration = seconds.map(Duration::from_secs_f64);
    // A few picoseconds are none.
    let duration = duration.filter(|duration| zero_allowed || !duration.is_zero());
    duration.ok_or_else(|| format!("a number of seconds {expected}"))
}

fn base_url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(legal) => {
            Ok(url.into())
        }
        _ => Err("a URL such as https://locks.example.com, without a query".into()),
    }
}
