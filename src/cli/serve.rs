//! The options of the server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;
use pico_args::Arguments;

use super::{Command, MAX_SECONDS, UsageError, environment, nothing_left, number, option, seconds};
use crate::cluster::{self, Standby};
use crate::doors::access::Access;
use crate::doors::users::UserFile;
use crate::doors::{RequestLimits, Slots};
use crate::http::certificates::CertificateFiles;
use crate::http::request::is_host;
use crate::lock::Limits;
use crate::logging::{self, Format};
use crate::server;
use crate::url;

const DEFAULT_PORT: u16 = 8888;
const DEFAULT_MAX_WAITERS: usize = 10_000;
const DEFAULT_MAX_CONNECTIONS: usize = 12_000;
const DEFAULT_MAX_SUBSCRIBERS: usize = 64;
const DEFAULT_RESTART_GRACE: Duration = Duration::from_secs(5);
const DEFAULT_RECONNECT_GRACE: Duration = Duration::from_secs(5);
const DEFAULT_ETCD_PREFIX: &str = "/rdlm/";
const DEFAULT_FAILOVER_AFTER: Duration = Duration::from_secs(5);
const DEFAULT_MAX_LOCKS: usize = 1_000_000;
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

pub(super) const HELP: &str = "\
Runs the lock server.

Usage: rdlm serve [OPTIONS]
       rdlm-daemon [OPTIONS]   the same, as RDLM was started

