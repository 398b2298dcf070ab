//! The options of the commands that talk to a server.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use pico_args::Arguments;

use super::given::{Given, environment, number, seconds};
use super::table::{self, MODES};
use super::{Command, UsageError, serve, times, unknown};
use crate::client::raw::Span;
use crate::client::{Credentials, LockOptions, PemFile, ServerUrl, Target, TlsFiles};
use crate::commands::{Become, Command as Client, Delete, Run, Typed, Which};

/// How many past events are shown first.
const LATEST: usize = 20;

/// How many of them a server keeps in memory.
const MOST_LATEST: usize = 4096;

/// Parses the arguments of a command; `behind` is what follows `--`.
pub(super) fn parse(
    command: &str,
    mut given: Given,
    behind: Option<Vec<OsString>>,
) -> Result<Command, UsageError> {
    let mut target = target(&mut given)?;
    let typed = Typed { wait: given.typed("--wait"), lifetime: given.typed("--lifetime") };
    let command = match command {
        "run" => run(given, behind)?,
        "acquire" => {
            let key = given.optional("--idempotency-key", |text| Ok(text.to_string()))?;
            let options = LockOptions { key, ..lock_options(&mut given)? };
            Client::Acquire { resource: given.one("RESOURCE")?, options }
        }
        "renew" => renew(given)?,
        "release" => Client::Release { lock: given.one("URL")? },
        "get" => {
            let json = given.flag("--json")?;
            Client::Get { lock: given.one("URL")?, json }
        }
        "resources" => {
            let json = given.flag("--json")?;
            given.nothing_left()?;
            Client::Resources { json }
        }
        "locks" => {
            let json = given.flag("--json")?;
            Client::Locks { resource: given.one("RESOURCE")?, json }
        }
        "health" => {
            if !given.was_given("--url") {
                serve::point_at_own(&mut target)?;
            }
            given.nothing_left()?;
            Client::Health
        }
        "delete" => delete(given)?,
        "events" => events(given)?,
        "history" => history(given)?,
        "watch" => Client::Watch { resource: given.at_most_one()? },
        _ => return Err(unknown(command)),
    };
    Ok(Command::Client { command, target, typed })
}

fn events(mut given: Given) -> Result<Client, UsageError> {
    let json = given.flag("--json")?;
    let since = given.optional("--since", times::in_utc)?;
    let until = given.optional("--until", times::in_utc)?;
    let number = given.optional("-n", number_of_events)?;
    let follow = !given.flag("--no-follow")? && until.is_none();
    let which = match since {
        Some(since) => Which::Of(Span { since, until, limit: number, follow }),
        None if until.is_some() || !follow => {
            let option = if until.is_some() { "--until" } else { "--no-follow" };
            return Err(UsageError::new(format!("{option} goes with --since")));
        }
        None => Which::Latest(number.unwrap_or(LATEST).min(MOST_LATEST)),
    };
    check_order(&which)?;
    Ok(Client::Events { resource: given.at_most_one()?, json, which })
}

/// All that is known of one resource.
fn history(mut given: Given) -> Result<Client, UsageError> {
    let json = given.flag("--json")?;
    let since = given.optional("--since", times::in_utc)?;
    let since = since.unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
    let until = given.optional("--until", times::in_utc)?;
    let limit = given.optional("-n", number_of_events)?;
    let which = Which::Of(Span { since, until, limit, follow: false });
    check_order(&which)?;
    Ok(Client::Events { resource: Some(given.one("RESOURCE")?), json, which })
}

fn check_order(which: &Which) -> Result<(), UsageError> {
    let Which::Of(Span { since, until: Some(until), .. }) = which else { return Ok(()) };
    if until < since {
        let why = format!("--until is {until}, which is before --since, {since}");
        return Err(UsageError::new(why));
    }
    Ok(())
}

fn number_of_events(text: &str) -> Result<usize, String> {
    let expected = "a whole number from 1 to 10000";
    number(text, expected).and_then(|n| match n {
        1..=10_000 => Ok(n),
        _ => Err(expected.into()),
    })
}

fn delete(mut given: Given) -> Result<Client, UsageError> {
    let reason = given.optional("--reason", |text| Ok(text.to_string()))?;
    let (all, yes) = (given.flag("--all")?, given.flag("--yes")?);
    let resource = if all {
        given.nothing_left()?;
        None
    } else {
        Some(given.one("RESOURCE or --all")?)
    };
    Ok(Client::Delete(Delete { resource, reason, yes }))
}

fn run(mut given: Given, behind: Option<Vec<OsString>>) -> Result<Client, UsageError> {
    let options = lock_options(&mut given)?;
    let kill_after = given.value("--kill-after", |text| seconds(text, true))?;
    let timeout = given.optional("--timeout", |text| seconds(text, false))?;
    let conflict_exit_code =
        given.optional("--conflict-exit-code", |text| number(text, "a code from 0 to 255"))?;
    let quiet = given.flag("--quiet")?;
    let mut resources = given.operands()?;
    let command = behind.filter(|command| !command.is_empty()).ok_or_else(|| {
        let (resource, command) = match &resources[..] {
            [resource, command @ ..] if !command.is_empty() => (&**resource, command.join(" ")),
            _ => ("RESOURCE", "CMD ARG...".into()),
        };
        UsageError::new(format!(
            "the command to run is missing: put it after --, as in rdlm run {resource} -- \
             {command}"
        ))
    })?;
    if resources.is_empty() {
        return Err(UsageError::new("RESOURCE is missing; see rdlm run --help"));
    }
    resources.sort();
    resources.dedup();
    let ancestors = environment("RDLM_LOCK_URL")?.unwrap_or_default();
    Ok(Client::Run(Run {
        resources,
        options,
        command,
        kill_after,
        timeout,
        conflict_exit_code,
        quiet,
        held_by_ancestors: ancestors.split(' ').map(String::from).collect(),
    }))
}

