//! Locks as tables for people.

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// The columns of a table of locks.
pub(super) const COLUMNS: [&str; 7] =
    ["RESOURCE", "STATE", "TITLE", "MODE", "CLIENT", "SINCE", "ENDS IN"];

/// A title that is longer is cut in a table.
const TITLE_CHARS: usize = 48;

/// A row of the table of locks; `now` is the time of the server.
pub(super) fn lock_row(resource: &str, lock: &Value, now: Option<SystemTime>) -> Vec<String> {
    let text = |name: &str| printable(lock[name].as_str().unwrap_or("-"));
    let active = lock["active"].as_bool() == Some(true);
    let (state, since, ends) = if active {
        ("held".to_string(), "active_since", "active_expires")
    } else {
        let position = lock["position"].as_u64();
        let state = position.map_or("waits".into(), |position| format!("waits {position}"));
        (state, "wait_since", "wait_expires")
    };
    let time = |name: &str| humantime::parse_rfc3339(lock[name].as_str().unwrap_or_default()).ok();
    let age = now.zip(time(since)).map(|(now, since)| now.duration_since(since));
    let left = now.zip(time(ends)).map(|(now, ends)| ends.duration_since(now));
    let span = |span: Option<Result<Duration, _>>| {
        span.map_or("-".into(), |span| short(span.unwrap_or_default()))
    };
    let mode = match lock["limit"].as_u64() {
        Some(limit) if limit > 1 => format!("{} of {limit}", text("mode")),
        _ => text("mode"),
    };
    let title = cut(&text("title"));
    vec![printable(resource), state, title, mode, text("client"), span(age), span(left)]
}

/// How long a lock has been held, or waited for.
pub(super) fn age(lock: &Value, now: Option<SystemTime>) -> String {
    let since = if lock["active"] == true { "active_since" } else { "wait_since" };
    let since = humantime::parse_rfc3339(lock[since].as_str().unwrap_or_default()).ok();
    let age = now.zip(since).map(|(now, since)| now.duration_since(since).unwrap_or_default());
    age.map_or("-".into(), short)
}

/// Aligned in columns, a line each.
pub(super) fn aligned(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = head.iter().map(|word| word.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    let head: Vec<_> = head.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// With whatever a terminal could take for a command, or show in another order, escaped:
/// titles are what strangers wrote.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => printable += "\\n",
            '\t' => printable += "\\t",
            '\r' => printable += "\\r",
            // Line separators, and what changes the direction of a text or is not seen.
            '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' => printable.extend(char.escape_unicode()),
            char if char.is_control() => printable.extend(char.escape_unicode()),
            char => printable.push(char),
        }
    }
    printable
}

fn cut(text: &str) -> String {
    if text.chars().count() <= TITLE_CHARS {
        return text.into();
    }
    text.chars().take(TITLE_CHARS - 1).chain(['…']).collect()
}

/// The two largest units of a span of time.
fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("back up — ok"), "back up — ok");
        assert_eq!(printable("a\x1b[2J\nb\u{7f}\u{9b}"), r"a\u{1b}[2J\nb\u{7f}\u{9b}");
        assert_eq!(printable("x\u{202e}y\u{2028}"), r"x\u{202e}y\u{2028}");
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (61, "1m01s"), (3660, "1h01m"), (90_000, "1d01h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_lock_is_a_row_whatever_is_missing() {
        let now = humantime::parse_rfc3339("2026-11-23T04:43:38Z").ok();
        let lock = json!({
            "title": "\u{7}".to_string() + &"t".repeat(60), "mode": "EX", "limit": 3,
            "active": true, "active_since": "2026-11-23T04:42:37.5Z",
            "active_expires": "2026-11-23T04:43:37Z", "client": "192.0.2.1",
        });
        let row = lock_row("db", &lock, now);
        assert_eq!(row[1], "held");
        assert!(row[2].starts_with(r"\u{7}tt") && row[2].ends_with('…'), "{}", row[2]);
        assert_eq!(row[3..], ["EX of 3", "192.0.2.1", "1m00s", "0s"].map(String::from));
        let bare = lock_row("db", &json!({}), None);
        assert_eq!(bare[1..], ["waits", "-", "-", "-", "-", "-"].map(String::from));
        let table = aligned(&COLUMNS, &[row, bare]);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].starts_with("RESOURCE  STATE  TITLE"), "{table}");
        assert!(lines[2].starts_with("db        waits  -    "), "{table}");
        assert_eq!(lines.len(), 3);
    }
}
