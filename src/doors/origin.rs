//! Which host a request is for, and for which site a browser has sent it.

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

/// A page of another site must not release locks through the browser of somebody who can
/// reach this server.
pub(super) fn refuse_cross_site(request: &Request<'_>) -> Result<(), Problem> {
    if matches!(request.method, "GET" | "HEAD") {
        return Ok(());
    }
    let origin = request.headers.only("Origin")?;
    let foreign = origin.is_some_and(|origin| !is_own_origin(origin, request.host));
    if foreign || request.headers.only("Sec-Fetch-Site")? == Some("cross-site") {
        let detail = "a browser sent this request for another site, which is not allowed";
        return Err(Problem::new(Status::Forbidden, detail));
    }
    Ok(())
}

fn is_own_origin(origin: &str, host: Singleton<'_>) -> bool {
    let (Some((scheme, authority)), Singleton::One(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    // An Origin never names its scheme's default port; a Host may.
    let host = host.strip_suffix(default_port).unwrap_or(host);
    authority.eq_ignore_ascii_case(host)
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
}