Options:
  --port PORT                 port to listen on; 0: any free one [8888]
  --bind ADDR                 address to listen on [all, IPv4 and IPv6]
  --data-dir DIR              keep locks in DIR, so that they survive a crash;
                              made if it is missing [locks are in memory]
  --etcd URL,URL              keep locks in etcd and share them with the other
                              servers that do: docs/high-availability.md
  --etcd-prefix PREFIX        what the keys in etcd begin with [/rdlm/]
  --etcd-ca FILE              certificates by which etcd is known [Mozilla's]
  --etcd-cert FILE            certificate of this server for etcd
  --etcd-key FILE             its private key
  --etcd-user USER            user of etcd
  --etcd-password-file FILE   file whose first line is the password
  --advertise-url URL         where the other servers reach this one [http://,
                              or https:// with --tls-cert, and the address of
                              --bind, or this host's name]
  --advertise-ca FILE         certificates by which the servers know each other
                              where they speak TLS [Mozilla's]
  --failover-after SECONDS    a server takes over when the active one has been
                              silent for so long, 1 to 60 [5]
  --standby MODE              what a standby does with requests: forward or
                              redirect [forward]
  --restart-grace SECONDS     a lock that is kept lives at least so long after a
                              restart, so that its holder can renew it [5]
  --reconnect-grace SECONDS   a client that has sent an Idempotency-Key and is
                              gone has its place in line for so long [5]
  --logging LEVEL             debug, info, warning, error or none [info]
  --log-format FORMAT         text or json, an object a line [text]
  --admin-userpass-file FILE  who may list and delete resources: yes: everybody;
                              no: nobody; FILE: HTTP Basic, one user:password a
                              line, plain or as from `htpasswd -nB USER` [yes]
  --users FILE                who there is and may do what, in TOML; in place of
                              --admin-userpass-file; taken anew when it changes
  --open-metrics              everybody may read /metrics, also with --users
  --tls-cert FILE             speak TLS, with this certificate and those up to
                              its authority (PEM); taken anew when it changes
  --tls-key FILE              its key (PEM)
  --tls-client-ca FILE        clients need a certificate of this authority
                              (PEM), which names the user
  --base-url URL              start of the lock URLs, for use behind a proxy
                              [http:// and the Host of the request]
  --host NAME                 a name of this server, for browsers; may be
                              repeated [IP addresses, localhost, the name of
                              the host, that of --base-url]
  --trusted-proxy CIDR        proxies, as 10.0.0.0/8 or 10.1.2.3, whose
                              X-Forwarded-For says who the client is; may be
                              repeated [none: the client is who connects]
  --max-wait SECONDS          longest wait that is accepted [1000000000]
  --max-lifetime SECONDS      longest lifetime that is accepted [1000000000]
  --max-locks N               locks held at a time, with the places in line that
                              are kept for clients that are gone [1000000]
  --max-waiters N             requests that wait for locks at a time; some
                              connections are kept for releases [10000]
  --max-waiters-per-resource N
                              the same for each resource [as --max-waiters]
  --max-connections N         connections open at a time; fewer if the system's
                              limits are low [12000]
  --max-subscribers N         clients that follow events at a time [64]
  --fleetlock SLOTS           serve FleetLock: so many nodes of each group may
                              reboot at a time, as in 1,workers=3 [not served]
  --event-log FILE            write what happens to locks to the end of FILE, a
                              JSON object a line; SIGHUP opens it again [none]
  --idle-timeout SECONDS      a connection ends after so long without a request;
                              waiting for a lock is none [75]
  --help                      print this and exit
  --version                   print the version and exit

An option that is not given is taken from the environment, if it is there:
--max-wait from RDLM_SERVE_MAX_WAIT, and so on; one that may be repeated with
commas between its values. SECONDS may be 90, 5m or 250ms.

Try it:
  rdlm serve &
  curl -i localhost:8888/locks/demo -d '{\"title\":\"me\",\"wait\":5,\"lifetime\":60}'
";

pub(super) fn parse(mut args: Arguments) -> Result<Command, UsageError> {
    let log = logging::Options {
        level: setting(&mut args, "--logging", log_level)?.unwrap_or(LevelFilter::Info),
        format: setting(&mut args, "--log-format", log_format)?.unwrap_or(Format::Text),
    };
    let access = match setting(&mut args, "--admin-userpass-file", access)? {
        Some(access) => Some(access),
        // RDLM's spelling.
        None => setting(&mut args, "--admin_userpass_file", access)?,
    };
    let certificates = certificates(&mut args)?;
    let users = setting(&mut args, "--users", file)?.map(UserFile);
    if users.is_some() && access.is_some() {
        return Err(UsageError::new("--users and --admin-userpass-file do not go together"));
    }
    let max_wait = setting(&mut args, "--max-wait", |text| seconds(text, true))?;
    let max_lifetime = setting(&mut args, "--max-lifetime", |text| seconds(text, false))?;
    let longest = Duration::from_secs_f64(MAX_SECONDS);
    let max_waiters =
        setting(&mut args, "--max-waiters", whole_number)?.unwrap_or(DEFAULT_MAX_WAITERS);
    let options = server::Options {
        bind: setting(&mut args, "--bind", |text| number(text, "an IPv4 or IPv6 address"))?,
        port: setting(&mut args, "--port", |text| number(text, "a port from 0 to 65535"))?
            .unwrap_or(DEFAULT_PORT),
        certificates,
        users,
        open_metrics: flag(&mut args, "--open-metrics")?,
        access: access.unwrap_or(Access::Open),
        limits: RequestLimits {
            max_wait: max_wait.unwrap_or(longest),
            max_lifetime: max_lifetime.unwrap_or(longest),
        },
        base_url: setting(&mut args, "--base-url", url::base)?,
        hosts: settings(&mut args, "--host", host)?,
        trusted_proxies: settings(&mut args, "--trusted-proxy", network)?,
        lock_limits: Limits {
            locks: setting(&mut args, "--max-locks", whole_number)?.unwrap_or(DEFAULT_MAX_LOCKS),
            waiting: max_waiters,
            waiting_per_resource: setting(&mut args, "--max-waiters-per-resource", whole_number)?
                .unwrap_or(max_waiters),
        },
        max_connections: setting(&mut args, "--max-connections", positive)?
            .unwrap_or(DEFAULT_MAX_CONNECTIONS),
        max_subscribers: setting(&mut args, "--max-subscribers", whole_number)?
            .unwrap_or(DEFAULT_MAX_SUBSCRIBERS),
        fleetlock: setting(&mut args, "--fleetlock", slots)?,
        event_log: setting(&mut args, "--event-log", file)?,
        data_dir: setting(&mut args, "--data-dir", directory)?,
        cluster: cluster(&mut args)?.map(Box::new),
        restart_grace: setting(&mut args, "--restart-grace", |text| seconds(text, true))?
            .unwrap_or(DEFAULT_RESTART_GRACE),
        reconnect_grace: setting(&mut args, "--reconnect-grace", |text| seconds(text, true))?
            .unwrap_or(DEFAULT_RECONNECT_GRACE),
        idle_timeout: setting(&mut args, "--idle-timeout", |text| seconds(text, false))?
            .unwrap_or(DEFAULT_IDLE_TIMEOUT),
    };
    let advertised = options.cluster.as_ref().and_then(|it| it.advertise_url.as_deref());
    if options.certificates.is_some() && advertised.is_some_and(|url| url.starts_with("http://")) {
        let why = "with --tls-cert, the port speaks TLS: --advertise-url begins with https://";
        return Err(UsageError::new(why));
    }
    if options.data_dir.is_some() && options.cluster.is_some() {
        let why = "--data-dir and --etcd: locks are kept in one of them, not in both";
        return Err(UsageError::new(why));
    }
    nothing_left(args, "serve")?;
    Ok(Command::Serve { options, log })
}

/// The options that are about etcd and the other servers.
fn cluster(args: &mut Arguments) -> Result<Option<cluster::Options>, UsageError> {
    let endpoints = setting(args, "--etcd", endpoints)?;
    let prefix = setting(args, "--etcd-prefix", prefix)?;
    let ca = setting(args, "--etcd-ca", file)?;
    let cert = setting(args, "--etcd-cert", file)?;
    let key = setting(args, "--etcd-key", file)?;
    let user = setting(args, "--etcd-user", |text| Ok(text.to_string()))?;
    let password_file = setting(args, "--etcd-password-file", file)?;
    let advertise_url = setting(args, "--advertise-url", advertise_url)?;
    let advertise_ca = setting(args, "--advertise-ca", file)?;
    let failover_after = setting(args, "--failover-after", failover_after)?;
    let standby = setting(args, "--standby", standby)?;
    let both_or_none = [
        ("--etcd-cert", cert.is_some(), "--etcd-key", key.is_some()),
        ("--etcd-user", user.is_some(), "--etcd-password-file", password_file.is_some()),
    ];
    for (one, has_one, other, has_other) in both_or_none {
        if has_one != has_other {
            return Err(UsageError::new(format!("{one} and {other} go together")));
        }
    }
    let Some(endpoints) = endpoints else {
        let given = [
            ("--etcd-prefix", prefix.is_some()),
            ("--etcd-ca", ca.is_some()),
            ("--etcd-cert", cert.is_some()),
            ("--etcd-user", user.is_some()),
            ("--advertise-url", advertise_url.is_some()),
            ("--advertise-ca", advertise_ca.is_some()),
            ("--failover-after", failover_after.is_some()),
            ("--standby", standby.is_some()),
        ];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(UsageError::new(format!("{option} goes with --etcd"))),
            None => Ok(None),
        };
    };
    Ok(Some(cluster::Options {
        endpoints,
        prefix: prefix.unwrap_or_else(|| DEFAULT_ETCD_PREFIX.into()),
        ca,
        cert,
        key,
        user,
        password_file,
        advertise_url,
        advertise_ca,
        failover_after: failover_after.unwrap_or(DEFAULT_FAILOVER_AFTER),
        standby: standby.unwrap_or(Standby::Forward),
    }))
}

fn certificates(args: &mut Arguments) -> Result<Option<CertificateFiles>, UsageError> {
    let certificate = setting(args, "--tls-cert", file)?;
    let key = setting(args, "--tls-key", file)?;
    let client_authority = setting(args, "--tls-client-ca", file)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(CertificateFiles { certificate, key, client_authority }))
        }
        (None, None) if client_authority.is_none() => Ok(None),
        (None, None) => Err(UsageError::new("--tls-client-ca goes with --tls-cert and --tls-key")),
        _ => Err(UsageError::new("--tls-cert and --tls-key go together")),
    }
}

