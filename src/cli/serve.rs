//! The options of the server.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;
use pico_args::Arguments;

use super::given::{Given, number, seconds};
use super::{Command, UsageError, table};
use crate::client::raw::url;
use crate::client::{PemFile, ServerUrl, Target};
use crate::cluster::{self, Standby};
use crate::doors::access::Access;
use crate::doors::event_log;
use crate::doors::users::UserFile;
use crate::doors::{RequestLimits, Settings, Slots};
use crate::history;
use crate::http::certificates::CertificateFiles;
use crate::http::request::is_host;
use crate::lock::Limits;
use crate::logging::{self, Format};
use crate::server;

pub(super) fn parse(mut given: Given) -> Result<Command, UsageError> {
    let log = logging::Options {
        level: given.value("--logging", log_level)?,
        format: given.value("--log-format", log_format)?,
    };
    let mut options = options(&mut given)?;
    let only_check = given.flag("--check")?;
    let settings = given.settings();
    given.no_unknown_variables()?;
    given.nothing_left()?;
    refuse_contradictions(&options)?;
    add_advertised_host(&mut options);
    Ok(if only_check {
        Command::Check { options, settings }
    } else {
        Command::Serve { options, log }
    })
}

/// Points a client at the server that this environment configures, as in the server's container. Its
/// certificate is pinned, because it need not name the loopback.
pub(super) fn point_at_own(target: &mut Target) -> Result<(), UsageError> {
    let mut given = Given::new(&table::SERVE, Arguments::from_vec(Vec::new()));
    let bind = given.optional("--bind", |text| number(text, "an IPv4 or IPv6 address"))?;
    let port = given.value("--port", |text| number(text, "a port from 0 to 65535"))?;
    let certificates = certificates(&mut given)?;
    let host = match bind.filter(|address: &IpAddr| !address.is_unspecified()) {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!("localhost:{port}"),
    };
    let scheme = if certificates.is_some() { "https" } else { "http" };
    target.servers = vec![ServerUrl { url: format!("{scheme}://{host}"), credentials: None }];
    let named_by = "RDLM_SERVE_TLS_CERT".into();
    target.tls.pinned = certificates.map(|it| PemFile { path: it.certificate, named_by });
    Ok(())
}

fn options(given: &mut Given) -> Result<server::Options, UsageError> {
    let data_dir = given.optional("--data-dir", directory)?;
    Ok(server::Options {
        bind: given.optional("--bind", |text| number(text, "an IPv4 or IPv6 address"))?,
        port: given.value("--port", |text| number(text, "a port from 0 to 65535"))?,
        certificates: certificates(given)?,
        doors: doors(given)?,
        lock_limits: lock_limits(given)?,
        max_connections: given.value("--max-connections", positive)?,
        event_log: event_log(given)?,
        history: history(given, data_dir.as_deref())?,
        data_dir,
        cluster: cluster(given)?.map(Box::new),
        restart_grace: given.value("--restart-grace", time_or_zero)?,
        reconnect_grace: given.value("--reconnect-grace", time_or_zero)?,
        idle_timeout: given.value("--idle-timeout", time)?,
    })
}

fn doors(given: &mut Given) -> Result<Settings, UsageError> {
    let (users, access) = users_or_access(given)?;
    Ok(Settings {
        users,
        access,
        open_metrics: given.flag("--open-metrics")?,
        limits: RequestLimits {
            max_wait: given.value("--max-wait", time_or_zero)?,
            max_lifetime: given.value("--max-lifetime", time)?,
        },
        base_url: given.optional("--base-url", url::base)?,
        hosts: given.repeated("--host", host)?,
        trusted_proxies: given.repeated("--trusted-proxy", network)?,
        max_subscribers: given.value("--max-subscribers", whole_number)?,
        fleetlock: given.optional("--fleetlock", slots)?,
    })
}

fn event_log(given: &mut Given) -> Result<Option<event_log::Options>, UsageError> {
    let file = given.optional("--event-log", file)?;
    let uids = given.flag("--event-log-uids")?;
    if uids && file.is_none() {
        return Err(UsageError::new("--event-log-uids goes with --event-log"));
    }
    Ok(file.map(|file| event_log::Options { file, uids }))
}

/// If the server's names are restricted, that in `--advertise-url` is one of them: other servers send
/// clients there.
fn add_advertised_host(options: &mut server::Options) {
    let is_named = !options.doors.hosts.is_empty() || options.doors.base_url.is_some();
    let url = options.cluster.as_ref().and_then(|cluster| cluster.advertise_url.as_deref());
    let host = url.and_then(|url| url.split_once("://")).map(|(_, host)| host.to_string());
    options.doors.hosts.extend(host.filter(|_| is_named));
}

fn refuse_contradictions(options: &server::Options) -> Result<(), UsageError> {
    let advertised = options.cluster.as_ref().and_then(|it| it.advertise_url.as_deref());
    if options.certificates.is_some() && advertised.is_some_and(|url| url.starts_with("http://")) {
        let why = "with --tls-cert, the port speaks TLS: --advertise-url begins with https://";
        return Err(UsageError::new(why));
    }
    if options.data_dir.is_some() && options.cluster.is_some() {
        let why = "--data-dir and --etcd: locks are kept in one of them, not in both";
        return Err(UsageError::new(why));
    }
    Ok(())
}

