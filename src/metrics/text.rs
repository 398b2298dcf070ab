//! The two text formats of the metrics.

use std::borrow::Cow;
use std::collections::HashSet;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4 of Prometheus, which all tools read.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Converts from OpenMetrics, which the library writes.
    pub(super) fn of_openmetrics(self, text: String) -> String {
        match self {
            Self::Prometheus => prometheus(&text),
            Self::OpenMetrics => text,
        }
    }
}

/// In the older format, `# HELP` and `# TYPE` name a counter as its samples do, with `_total`, and
/// there is neither `# UNIT` nor `# EOF`.
fn prometheus(openmetrics: &str) -> String {
    let types = openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: HashSet<&str> = types.filter_map(|line| line.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(openmetrics.len() + 8 * counters.len());
    for line in openmetrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        text += &with_name_of_samples(line, &counters);
        text.push('\n');
    }
    text
}

fn with_name_of_samples<'l>(line: &'l str, counters: &HashSet<&str>) -> Cow<'l, str> {
    for keyword in ["# HELP ", "# TYPE "] {
        if let Some((name, rest)) = line.strip_prefix(keyword).and_then(|rest| rest.split_once(' '))
            && counters.contains(name)
        {
            return format!("{keyword}{name}_total {rest}").into();
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_nothing_that_only_openmetrics_defines() {
        let text = "\
            # HELP a How many.\n# TYPE a counter\na_total 1\n\
            # HELP a_b How many a_b.\n# TYPE a_b gauge\na_b 2\n\
            # HELP s_seconds How long.\n# TYPE s_seconds histogram\n# UNIT s_seconds seconds\n\
            s_seconds_sum 0.5\n# EOF\n";
        let expected = "\
            # HELP a_total How many.\n# TYPE a_total counter\na_total 1\n\
            # HELP a_b How many a_b.\n# TYPE a_b gauge\na_b 2\n\
            # HELP s_seconds How long.\n# TYPE s_seconds histogram\ns_seconds_sum 0.5\n";
        assert_eq!(Format::Prometheus.of_openmetrics(text.into()), expected);
        assert_eq!(Format::OpenMetrics.of_openmetrics(text.into()), text);
    }
}
