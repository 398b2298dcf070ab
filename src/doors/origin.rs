//! Which host a request is for, and for which site a browser has sent it.

use std::net::IpAddr;

use crate::http::request::is_host;
use crate::http::{Problem, Request, Singleton, Status};

/// RFC 9112, section 3.2: a request in HTTP/1.1 names exactly one host.
pub(super) fn require_one_host(request: &Request<'_>) -> Result<(), Problem> {
    match request.host {
        Singleton::One(host) if !is_host(host) => {
            Err(Problem::bad_request("the Host header is not a host name with an optional port"))
        }
        Singleton::None | Singleton::One("") if !request.http_1_0 => {
            let detail = "the Host header is missing or empty: HTTP/1.1 asks for exactly one";
            Err(Problem::bad_request(detail))
        }
        Singleton::Several => {
            Err(Problem::bad_request("there are several Host headers: exactly one is allowed"))
        }
        Singleton::One(_) | Singleton::None => Ok(()),
    }
}

/// The names of this server, for browsers.
///
/// A page of another site must not release locks through the browser of a user who can reach
/// this server. A browser says in `Origin` for which site it sends a request. That this is the
/// host of the request is not enough: who owns the name of a site can have it resolve to this
/// server. So the name has to be one of this server's.
///
/// Such a page can also read, and a browser says nothing of a GET for its own site: no `Origin`, and
/// `Sec-Fetch-Site` not without TLS. Only `Host` has the page's name. Clients that are no browsers
/// may use any name, so that counts only where somebody has said what this server is called.
pub(super) struct Site {
    /// In lower case.
    hosts: Vec<String>,
    /// Somebody has said what it is called.
    is_named: bool,
    /// That of the base URL, as browsers write it. A proxy may have put in any host.
    origin: Option<String>,
}

impl Site {
    /// A server that is called `hosts`, beside localhost, the name of the host that it is on, and the
    /// host of its base URL.
    pub(super) fn new(hosts: &[String], own_host: &str, base_url: Option<&str>) -> Self {
        let base = base_url.and_then(|url| url.split_once("://")).map(|(scheme, rest)| {
            let authority = rest.split('/').next().unwrap_or_default();
            (scheme, authority.rsplit('@').next().unwrap_or_default())
        });
        let of_base = base.map(|(_, authority)| name(authority));
        let is_named = !hosts.is_empty() || base_url.is_some();
        let hosts = hosts.iter().map(|host| name(host));
        let hosts = hosts.chain(["localhost", own_host]).chain(of_base);
        Self {
            hosts: hosts.map(str::to_ascii_lowercase).collect(),
            is_named,
            origin: base.map(|(scheme, authority)| {
                format!("{scheme}://{}", without_default_port(scheme, authority))
            }),
        }
    }

    /// Refuses what a browser sends for another site, or what it takes for this site and is not.
    /// A page that was not encrypted may be anybody's where this server's own are.
    pub(super) fn admit(&self, request: &Request<'_>, encrypted: bool) -> Result<(), Problem> {
        let changes = !matches!(request.method, "GET" | "HEAD");
        if changes && request.headers.only("Sec-Fetch-Site")? == Some("cross-site") {
            return Err(foreign());
        }
        let Some(origin) = request.headers.only("Origin")? else { return Ok(()) };
        if self.origin.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(origin)) {
            return Ok(());
        }
        let downgraded = encrypted && !origin.starts_with("https://");
        if changes && (downgraded || !is_own_origin(origin, request.host)) {
            return Err(foreign());
        }
        match request.host {
            Singleton::One(host) if !self.has_name(host) => {
                Err(unknown(host, "and a browser sent this request"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to show locks to what may be a page whose name only resolves to this server. Nobody
    /// owns a name without a dot; proxies and containers use such names for this server.
    pub(super) fn admit_reader(&self, request: &Request<'_>) -> Result<(), Problem> {
        match request.host {
            Singleton::One(host)
                if self.is_named && !self.has_name(host) && name(host).contains('.') =>
            {
                Err(unknown(host, "and a page of that name could read the locks"))
            }
            _ => Ok(()),
        }
    }

    fn has_name(&self, host: &str) -> bool {
        let name = name(host);
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        address.unwrap_or(name).parse::<IpAddr>().is_ok()
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

fn unknown(host: &str, why: &str) -> Problem {
    let name = name(host);
    let detail = format!(
        "{name} is not known as a name of this server, {why}: start the server with --host {name} \
         if it is one"
    );
    Problem::new(Status::Forbidden, detail)
}

fn foreign() -> Problem {
    let detail = "a browser sent this request for another site, which is not allowed";
    Problem::new(Status::Forbidden, detail)
}

fn is_own_origin(origin: &str, host: Singleton<'_>) -> bool {
    let (Some((scheme, authority)), Singleton::One(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    authority.eq_ignore_ascii_case(without_default_port(scheme, host))
}

/// An Origin never names its scheme's default port; a Host may.
fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    authority.strip_suffix(default_port).unwrap_or(authority)
}

/// A host without its port.
fn name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    // The root of all names, which some write.
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_site_may_change_locks_through_a_browser() {
        let own = Singleton::One("Locks.Example:8888");
        assert!(is_own_origin("http://locks.example:8888", own));
        assert!(is_own_origin("https://locks.example:8888", own));
        assert!(is_own_origin("http://a.example", Singleton::One("a.example:80")));
        assert!(is_own_origin("https://a.example", Singleton::One("a.example:443")));
        for foreign in ["http://locks.example", "http://evil.example:8888", "null", "", "://"] {
            assert!(!is_own_origin(foreign, own), "{foreign:?}");
        }
        assert!(!is_own_origin("https://a.example", Singleton::One("a.example:80")));
        assert!(!is_own_origin("http://a.example", Singleton::None));
    }

    #[test]
    fn a_server_has_the_names_that_it_was_given_and_that_of_its_base_url() {
        let site =
            Site::new(&["Locks.example".into()], "node-1", Some("https://me@base.example:443/p"));
        for own in [
            "127.0.0.1",
            "10.1.2.3:8888",
            "[::1]",
            "[::1]:8888",
            "LOCALHOST:8888",
            "locks.EXAMPLE:80",
            "locks.example.",
            "locks.example.:8888",
            "base.example",
            "Node-1:8888",
        ] {
            assert!(site.has_name(own), "{own}");
        }
        for other in ["evil.example", "x.locks.example", "locks.example.evil", "", ":80", "[x]"] {
            assert!(!site.has_name(other), "{other:?}");
        }
        assert_eq!(site.origin.as_deref(), Some("https://base.example"));
    }
}
