//! The options of the commands that talk to a server.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use pico_args::Arguments;

use super::{Command, UsageError, environment, nothing_left, number, option, seconds, unexpected};
use crate::client::{Credentials, LockOptions, PemFile, ServerUrl, Target, TlsFiles};
use crate::commands::{BECOME, Become, Command as Client, LEAD, Run};
use crate::url;

/// Taken if neither `--url` nor RDLM_URL says otherwise.
const DEFAULT_URL: &str = "http://localhost:8888";
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const DEFAULT_KILL_AFTER: Duration = Duration::from_secs(10);

const MODES: [&str; 8] = ["NL", "CR", "CW", "PR", "PW", "EX", "shared", "exclusive"];

/// The help text of a command, if there is such a command.
pub(super) fn help(command: &str) -> Option<&'static str> {
    Some(match command {
        "run" => RUN_HELP,
        "acquire" => ACQUIRE_HELP,
        "renew" => RENEW_HELP,
        "release" => RELEASE_HELP,
        "get" => GET_HELP,
        "resources" => RESOURCES_HELP,
        "locks" => LOCKS_HELP,
        "delete" => DELETE_HELP,
        "health" => HEALTH_HELP,
        "events" => EVENTS_HELP,
        "watch" => WATCH_HELP,
        _ => return None,
    })
}

/// Understands the arguments of a command; `behind` is what comes after `--`.
pub(super) fn parse(
    command: &str,
    args: Arguments,
    behind: Option<Vec<OsString>>,
) -> Result<Command, UsageError> {
    if command == LEAD {
        return Ok(Command::LeadGroup);
    }
    if command == BECOME {
        return become_command(args, behind);
    }
    if help(command).is_none() {
        let text = format!("unknown command {command:?}; rdlm --help lists the commands");
        return Err(UsageError::new(text));
    }
    let of_client = |error| UsageError { of_client: true, ..error };
    client(command, args, behind).map_err(of_client)
}

fn client(
    command: &str,
    mut args: Arguments,
    behind: Option<Vec<OsString>>,
) -> Result<Command, UsageError> {
    let target = target(&mut args)?;
    if command != "run" && behind.is_some() {
        return Err(UsageError::new(format!("{command} takes no command behind --")));
    }
    let command = match command {
        "run" => run(args, behind)?,
        "acquire" => {
            let options = lock_options(&mut args)?;
            Client::Acquire { resource: one(args, command, "RESOURCE")?, options }
        }
        "renew" => renew(args)?,
        "release" => Client::Release { lock: one(args, command, "URL")? },
        "get" => {
            let json = args.contains("--json");
            Client::Get { lock: one(args, command, "URL")?, json }
        }
        "resources" => {
            let json = args.contains("--json");
            nothing_left(args, command)?;
            Client::Resources { json }
        }
        "locks" => {
            let json = args.contains("--json");
            Client::Locks { resource: one(args, command, "RESOURCE")?, json }
        }
        "health" => {
            nothing_left(args, command)?;
            Client::Health
        }
        "delete" => {
            let resource = if args.contains("--all") {
                nothing_left(args, command)?;
                None
            } else {
                Some(one(args, command, "RESOURCE or --all")?)
            };
            Client::Delete { resource }
        }
        "events" => {
            let json = args.contains("--json");
            Client::Events { resource: at_most_one(args, command)?, json }
        }
        _ => Client::Watch { resource: at_most_one(args, command)? },
    };
    Ok(Command::Client { command, target })
}

