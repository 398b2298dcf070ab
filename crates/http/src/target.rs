//! Request targets: parsed in one place, so that all forms compare by path.

use super::query::Query;

/// A request target (RFC 9112, section 3.2).
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    text: &'a str,
    authority: Option<&'a str>,
    path: &'a str,
    query: Query<'a>,
}

impl<'a> Target<'a> {
    /// The target of a request that could not be read.
    pub const NONE: Self = Self { text: "", authority: None, path: "", query: Query::NONE };

    /// Parses a target in origin-form, absolute-form or asterisk-form. Any other one has no path.
    pub fn parse(text: &'a str) -> Self {
        let (authority, rest) = match absolute(text) {
            Some((authority, rest)) => (Some(authority), rest),
            None => (None, text),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match path {
            // RFC 9112, section 3.2.1: an empty path is sent as this one.
            "" if authority.is_some() => "/",
            "*" if authority.is_none() => path,
            path if path.starts_with('/') => path,
            _ => "",
        };
        Self { text, authority, path, query: Query::new(query) }
    }

    /// The target as it was sent.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The host and port of an absolute-form.
    pub fn authority(&self) -> Option<&'a str> {
        self.authority
    }

    /// `/…` as it was sent, without the query; or `*`. Empty if the target is in none of the
    /// forms that a server takes.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The path with its query.
    pub fn origin_form(&self) -> String {
        let query = self.query.as_str();
        if query.is_empty() { self.path.into() } else { format!("{}?{query}", self.path) }
    }

    /// The query, which may be empty.
    pub fn query(&self) -> Query<'a> {
        self.query
    }
}

/// The authority of a target in absolute-form, and what follows it.
fn absolute(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_path_in_whatever_form_it_is_sent() {
        for (text, authority, path, query) in [
            ("/", None, "/", ""),
            ("/events?a=b?c", None, "/events", "a=b?c"),
            ("/a://b", None, "/a://b", ""),
            ("/a?b=http://c/d", None, "/a", "b=http://c/d"),
            ("*", None, "*", ""),
            ("http://h", Some("h"), "/", ""),
            ("http://h?role=active", Some("h"), "/", "role=active"),
            ("http://h:1/events", Some("h:1"), "/events", ""),
            ("HTTPS://h/a?b", Some("h"), "/a", "b"),
            ("http:///a", Some(""), "/a", ""),
            ("http://h*", Some("h*"), "/", ""),
            ("ftp://h/a", None, "", ""),
            ("health", None, "", ""),
            ("h:80", None, "", ""),
            ("?a", None, "", "a"),
            ("", None, "", ""),
        ] {
            let target = Target::parse(text);
            assert_eq!((target.authority(), target.path()), (authority, path), "{text}");
            assert_eq!((target.query().as_str(), target.as_str()), (query, text), "{text}");
        }
    }
}
