//! Content negotiation (RFC 9110, section 12.5.1).

use super::headers::Headers;

/// The weights of the media types in which the start page and the metrics are available.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accept {
    html: Weight,
    openmetrics: Weight,
    plain: Weight,
    any_text: Weight,
    anything: Weight,
}

/// In thousandths; `None` where the media range is not named.
type Weight = Option<u16>;

impl Accept {
    /// No Accept field.
    pub const NONE: Self =
        Self { html: None, openmetrics: None, plain: None, any_text: None, anything: None };

    /// Parses the Accept fields. One that is not text is ignored.
    pub fn of(headers: &Headers<'_>) -> Self {
        headers
            .all("Accept")
            .fold(Self::NONE, |accept, field| accept.and(str::from_utf8(field).unwrap_or_default()))
    }

    /// Adds one more field: several count as one list.
    #[must_use]
    pub fn and(self, field: &str) -> Self {
        field.split(',').fold(self, Self::and_range)
    }

    /// Whether text/html is asked for, rather than text/plain. A client that takes anything,
    /// as curl does, has not asked.
    pub fn prefers_html(self) -> bool {
        self.prefers(self.html)
    }

    /// Whether OpenMetrics is asked for, rather than text/plain.
    pub fn prefers_openmetrics(self) -> bool {
        self.prefers(self.openmetrics)
    }

    fn prefers(self, named: Weight) -> bool {
        let Some(named) = named.filter(|weight| *weight > 0) else { return false };
        match self.plain {
            Some(plain) => named > plain,
            None => named >= self.any_text.or(self.anything).unwrap_or(0),
        }
    }

    fn and_range(mut self, range: &str) -> Self {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let is = |name: &str| media_type.eq_ignore_ascii_case(name);
        let known = if is("text/html") {
            &mut self.html
        } else if is("application/openmetrics-text") {
            &mut self.openmetrics
        } else if is("text/plain") {
            &mut self.plain
        } else if is("text/*") {
            &mut self.any_text
        } else if is("*/*") {
            &mut self.anything
        } else {
            return self;
        };
        *known = (*known).max(Some(weight(parts)));
        self
    }
}

/// The weight among the parameters of a media range; 0 if it is malformed.
fn weight<'a>(parameters: impl Iterator<Item = &'a str>) -> u16 {
    let mut pairs = parameters.filter_map(|parameter| parameter.split_once('='));
    let Some((_, value)) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("q")) else {
        return 1000;
    };
    let digits = |value: &str| value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match value.trim().parse::<f64>() {
        // From 0 to 1, so the cast is exact but for fractions of a thousandth.
        Ok(weight) if digits(value.trim()) && weight <= 1.0 => (weight * 1000.0).round() as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_for_clients_that_ask_for_it() {
        for (accept, html) in [
            ("", false),
            ("*/*", false),
            ("text/*", false),
            ("text/plain", false),
            ("application/json", false),
            ("text/html", true),
            ("TEXT/HTML; charset=utf-8", true),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html, */*", true),
            ("*/*, text/html;q=0.9", false),
            ("text/html;q=0", false),
            ("text/html;q=0.000", false),
            ("text/html;q=0.001", true),
            ("text/html; Q = 0.5", true),
            ("text/html, text/plain", false),
            ("text/html, text/plain;q=0.9, */*", true),
            ("text/html;q=0.8, text/*;q=0.9, */*;q=0.1", false),
            ("text/html;q=0.8, text/*;q=0.2, */*", true),
            ("text/html;q=nan", false),
            ("text/html;q=-1", false),
            ("text/html;q=2", false),
            ("text/html;q=", false),
            (",;,=;q,text/html", true),
        ] {
            assert_eq!(Accept::NONE.and(accept).prefers_html(), html, "{accept:?}");
        }
    }

    #[test]
    fn openmetrics_is_for_clients_that_ask_for_it() {
        for (accept, openmetrics) in [
            ("", false),
            ("*/*", false),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", false),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.3", false),
            // What Prometheus sends.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                true,
            ),
        ] {
            assert_eq!(Accept::NONE.and(accept).prefers_openmetrics(), openmetrics, "{accept:?}");
        }
    }

    #[test]
    fn several_fields_are_one_list() {
        let accept = Accept::NONE.and("text/plain;q=0.5").and("text/html");
        assert!(accept.prefers_html());
        assert!(!accept.and("text/plain").prefers_html());
    }
}