fn run(mut args: Arguments, behind: Option<Vec<OsString>>) -> Result<Client, UsageError> {
    let options = lock_options(&mut args)?;
    let kill_after = option(&mut args, "--kill-after", |text| seconds(text, true))?;
    let timeout = option(&mut args, "--timeout", |text| seconds(text, false))?;
    let conflict_exit_code =
        option(&mut args, "--conflict-exit-code", |text| number(text, "a code from 0 to 255"))?;
    let quiet = args.contains("--quiet");
    let mut resources = words(args, "run")?;
    let command = behind.filter(|command| !command.is_empty()).ok_or_else(|| {
        let (resource, command) = match &resources[..] {
            [resource, command @ ..] if !command.is_empty() => (&**resource, command.join(" ")),
            _ => ("RESOURCE", "CMD ARG...".into()),
        };
        UsageError::new(format!(
            "the command to run is missing: it stands behind --, as in rdlm run {resource} -- \
             {command}"
        ))
    })?;
    if resources.is_empty() {
        return Err(UsageError::new("RESOURCE is missing; see rdlm run --help"));
    }
    resources.sort();
    resources.dedup();
    let ancestors = environment("RDLM_RESOURCE")?.unwrap_or_default();
    Ok(Client::Run(Run {
        resources,
        options,
        command,
        kill_after: kill_after.unwrap_or(DEFAULT_KILL_AFTER),
        timeout,
        conflict_exit_code,
        quiet,
        held_by_ancestors: ancestors.split(' ').map(String::from).collect(),
    }))
}

/// `rdlm __become PID -- CMD ARG...`, as `run` calls it.
fn become_command(args: Arguments, behind: Option<Vec<OsString>>) -> Result<Command, UsageError> {
    let usage = || UsageError::new("this command is for rdlm run alone");
    let parent = one(args, BECOME, "PID")?.parse().map_err(|_| usage())?;
    let mut command = behind.ok_or_else(usage)?.into_iter();
    let program = command.next().ok_or_else(usage)?;
    Ok(Command::Become(Become { parent, program, args: command.collect() }))
}

fn lock_options(args: &mut Arguments) -> Result<LockOptions, UsageError> {
    let mode = option(args, "--mode", mode)?;
    let limit = option(args, "--limit", limit)?;
    if limit.is_some() && mode.as_deref().is_some_and(|mode| !matches!(mode, "EX" | "exclusive")) {
        return Err(UsageError::new("--limit goes with the mode EX alone"));
    }
    Ok(LockOptions {
        title: option(args, "--title", |text| Ok(text.to_string()))?,
        wait: option(args, "--wait", |text| seconds(text, true))?.unwrap_or(LockOptions::FOR_EVER),
        lifetime: lifetime(args)?,
        mode,
        limit,
    })
}

/// A renewal, or with a mode a conversion.
fn renew(mut args: Arguments) -> Result<Client, UsageError> {
    let lifetime = option(&mut args, "--lifetime", |text| seconds(text, false))?;
    let mode = option(&mut args, "--mode", mode)?;
    let wait = option(&mut args, "--wait", |text| seconds(text, true))?;
    let lock = one(args, "renew", "URL")?;
    match (mode, wait) {
        (Some(mode), wait) => {
            Ok(Client::Convert { lock, mode, wait: wait.unwrap_or_default(), lifetime })
        }
        (None, Some(_)) => Err(UsageError::new("--wait goes with --mode")),
        (None, None) => Ok(Client::Renew { lock, lifetime: lifetime.unwrap_or(DEFAULT_LIFETIME) }),
    }
}

fn lifetime(args: &mut Arguments) -> Result<Duration, UsageError> {
    let lifetime = option(args, "--lifetime", |text| seconds(text, false))?;
    Ok(lifetime.unwrap_or(DEFAULT_LIFETIME))
}

fn mode(text: &str) -> Result<String, String> {
    if MODES.contains(&text) {
        Ok(text.into())
    } else {
        Err(format!("one of {}", MODES.join(", ")))
    }
}

fn limit(text: &str) -> Result<u32, String> {
    let expected = "a whole number from 1 to 1000000";
    number(text, expected).and_then(|n| match n {
        1..=1_000_000 => Ok(n),
        _ => Err(expected.into()),
    })
}

fn target(args: &mut Arguments) -> Result<Target, UsageError> {
    let servers = match option(args, "--url", ServerUrl::list)? {
        Some(servers) => servers,
        None => {
            let urls = environment("RDLM_URL")?.unwrap_or_else(|| DEFAULT_URL.into());
            ServerUrl::list(&urls).map_err(|expected| {
                let urls = url::without_password(&urls);
                UsageError::new(format!("RDLM_URL {urls:?}: expected {expected}"))
            })?
        }
    };
    Ok(Target { servers, credentials: credentials()?, tls: tls_files(args)? })
}

