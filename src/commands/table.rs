//! Locks as tables for people.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// A column, and how it is narrowed on a terminal that is too narrow.
pub(super) struct Column {
    name: &'static str,
    narrowed: Narrowed,
}

enum Narrowed {
    /// Not at all.
    Never,
    /// It is removed, in the order of these numbers.
    Away(u8),
    /// If that is not enough, its texts are cut at their ends, to this width at least.
    To(usize),
    /// The same, in the middle: names often differ at their ends.
    InTheMiddleTo(usize),
}

const fn column(name: &'static str, narrowed: Narrowed) -> Column {
    Column { name, narrowed }
}

/// The columns of a table of locks.
pub(super) const LOCKS: [Column; 7] = [
    column("RESOURCE", Narrowed::InTheMiddleTo(16)),
    column("STATE", Narrowed::Never),
    column("TITLE", Narrowed::To(12)),
    column("MODE", Narrowed::Away(1)),
    column("CLIENT", Narrowed::Away(0)),
    column("SINCE", Narrowed::Away(2)),
    column("ENDS IN", Narrowed::Never),
];

/// The columns of a table of resources.
pub(super) const RESOURCES: [Column; 7] = [
    column("RESOURCE", Narrowed::InTheMiddleTo(16)),
    column("HOLDER", Narrowed::To(12)),
    column("MODE", Narrowed::Away(1)),
    column("CLIENT", Narrowed::Away(0)),
    column("SINCE", Narrowed::Away(2)),
    column("ENDS IN", Narrowed::Never),
    column("WAITING", Narrowed::Never),
];

/// The columns of a table of one lock.
pub(super) const FIELDS: [Column; 2] =
    [column("FIELD", Narrowed::Never), column("VALUE", Narrowed::To(12))];

/// A wait of this length has no end.
const FOR_EVER_SECONDS: f64 = 1e9;

/// Whether a request waits without an end.
pub(super) fn waits_for_ever(lock: &Value) -> bool {
    lock["active"] == false && lock["wait"].as_f64().is_some_and(|wait| wait >= FOR_EVER_SECONDS)
}

/// A row of the table of locks; `now` is by the server's clock.
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
    let mode = match (lock["limit"].as_u64(), lock["converting_to"].as_str()) {
        (_, Some(wanted)) => format!("{}, waits for {}", text("mode"), printable(wanted)),
        (Some(limit), None) if limit > 1 => format!("{} of {limit}", text("mode")),
        _ => text("mode"),
    };
    let has_no_end =
        waits_for_ever(lock) || (active && lock.get("lifetime").is_some_and(Value::is_null));
    let ends = if has_no_end { "–".into() } else { span(left) };
    vec![printable(resource), state, text("title"), mode, requester(lock), span(age), ends]
}

/// The user and the address of a lock's client.
pub(super) fn requester(lock: &Value) -> String {
    let client = printable(lock["client"].as_str().unwrap_or("-"));
    match lock["user"].as_str() {
        Some(user) => format!("{} at {client}", printable(user)),
        None => client,
    }
}

/// How long a lock has been held or waited for.
pub(super) fn age(lock: &Value, now: Option<SystemTime>) -> String {
    let since = if lock["active"] == true { "active_since" } else { "wait_since" };
    let since = humantime::parse_rfc3339(lock[since].as_str().unwrap_or_default()).ok();
    let age = now.zip(since).map(|(now, since)| now.duration_since(since).unwrap_or_default());
    age.map_or("-".into(), short)
}