/// The history is in the directory that was named for it, or else in that of the locks.
fn history(
    given: &mut Given,
    data_dir: Option<&Path>,
) -> Result<Option<history::Settings>, UsageError> {
    let kept = given.value("--history", kept)?;
    let own = given.optional("--history-dir", directory)?;
    let required = own.is_some();
    let Some(dir) = own.or_else(|| data_dir.map(|dir| dir.join("history"))) else {
        if kept.is_some() && given.was_given("--history") {
            return Err(UsageError::new("--history goes with --data-dir or --history-dir"));
        }
        return Ok(None);
    };
    match kept {
        None if required => {
            Err(UsageError::new("--history off and --history-dir do not go together"))
        }
        None => Ok(None),
        Some((keep, bytes)) => Ok(Some(history::Settings { dir, keep, bytes, required })),
    }
}

fn users_or_access(given: &mut Given) -> Result<(Option<UserFile>, Access), UsageError> {
    let users = given.optional("--users", file)?.map(UserFile);
    let access = given.value("--admin-userpass-file", access)?;
    if users.is_some() && given.was_given("--admin-userpass-file") {
        return Err(UsageError::new("--users and --admin-userpass-file do not go together"));
    }
    Ok((users, access))
}

fn lock_limits(given: &mut Given) -> Result<Limits, UsageError> {
    let waiting = given.value("--max-waiters", whole_number)?;
    let per_resource = given.optional("--max-waiters-per-resource", whole_number)?;
    Ok(Limits {
        locks: given.value("--max-locks", whole_number)?,
        waiting,
        waiting_per_resource: per_resource.unwrap_or(waiting),
    })
}

/// The options for etcd and other servers.
fn cluster(given: &mut Given) -> Result<Option<cluster::Options>, UsageError> {
    let endpoints = given.optional("--etcd", endpoints)?;
    let options = cluster::Options {
        endpoints: endpoints.unwrap_or_default(),
        prefix: given.value("--etcd-prefix", prefix)?,
        ca: given.optional("--etcd-ca", file)?,
        cert: given.optional("--etcd-cert", file)?,
        key: given.optional("--etcd-key", file)?,
        user: given.optional("--etcd-user", |text| Ok(text.to_string()))?,
        password_file: given.optional("--etcd-password-file", file)?,
        advertise_url: given.optional("--advertise-url", advertise_url)?,
        advertise_ca: given.optional("--advertise-ca", file)?,
        failover_after: given.value("--failover-after", failover_after)?,
        standby: given.value("--standby", standby)?,
        accept_restored: given.optional("--etcd-accept-restored", |text| {
            number(text, "the number of a head, which /health and the log say")
        })?,
    };
    for (one, other) in [("--etcd-cert", "--etcd-key"), ("--etcd-user", "--etcd-password-file")] {
        if given.was_given(one) != given.was_given(other) {
            return Err(UsageError::new(format!("{one} and {other} go together")));
        }
    }
    if given.was_given("--etcd") {
        return Ok(Some(options));
    }
    let mut without_etcd = table::SEVERAL_SERVERS.options.iter().map(|option| option.name);
    match without_etcd.find(|option| given.was_given(option)) {
        Some(option) => Err(UsageError::new(format!("{option} goes with --etcd"))),
        None => Ok(None),
    }
}

fn certificates(given: &mut Given) -> Result<Option<CertificateFiles>, UsageError> {
    let certificate = given.optional("--tls-cert", file)?;
    let key = given.optional("--tls-key", file)?;
    let client_authority = given.optional("--tls-client-ca", file)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(CertificateFiles { certificate, key, client_authority }))
        }
        (None, None) if client_authority.is_none() => Ok(None),
        (None, None) => Err(UsageError::new("--tls-client-ca goes with --tls-cert and --tls-key")),
        _ => Err(UsageError::new("--tls-cert and --tls-key go together")),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    seconds(text, false)
}

fn time_or_zero(text: &str) -> Result<Duration, String> {
    seconds(text, true)
}

/// How long and how many bytes; `None`: nothing.
fn kept(text: &str) -> Result<Option<(Duration, u64)>, String> {
    let expected = "off, or a time and a size such as 7d,64MiB, of at least 1h,1MiB";
    if text == "off" {
        return Ok(None);
    }
    let parts = text.split_once(',');
    let parts = parts.and_then(|(time, size)| Some((seconds(time, false).ok()?, bytes(size)?)));
    let least = (Duration::from_secs(3600), 1 << 20);
    let enough = parts.filter(|(time, bytes)| *time >= least.0 && *bytes >= least.1);
    enough.map(Some).ok_or_else(|| expected.into())
}

fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let mut numbers = units.iter().filter_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << bits)
    });
    numbers.next()
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