fn credentials() -> Result<Option<Credentials>, UsageError> {
    let (user, password) = (environment("RDLM_USER")?, environment("RDLM_PASSWORD")?);
    match (user, password, environment("RDLM_TOKEN")?) {
        (None, None, token) => Ok(token.map(Credentials::Token)),
        (Some(_), _, Some(_)) => Err(UsageError::new("RDLM_USER and RDLM_TOKEN are both set")),
        (Some(user), password, None) => {
            let password = password.unwrap_or_default();
            Ok(Some(Credentials::Password { user, password }))
        }
        (None, Some(_), _) => Err(UsageError::new("RDLM_PASSWORD is set and RDLM_USER is not")),
    }
}

fn tls_files(args: &mut Arguments) -> Result<TlsFiles, UsageError> {
    let mut file = |option_name, variable| {
        let given = option(args, option_name, |text| Ok(PathBuf::from(text)))?;
        let given = given.map(|path| PemFile { path, named_by: option_name });
        let set = || {
            let path = env::var_os(variable).filter(|path| !path.is_empty())?;
            Some(PemFile { path: path.into(), named_by: variable })
        };
        Ok(given.or_else(set))
    };
    let authority = file("--ca", "RDLM_CA")?;
    let own = match (file("--cert", "RDLM_CERT")?, file("--key", "RDLM_KEY")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(UsageError::new("--cert and --key go together, as RDLM_CERT and RDLM_KEY"));
        }
    };
    let of_system = || {
        let path = env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty())?;
        Some(PemFile { path: path.into(), named_by: "SSL_CERT_FILE" })
    };
    Ok(TlsFiles { authority: authority.or_else(of_system), own })
}

fn one(args: Arguments, command: &str, what: &str) -> Result<String, UsageError> {
    let missing = || UsageError::new(format!("{what} is missing; see rdlm {command} --help"));
    at_most_one(args, command)?.ok_or_else(missing)
}

fn at_most_one(args: Arguments, command: &str) -> Result<Option<String>, UsageError> {
    let mut words = words(args, command)?.into_iter();
    let first = words.next();
    match words.next() {
        Some(second) => Err(unexpected(second.as_ref(), command)),
        None => Ok(first),
    }
}

/// What is left when the options are taken out.
fn words(args: Arguments, command: &str) -> Result<Vec<String>, UsageError> {
    let word = |word: OsString| {
        if word.as_encoded_bytes().starts_with(b"-") || word.is_empty() {
            return Err(unexpected(&word, command));
        }
        let not_utf8 = |word: OsString| {
            UsageError::new(format!("{:?} is not valid UTF-8", word.to_string_lossy()))
        };
        word.into_string().map_err(not_utf8)
    };
    args.finish().into_iter().map(word).collect()
}

const RUN_HELP: &str = "\
Takes the lock on RESOURCE, runs CMD, renews the lock at a third of its
lifetime, releases it, and exits with CMD's code (128 + N when signal N ended
it).

Usage: rdlm run [OPTIONS] RESOURCE... -- CMD ARG...

With several resources it takes the locks in the order of their names, so that
two commands cannot wait for each other; --wait is for all of them together.

Options:
  --wait SECONDS        give up after so long without the lock, with code 75;
                        0: do not wait [as long as it takes]
  --quiet               say nothing if the lock was not granted, for cron
  --conflict-exit-code N
                        the code if the lock was not granted [75]
  --timeout SECONDS     end CMD after so long, with code 124
  --lifetime SECONDS    the lock expires so long after the last renewal; if this
                        host dies, the others wait for so long [60]
  --title TITLE         who asks and what for [USER@HOST: CMD]
  --mode MODE           NL, CR, CW, PR, PW, EX, shared or exclusive [EX]
  --limit N             up to N hold the resource at a time; all who use it name
                        the same N [1]
  --kill-after SECONDS  when the lock is lost, or the time is out, CMD gets
                        SIGTERM, and SIGKILL so long after it [10]
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit

SECONDS may be 90, 5m, 1h30m or 250ms.

CMD finds RDLM_RESOURCE, RDLM_LOCK_URL and RDLM_FENCING_TOKEN in its
environment, separated by blanks if there are several. Signals go to CMD and
its children.