/// The value of an option, or else that of its variable in the environment.
fn setting<T>(
    args: &mut Arguments,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, UsageError> {
    if let Some(value) = option(args, name, &parse)? {
        return Ok(Some(value));
    }
    let variable = variable(name);
    let Some(text) = environment(&variable)? else { return Ok(None) };
    let wrong = |expected| UsageError::new(format!("{variable} {text:?}: expected {expected}"));
    parse(&text).map(Some).map_err(wrong)
}

/// The values of an option that may be repeated, or else those of its variable.
fn settings<T>(
    args: &mut Arguments,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, UsageError> {
    let mut values = Vec::new();
    while let Some(value) = option(args, name, &parse)? {
        values.push(value);
    }
    let variable = variable(name);
    let Some(text) = environment(&variable)?.filter(|_| values.is_empty()) else {
        return Ok(values);
    };
    let wrong = |expected| UsageError::new(format!("{variable} {text:?}: expected {expected}"));
    text.split(',').map(|value| parse(value.trim()).map_err(wrong)).collect()
}

/// Whether an option without a value is given, or its variable says yes.
fn flag(args: &mut Arguments, name: &'static str) -> Result<bool, UsageError> {
    let variable = variable(name);
    match environment(&variable)?.as_deref() {
        _ if args.contains(name) => Ok(true),
        None | Some("no") => Ok(false),
        Some("yes") => Ok(true),
        Some(text) => Err(UsageError::new(format!("{variable} {text:?}: expected yes or no"))),
    }
}

fn variable(name: &str) -> String {
    format!("RDLM_SERVE{}", name[1..].replace('-', "_").to_uppercase())
}

fn slots(text: &str) -> Result<Slots, String> {
    text.parse().map_err(str::to_string)
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

fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("text or json".into()),
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

fn host(text: &str) -> Result<String, String> {
    let is_name = is_host(text) && !text.is_empty() && !text.contains(':');
    if is_name { Ok(text.into()) } else { Err("a name such as locks.example.com".into()) }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let network = text.parse().ok().or_else(address);
    network.ok_or_else(|| "an IP address or a network such as 10.0.0.0/8".into())
}

fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a file".into()) } else { Ok(text.into()) }
}

fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let expected = "URLs such as http://10.0.0.1:2379, separated by commas, without a path";
    let endpoint = |text: &str| {
        let url = url::base(text.trim()).ok()?;
        let host = url.split_once("://").map(|(_, host)| host)?;
        (!host.contains(['/', '@'])).then_some(url)
    };
    text.split(',').map(endpoint).collect::<Option<_>>().ok_or_else(|| expected.into())
}

fn prefix(text: &str) -> Result<String, String> {
    let legal = text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if legal && text.ends_with('/') {
        Ok(text.into())
    } else {
        Err("visible ASCII characters that end in /, such as /rdlm/".into())
    }
}

fn advertise_url(text: &str) -> Result<String, String> {
    let expected = "a URL such as http://10.0.0.1:8888, without a path";
    let url = url::base(text).map_err(|_| expected)?;
    match url.split_once("://") {
        Some((_, host)) if !host.contains(['/', '@']) => Ok(url),
        _ => Err(expected.into()),
    }
}

fn failover_after(text: &str) -> Result<Duration, String> {
    let expected = "a number of seconds from 1 to 60";
    let range = Duration::from_secs(1)..=Duration::from_secs(60);
    seconds(text, false).ok().filter(|time| range.contains(time)).ok_or_else(|| expected.into())
}

fn standby(text: &str) -> Result<Standby, String> {
    match text {
        "forward" => Ok(Standby::Forward),
        "redirect" => Ok(Standby::Redirect),
        _ => Err("forward or redirect".into()),
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a directory".into()) } else { Ok(text.into()) }
}
