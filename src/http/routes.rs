//! From a request target to what it names.

use percent_encoding::percent_decode_str;

use super::message::{Method, Status};
use super::problem::Problem;
use crate::lock::{LockId, ResourceName};
use crate::metrics::Kind;

/// What a request is about.
#[derive(Debug, PartialEq)]
pub(super) enum Route {
    /// `*`: the server as a whole.
    Server,
    /// `/`
    Home,
    /// `/openapi.json`
    OpenApi,
    /// `/health`
    Health,
    /// `/metrics`
    Metrics,
    /// `/locks/{resource}`
    Locks(ResourceName),
    /// `/locks/{resource}/{uid}`
    Lock(ResourceName, LockId),
    /// `/resources`
    Resources,
    /// `/resources/{resource}`
    Resource(ResourceName),
    /// `/status`
    Status,
}

impl Route {
    /// Takes a target in origin-form, absolute-form or asterisk-form (RFC 9112, section
    /// 3.2). A query string is ignored.
    pub(super) fn parse(target: &str) -> Result<Self, Problem> {
        let path = path(target)?;
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        let (first, second, third) = (segments.next(), segments.next(), segments.next());
        if segments.next().is_some() {
            return Err(not_found());
        }
        match (first.unwrap_or_default(), second, third) {
            ("*", None, None) if path == "*" => Ok(Self::Server),
            ("", None, None) => Ok(Self::Home),
            ("openapi.json", None, None) => Ok(Self::OpenApi),
            ("health", None, None) => Ok(Self::Health),
            ("metrics", None, None) => Ok(Self::Metrics),
            ("locks", Some(resource), None) => Ok(Self::Locks(name(resource)?)),
            ("locks", Some(resource), Some(id)) => {
                let resource = name(resource)?;
                let id = id.parse().map_err(|_| {
                    let detail = "there is no such lock: a lock's uid is 32 lower-case hex digits";
                    Problem::new(Status::NotFound, detail)
                })?;
                Ok(Self::Lock(resource, id))
            }
            ("status", None, None) => Ok(Self::Status),
            ("resources", None, None) => Ok(Self::Resources),
            ("resources", Some(resource), None) => Ok(Self::Resource(name(resource)?)),
            _ => Err(not_found()),
        }
    }

    /// What a request is to the metrics.
    pub(super) fn kind(&self, method: Method) -> Kind {
        match (self, method) {
            (Self::Locks(_), Method::Post) => Kind::Acquire,
            (Self::Lock(..), Method::Delete) => Kind::Release,
            (Self::Lock(..), Method::Patch) => Kind::Renew,
            (Self::Lock(..), Method::Get | Method::Head) => Kind::Look,
            (Self::Resources | Self::Resource(_) | Self::Status, _) => Kind::Admin,
            _ => Kind::Other,
        }
    }

    /// Whether a method is supported.
    pub(super) fn has(&self, method: Method) -> bool {
        self.methods().split(", ").any(|name| name == method.name())
    }

    /// The supported methods, as the Allow header lists them.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Server => "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
            Self::Home | Self::OpenApi | Self::Health | Self::Metrics | Self::Status => {
                "GET, HEAD, OPTIONS"
            }
            Self::Locks(_) => "POST, OPTIONS",
            Self::Lock(..) => "GET, HEAD, PATCH, DELETE, OPTIONS",
            Self::Resources | Self::Resource(_) => "GET, HEAD, DELETE, OPTIONS",
        }
    }
}

fn path(target: &str) -> Result<&str, Problem> {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    if target.starts_with('/') || target == "*" {
        return Ok(target);
    }
    let after_scheme = target
        .split_once("://")
        .filter(|(scheme, _)| ["http", "https"].iter().any(|s| scheme.eq_ignore_ascii_case(s)));
    match after_scheme {
        Some((_, rest)) => Ok(rest.find('/').map_or("/", |at| &rest[at..])),
        None => Err(Problem::bad_request("the request target is not a path that begins with /")),
    }
}

fn name(segment: &str) -> Result<ResourceName, Problem> {
    if segment.is_empty() {
        return Err(not_found());
    }
    let decoded = percent_decode_str(segment).decode_utf8().unwrap_or_default();
    Ok(decoded.parse()?)
}

fn not_found() -> Problem {
    let detail = "there is nothing here; try /locks/{resource}, /locks/{resource}/{uid}, \
                  /resources, /resources/{resource} or /status; /openapi.json describes them";
    Problem::new(Status::NotFound, detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// A target of every route but `*`, with its path in the document.
    const TARGETS: [(&str, &str); 9] = [
        ("/", "/"),
        ("/openapi.json", "/openapi.json"),
        ("/health", "/health"),
        ("/metrics", "/metrics"),
        ("/locks/r", "/locks/{resource}"),
        ("/locks/r/aa4e181e17374148a21b30d9dcb941f9", "/locks/{resource}/{uid}"),
        ("/resources", "/resources"),
        ("/resources/r", "/resources/{resource}"),
        ("/status", "/status"),
    ];

    /// Fails to compile when a route is added that the table above lacks.
    fn is_in_table(route: &Route) -> bool {
        match route {
            Route::Server => false,
            Route::Home | Route::OpenApi | Route::Health | Route::Metrics | Route::Status => true,
            Route::Locks(_) | Route::Lock(..) | Route::Resources | Route::Resource(_) => true,
        }
    }

    #[test]
    fn the_openapi_document_has_the_routes_and_methods_that_there_are() {
        let document: Value = serde_json::from_str(super::super::OPENAPI).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), TARGETS.len());
        for (target, path) in TARGETS {
            let route = Route::parse(target).unwrap();
            assert!(is_in_table(&route));
            let documented =
                paths[path].as_object().unwrap().keys().filter(|key| *key != "parameters");
            let documented: BTreeSet<_> = documented.map(|method| method.to_uppercase()).collect();
            let methods = route.methods().split(", ").filter(|m| !["HEAD", "OPTIONS"].contains(m));
            let methods: BTreeSet<_> = methods.map(str::to_string).collect();
            assert_eq!(documented, methods, "{path}");
        }
    }
}
