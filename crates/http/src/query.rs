//! The query string of a target, in the form encoding.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::Problem;

/// The part of a target behind its first question mark.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// No query.
    pub const NONE: Self = Self("");

    /// The query without its question mark.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// As it was sent.
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The value of a parameter that may occur once.
    ///
    /// # Errors
    /// It occurs several times, or is not UTF-8.
    pub fn only(&self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        let mut values = self.pairs().filter(|(other, _)| *other == name).map(|(_, value)| value);
        let (first, second) = (values.next(), values.next());
        if second.is_some() {
            let detail = format!("{name} is there several times: at most one is allowed");
            return Err(Problem::bad_request(detail));
        }
        first.map(|value| text(name, value)).transpose()
    }

    /// The same, parsed by `read`, whose error says what is expected.
    ///
    /// # Errors
    /// It occurs several times, or cannot be parsed.
    pub fn parsed<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.only(name)? else { return Ok(None) };
        let wrong = |expected| {
            let start: String = value.chars().take(40).collect();
            Problem::bad_request(format!("{name} is {start:?}, expected {expected}"))
        };
        read(&value).map(Some).map_err(wrong)
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

fn text<'a>(name: &str, value: &'a str) -> Result<Cow<'a, str>, Problem> {
    let not_text = |_| Problem::bad_request(format!("{name} is not text in UTF-8"));
    if value.contains('+') {
        let spaced = value.replace('+', " ");
        let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map_err(not_text)?;
        return Ok(decoded.into_owned().into());
    }
    percent_decode(value.as_bytes()).decode_utf8().map_err(not_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_and_decoded() {
        let query = Query::new("a=1&search=a+b%2b%C3%A9&empty&=&x=1=2");
        assert_eq!(query.only("a").unwrap().as_deref(), Some("1"));
        assert_eq!(query.only("search").unwrap().as_deref(), Some("a b+é"));
        assert_eq!(query.only("empty").unwrap().as_deref(), Some(""));
        assert_eq!(query.only("x").unwrap().as_deref(), Some("1=2"));
        assert!(query.only("y").unwrap().is_none());
        assert!(Query::NONE.only("a").unwrap().is_none());
    }

    #[test]
    fn what_is_there_twice_or_no_text_is_an_error() {
        assert!(Query::new("a=1&a=1").only("a").is_err());
        assert!(Query::new("a=%ff").only("a").is_err());
        assert!(Query::new("b=%ff").only("a").unwrap().is_none());
    }
}