Exit codes, beside those of CMD:
   64  wrong usage          74  the lock was lost; CMD was ended
   69  no server            75  the lock was not granted
   76  not an rdlm server   77  not allowed
  126  CMD not executable  127  CMD not found
";

const ACQUIRE_HELP: &str = "\
Takes the lock on RESOURCE and prints its URL. It expires by itself after its
lifetime; renew and release take the URL.

Usage: rdlm acquire [OPTIONS] RESOURCE

Options:
  --wait SECONDS        give up after so long without the lock, with code 75;
                        0: do not wait [as long as it takes]
  --lifetime SECONDS    the lock expires after so long [60]
  --title TITLE         who asks and what for [USER@HOST]
  --mode MODE           NL, CR, CW, PR, PW, EX, shared or exclusive [EX]
  --limit N             up to N hold the resource at a time; all who use it name
                        the same N [1]
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const RENEW_HELP: &str = "\
Lets a lock live for another lifetime, counted from now, or converts it to
another mode. Exits with 74 if it is not held any more, and with 75 if the mode
could not be had: the lock is held as before.

Usage: rdlm renew [OPTIONS] URL

Options:
  --lifetime SECONDS    the lock expires after so long [60; with --mode, when it
                        would have]
  --mode MODE           NL, CR, CW, PR, PW, EX, shared or exclusive
  --wait SECONDS        wait so long for the mode [0: not at all]
  --url URL             the server, if the lock's URL is just /locks/...
                        [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const RELEASE_HELP: &str = "\
Releases a lock. Exits with 74 if it was not held any more.

Usage: rdlm release [OPTIONS] URL

Options:
  --url URL             the server, if the lock's URL is just /locks/...
                        [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const GET_HELP: &str = "\
Shows a lock, held or waiting. Exits with 74 if it is not there.

Usage: rdlm get [OPTIONS] URL

Options:
  --json                print what the server answers
  --url URL             the server, if the lock's URL is just /locks/...
                        [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const RESOURCES_HELP: &str = "\
Shows the resources that have locks, who holds them and how many wait. For
administrators: RDLM_USER and RDLM_PASSWORD, where the server asks for them.

Usage: rdlm resources [OPTIONS]

Options:
  --json                print what the server answers
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const LOCKS_HELP: &str = "\
Shows who holds a resource and who waits for it, in order. For administrators:
RDLM_USER and RDLM_PASSWORD, where the server asks for them.

Usage: rdlm locks [OPTIONS] RESOURCE

Options:
  --json                print what the server answers
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const DELETE_HELP: &str = "\
Deletes the locks of a resource: whoever holds it has lost it, whoever waits for
it is refused. For administrators: RDLM_USER and RDLM_PASSWORD, where the server
asks for them.

Usage: rdlm delete [OPTIONS] RESOURCE
       rdlm delete [OPTIONS] --all

Options:
  --all                 the locks of all resources
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const HEALTH_HELP: &str = "\
Asks the server whether it is well. Exits with 0 or, if it is not, or not there,
with 69.

Usage: rdlm health [OPTIONS]

Options:
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const EVENTS_HELP: &str = "\
Prints the latest 20 events, and what happens from then on, until Ctrl-C: who
waits, is granted a lock, releases it, lets it expire. For administrators:
RDLM_USER and RDLM_PASSWORD, where the server asks for them.

Usage: rdlm events [OPTIONS] [RESOURCE]

Options:
  --json                print a JSON object a line
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";

const WATCH_HELP: &str = "\
Shows who holds and who waits, and goes on showing it, until Ctrl-C. If the
output is no terminal, the table is printed again whenever it changes. For
administrators: RDLM_USER and RDLM_PASSWORD, where the server asks for them.

Usage: rdlm watch [OPTIONS] [RESOURCE]

Options:
  --url URL             the server [RDLM_URL, or http://localhost:8888]
  --ca FILE             certificates (PEM) to trust for https, in place of those
                        that are built in [RDLM_CA, or SSL_CERT_FILE]
  --cert FILE           a certificate (PEM) to show there [RDLM_CERT]
  --key FILE            its key [RDLM_KEY]
  --help                print this and exit
";