/// `rdlm __become PID -- CMD ARG...`, as `run` calls it.
pub(super) fn become_command(
    args: Arguments,
    behind: Option<Vec<OsString>>,
) -> Result<Command, UsageError> {
    let usage = || UsageError::new("this command is for rdlm run alone");
    let words = args.finish();
    let parent = words.first().and_then(|word| word.to_str()?.parse().ok()).ok_or_else(usage)?;
    let mut command = behind.ok_or_else(usage)?.into_iter();
    let program = command.next().ok_or_else(usage)?;
    Ok(Command::Become(Become { parent, program, args: command.collect() }))
}

/// `rdlm __names PREFIX`, as completions call it; the prefix may be empty.
pub(super) fn names(args: Arguments) -> Result<Command, UsageError> {
    let words = args.finish().into_iter().filter(|word| !word.is_empty()).collect();
    let locks = table::find("locks").ok_or_else(|| unknown("locks"))?;
    let mut given = Given::new(locks, Arguments::from_vec(words));
    let target = target(&mut given)?;
    let command = Client::Names { prefix: given.at_most_one()?.unwrap_or_default() };
    Ok(Command::Client { command, target, typed: Typed::default() })
}

fn lock_options(given: &mut Given) -> Result<LockOptions, UsageError> {
    let mode = given.optional("--mode", mode)?;
    let limit = given.optional("--limit", limit)?;
    if limit.is_some() && mode.as_deref().is_some_and(|mode| !matches!(mode, "EX" | "exclusive")) {
        return Err(UsageError::new("--limit goes with the mode EX alone"));
    }
    Ok(LockOptions {
        title: given.optional("--title", |text| Ok(text.to_string()))?,
        wait: given.optional("--wait", |text| seconds(text, true))?,
        lifetime: given.optional("--lifetime", |text| seconds(text, false))?,
        mode,
        limit,
        key: None,
    })
}

/// A renewal, or a conversion if there is a mode.
fn renew(mut given: Given) -> Result<Client, UsageError> {
    let mode = given.optional("--mode", mode)?;
    let wait = given.value("--wait", |text| seconds(text, true))?;
    let lifetime = given.optional("--lifetime", |text| seconds(text, false))?;
    if mode.is_none() && given.was_given("--wait") {
        return Err(UsageError::new("--wait goes with --mode"));
    }
    let lock = given.one("URL")?;
    Ok(match mode {
        Some(mode) => Client::Convert { lock, mode, wait, lifetime },
        None => Client::Renew { lock, lifetime },
    })
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

fn target(given: &mut Given) -> Result<Target, UsageError> {
    let servers = given.value("--url", ServerUrl::list)?;
    Ok(Target { servers, credentials: credentials()?, tls: tls_files(given)? })
}

fn credentials() -> Result<Option<Credentials>, UsageError> {
    let (user, password) = (secret("RDLM_USER")?, secret("RDLM_PASSWORD")?);
    match (user, password, secret("RDLM_TOKEN")?) {
        (None, None, token) => Ok(token.map(Credentials::Token)),
        (Some(_), _, Some(_)) => Err(UsageError::new("RDLM_USER and RDLM_TOKEN are both set")),
        (Some(user), password, None) => {
            let password = password.unwrap_or_default();
            Ok(Some(Credentials::Password { user, password }))
        }
        (None, Some(_), _) => Err(UsageError::new("RDLM_PASSWORD is set and RDLM_USER is not")),
    }
}

/// A variable without line ends, which a value read from a file may have.
fn secret(name: &str) -> Result<Option<String>, UsageError> {
    let text = environment(name)?;
    let trimmed = text.map(|text| text.trim_end_matches(['\r', '\n']).to_string());
    Ok(trimmed.filter(|text| !text.is_empty()))
}

fn tls_files(given: &mut Given) -> Result<TlsFiles, UsageError> {
    let mut file = |option| {
        let value = given.text(option)?;
        Ok(value.map(|value| PemFile { path: PathBuf::from(value.text), named_by: value.named_by }))
    };
    let authority = file("--ca")?;
    let own = match (file("--cert")?, file("--key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(UsageError::new("--cert and --key go together, as RDLM_CERT and RDLM_KEY"));
        }
    };
    let of_system = || {
        let named_by = "SSL_CERT_FILE";
        let path = env::var_os(named_by).filter(|path| !path.is_empty())?;
        Some(PemFile { path: path.into(), named_by: named_by.into() })
    };
    Ok(TlsFiles { authority: authority.or_else(of_system), pinned: None, own })
}
