//! The table of all doors, and the entry for a request.

use percent_encoding::percent_decode_str;

use super::door::{AnsweredBy, Door, Named, Operation, Path};
use super::refusals::{invalid, not_found};
use super::{admin, events, fleetlock, health, page, rest};
use crate::http::{Problem, Status, Target};
use crate::lock::ResourceName;

/// Those that most requests are for come first.
const DOORS: [&Door; 6] =
    [&rest::DOOR, &fleetlock::DOOR, &admin::DOOR, &events::DOOR, &health::DOOR, &page::DOOR];

/// The target `*`: the server as a whole.
const SERVER: Door = Door::new(&[Path::new("*", AnsweredBy::Active, &[])]);

/// The entry that a request is for, and the names in its path.
pub(super) struct Route {
    pub(super) door: &'static Door,
    path: &'static Path,
    pub(super) named: Named,
}

impl Route {
    pub(super) fn parse(target: &Target<'_>, method: &str) -> Result<Self, Problem> {
        let path = target.path();
        if path.is_empty() {
            let detail = "the request target is not a path that begins with /";
            return Err(Problem::bad_request(detail));
        }
        let (door, entry) = entry(path, method).ok_or_else(|| nothing_at(path))?;
        Ok(Self { door, path: entry, named: named(entry.pattern, path)? })
    }

    /// Whether it is the target `*`.
    pub(super) fn is_server(&self) -> bool {
        self.path.operations.is_empty()
    }

    pub(super) fn operation(&self, method: &str) -> Option<&'static Operation> {
        operation(self.path, method)
    }

    /// Whether it is only for those who may see or end what is not theirs.
    pub(super) fn is_administrative(&self) -> bool {
        self.path.operations.iter().any(|operation| operation.requires.is_administrative())
    }

    pub(super) fn resource(&self) -> Option<&ResourceName> {
        match &self.named {
            Named::Nothing => None,
            Named::Resource(resource) | Named::Lock(resource, _) => Some(resource),
        }
    }

    /// The supported methods, as the Allow header lists them.
    pub(super) fn allow(&self) -> String {
        if self.is_server() {
            return "GET, HEAD, POST, PATCH, DELETE, OPTIONS".into();
        }
        let mut allow = String::new();
        for operation in self.path.operations {
            allow += operation.method;
            allow += if operation.method == "GET" { ", HEAD, " } else { ", " };
        }
        allow + "OPTIONS"
    }
}

/// The labels of requests in the metrics, each once.
pub(super) fn kinds() -> Vec<&'static str> {
    let paths = DOORS.iter().flat_map(|door| door.paths);
    let operations = paths.flat_map(|path| path.operations);
    let mut kinds: Vec<_> = operations.map(|operation| operation.kind).collect();
    kinds.push(super::door::OTHER);
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Which server answers requests for a path, and what a method does with it.
pub(super) fn lookup(path: &str, method: &str) -> (AnsweredBy, Option<&'static Operation>) {
    match entry(path, method) {
        Some((_, path)) => (path.answered_by, operation(path, method)),
        None => (AnsweredBy::Active, None),
    }
}

fn entry(path: &str, method: &str) -> Option<(&'static Door, &'static Path)> {
    let doors = DOORS.iter().copied().chain([&SERVER]);
    let mut entries = doors.flat_map(|door| door.paths.iter().map(move |entry| (door, entry)));
    let takes_rest = |entry| operation(entry, method).is_some_and(|each| each.takes_rest);
    entries.find(|(_, entry)| {
        let pattern = entry.pattern;
        fits(pattern, path.split('/')) || takes_rest(entry) && fits(pattern, split(pattern, path))
    })
}

/// The segments of a path as a pattern has them: the last one is all that is left.
fn split<'a>(pattern: &str, path: &'a str) -> impl Iterator<Item = &'a str> {
    let slashes = pattern.bytes().filter(|byte| *byte == b'/').count();
    path.splitn(slashes + 1, '/')
}