/// Rows as lines with aligned columns, at most `width` wide.
pub(super) fn aligned(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> String {
    let mut widths: Vec<_> = columns.iter().map(|column| column.name.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    if let Some(width) = width {
        narrow(columns, &mut widths, width);
    }
    let head: Vec<_> = columns.iter().map(|column| column.name.to_string()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for ((column, width), cell) in columns.iter().zip(&widths).zip(row) {
            if *width > 0 {
                let cell = column.cut(cell, *width);
                let blanks = width.saturating_sub(cell.width()) + 2;
                line += &format!("{cell}{:blanks$}", "");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Narrows columns until they fit, as far as possible.
fn narrow(columns: &[Column], widths: &mut [usize], width: usize) {
    let wide = |widths: &[usize]| {
        let shown = widths.iter().filter(|width| **width > 0);
        shown.map(|width| width + 2).sum::<usize>().saturating_sub(2)
    };
    for rank in 0..=2 {
        let goes = columns
            .iter()
            .position(|column| matches!(column.narrowed, Narrowed::Away(r) if r == rank));
        if let Some(goes) = goes.filter(|_| wide(widths) > width) {
            widths[goes] = 0;
        }
    }
    let least = |column: &Column| match column.narrowed {
        Narrowed::To(least) => Some((0, least)),
        Narrowed::InTheMiddleTo(least) => Some((1, least)),
        Narrowed::Never | Narrowed::Away(_) => None,
    };
    let mut cut: Vec<_> =
        columns.iter().map(least).zip(0..).filter_map(|(l, i)| Some((l?, i))).collect();
    cut.sort_unstable();
    for ((_, least), index) in cut {
        let over = wide(widths).saturating_sub(width);
        widths[index] = widths[index].min(widths[index].saturating_sub(over).max(least));
    }
}

impl Column {
    fn cut(&self, text: &str, width: usize) -> String {
        if text.width() <= width {
            return text.into();
        }
        let at_end = match self.narrowed {
            Narrowed::InTheMiddleTo(_) => (width - 1) / 2,
            _ => 0,
        };
        format!("{}…{}", start(text, width - 1 - at_end), end(text, at_end))
    }
}

/// The longest start of a text that fits in `width` columns of a terminal.
pub(super) fn start(text: &str, width: usize) -> &str {
    if text.width() <= width {
        return text;
    }
    let fits = |at: &usize| text[..*at].width() <= width;
    let ends = text.char_indices().map(|(at, char)| at + char.len_utf8());
    &text[..ends.take_while(fits).last().unwrap_or(0)]
}

/// The longest end of a text that fits in `width` columns.
fn end(text: &str, width: usize) -> &str {
    let fits = |at: &usize| text[*at..].width() <= width;
    let starts = text.char_indices().map(|(at, _)| at).rev();
    &text[starts.take_while(fits).last().unwrap_or(text.len())..]
}

/// Escapes what a terminal could interpret, or show in another order: anybody may have written the
/// titles.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => printable += "\\n",
            '\t' => printable += "\\t",
            '\r' => printable += "\\r",
            // Line separators, and characters that are invisible or change the direction of text.
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

/// The two largest units of a span of time.
pub(super) fn short(span: Duration) -> String {
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
    fn control_characters_are_escaped() {
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
        assert!(row[2].starts_with(r"\u{7}tt") && row[2].ends_with('t'), "{}", row[2]);
        assert_eq!(row[3..], ["EX of 3", "192.0.2.1", "1m00s", "0s"].map(String::from));
        let bare = lock_row("db", &json!({}), None);
        assert_eq!(bare[1..], ["waits", "-", "-", "-", "-", "-"].map(String::from));
        let table = aligned(&LOCKS, &[row, bare], None);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].starts_with("RESOURCE  STATE  TITLE"), "{table}");
        assert!(lines[2].starts_with("db        waits  -    "), "{table}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_lock_that_waits_for_another_mode_says_so() {
        let row = lock_row("r", &json!({"mode": "PR", "converting_to": "EX"}), None);
        assert_eq!(row[3], "PR, waits for EX");
    }

    #[test]
    fn a_table_is_as_narrow_as_it_has_to_be() {
        let name = format!("svc00:prod-eu-west-1:{}:shard-07", "x".repeat(40));
        let cells = [&name, "held", &"t".repeat(60), "EX", "192.0.2.1", "1m00s", "59s"];
        let row = cells.map(String::from).to_vec();
        let whole = aligned(&LOCKS, std::slice::from_ref(&row), None);
        assert!(whole.contains(&name) && whole.contains(&"t".repeat(60)));
        for width in [200, 120, 80, 60, 40] {
            let table = aligned(&LOCKS, std::slice::from_ref(&row), Some(width));
            let longest = table.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width.max(47), "{width}: {table}");
            let line = table.lines().nth(1).unwrap();
            let words: Vec<_> = line.split_whitespace().collect();
            assert!(words[0].starts_with("svc00:pr") && words[0].ends_with("rd-07"), "{table}");
            assert_eq!((words[1], words.last()), ("held", Some(&"59s")), "{width}: {table}");
        }
    }

    /// Japanese signs and emoji take two columns each, a combining accent none.
    #[test]
    fn columns_are_aligned_as_a_terminal_shows_them() {
        let titles =
            ["バックアップ 夜間", "deploy 🚀🚀", "cafe\u{301}", "❤\u{fe0f} plain", "plain"];
        let row = |title: &str| ["r", "held", title, "EX", "::1", "1s", "59s"].map(String::from);
        let rows: Vec<_> = titles.iter().map(|title| row(title).to_vec()).collect();
        for width in [None, Some(80), Some(34)] {
            let table = aligned(&LOCKS, &rows, width);
            for line in table.lines().skip(1) {
                let up_to_the_end = line.strip_suffix("59s").unwrap();
                let first = table.lines().nth(1).unwrap().strip_suffix("59s").unwrap();
                assert_eq!(up_to_the_end.width(), first.width(), "{table}");
                assert!(width.is_none_or(|width| line.width() <= width), "{table}");
            }
        }
        assert_eq!((start("日本語", 5), end("日本語", 5)), ("日本", "本語"));
        assert_eq!((start("日本語", 1), end("日本語", 1)), ("", ""));
    }

    #[test]
    fn a_wait_without_an_end_has_none() {
        let lock =
            json!({"active": false, "wait": 1_000_000_000, "wait_expires": "2058-08-01T00:00:00Z"});
        assert_eq!(lock_row("r", &lock, Some(SystemTime::UNIX_EPOCH))[6], "–");
    }
}
