//! The header fields of a request, looked up by name.

use std::fmt;

/// The fields of a head, in order.
#[derive(Debug, Default)]
pub struct Headers<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Headers<'a> {
    /// No fields.
    pub const NONE: Self = Self(Vec::new());

    pub(super) fn new(fields: &[httparse::Header<'a>]) -> Self {
        Self(fields.iter().map(|field| (field.name, field.value)).collect())
    }

    /// All fields in order, each a name and a value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.0.iter().copied()
    }

    /// The values of all fields of this name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.0.iter();
        fields.filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The elements of a comma-separated list, which may be spread over several fields of this
    /// name (RFC 9110, section 5.6.1). A field that is not UTF-8 is skipped.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.all(name).filter_map(|value| str::from_utf8(value).ok()).flat_map(elements)
    }

    /// The value of a field that may occur once.
    ///
    /// # Errors
    /// It occurs several times, or is not UTF-8.
    pub fn only(&self, name: &'static str) -> Result<Option<&'a str>, BadHeader> {
        let mut values = self.all(name);
        let Some(value) = values.next() else { return Ok(None) };
        match (str::from_utf8(value), values.next()) {
            (_, Some(_)) => Err(BadHeader { name, fault: Fault::Repeated }),
            (Err(_), None) => Err(BadHeader { name, fault: Fault::NotText }),
            (Ok(value), None) => Ok(Some(value)),
        }
    }
}

/// The elements of a comma-separated list.
pub(super) fn elements(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// A header that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHeader {
    name: &'static str,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Repeated,
    NotText,
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.fault {
            Fault::Repeated => {
                write!(f, "there are several {name} headers: at most one is allowed")
            }
            Fault::NotText => write!(f, "the header {name} is not text"),
        }
    }
}

impl std::error::Error for BadHeader {}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers<'static> {
        Headers(fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect())
    }

    #[test]
    fn a_field_is_found_whatever_its_case() {
        let headers = headers(&[("hOST", "h"), ("Prefer", "a, b"), ("prefer", "c")]);
        assert_eq!(headers.only("Host"), Ok(Some("h")));
        assert_eq!(headers.only("Origin"), Ok(None));
        assert_eq!(headers.only("Prefer").unwrap_err().fault, Fault::Repeated);
        assert_eq!(headers.list("Prefer").collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_not_text_is_told_from_what_is_not_there() {
        let headers = Headers(vec![("A", b"\xff"), ("B", b"\xff"), ("b", b"b")]);
        assert_eq!(headers.only("A").unwrap_err().fault, Fault::NotText);
        assert_eq!(headers.list("B").collect::<Vec<_>>(), ["b"]);
    }
}