/// HEAD goes wherever GET does.
fn operation(path: &'static Path, method: &str) -> Option<&'static Operation> {
    let method = if method == "HEAD" { "GET" } else { method };
    path.operations.iter().find(|operation| operation.method == method)
}

fn fits<'a>(pattern: &str, mut segments: impl Iterator<Item = &'a str>) -> bool {
    let fits = |expected: &str| {
        segments.next().is_some_and(|segment| is_name(expected) || segment == expected)
    };
    pattern.split('/').all(fits) && segments.next().is_none()
}

fn named(pattern: &str, path: &str) -> Result<Named, Problem> {
    let segments = pattern.split('/').zip(split(pattern, path));
    let mut names = segments.filter(|(expected, _)| is_name(expected)).map(|(_, segment)| segment);
    let Some(resource) = names.next() else { return Ok(Named::Nothing) };
    let resource = name(resource)?;
    let Some(id) = names.next() else { return Ok(Named::Resource(resource)) };
    let id = id.parse().map_err(|_| {
        let detail = "there is no such lock: a lock's uid is 32 lower-case hex digits; a / in the \
                      name of a resource is written %2F, which a proxy may have decoded";
        Problem::new(Status::NotFound, detail)
    })?;
    Ok(Named::Lock(resource, id))
}

fn nothing_at(path: &str) -> Problem {
    if !(path.starts_with("/locks/") || path.starts_with("/resources/")) {
        return not_found();
    }
    let detail = "there is nothing at a path of this depth; a / in the name of a resource is \
                  written %2F, which a proxy in between may have decoded";
    Problem::new(Status::NotFound, detail)
}

fn is_name(segment: &str) -> bool {
    segment.starts_with('{')
}

fn name(segment: &str) -> Result<ResourceName, Problem> {
    if segment.is_empty() {
        return Err(not_found());
    }
    let decoded = percent_decode_str(segment).decode_utf8().unwrap_or_default();
    decoded.parse().map_err(invalid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_openapi_document_has_the_routes_and_methods_that_there_are() {
        let document: Value = serde_json::from_str(health::OPENAPI).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = document["paths"].as_object().unwrap();
        // There is no room for others in such a document.
        let has_room = |method: &&str| !["HEAD", "OPTIONS", "LOCK", "UNLOCK"].contains(method);
        let patterns = DOORS.iter().flat_map(|door| door.paths).map(|path| path.pattern);
        assert_eq!(paths.len(), patterns.clone().count());
        for pattern in patterns {
            let target = pattern.replace("{resource}", "r");
            let target = target.replace("{uid}", "aa4e181e17374148a21b30d9dcb941f9");
            let documented =
                paths[pattern].as_object().unwrap().keys().filter(|key| *key != "parameters");
            let documented: BTreeSet<_> = documented.map(|method| method.to_uppercase()).collect();
            let allow = Route::parse(&Target::parse(&target), "GET").unwrap().allow();
            let methods = allow.split(", ").filter(has_room);
            let methods: BTreeSet<_> = methods.map(str::to_string).collect();
            assert_eq!(documented, methods, "{pattern}");
        }
    }

    #[test]
    fn a_handler_gets_the_names_of_its_path() {
        for path in DOORS.iter().flat_map(|door| door.paths) {
            let names = path.pattern.matches('{').count();
            for operation in path.operations {
                assert_eq!(operation.names(), names, "{} {}", operation.method, path.pattern);
            }
        }
    }

    #[test]
    fn a_target_names_one_thing_or_nothing() {
        for target in
            ["/", "/?a/b", "/health", "http://h", "http://h/health?x", "*", "/locks/a%2Db"]
        {
            assert!(Route::parse(&Target::parse(target), "GET").is_ok(), "{target}");
        }
        for target in
            ["", "health", "//", "/locks", "/locks/", "/locks/a/b/c", "/resources/a/b", "/health/"]
        {
            assert!(Route::parse(&Target::parse(target), "GET").is_err(), "{target}");
        }
    }
}
