//! Times as people write them, in the time zone of this host.

use jiff::civil::{DateTime, Time};
use jiff::{Timestamp, Unit, ZonedDateTime};

/// A time in UTC, as the server reads it: of `text`, a time of day that was last so, a date and a
/// time of day, or RFC 3339.
pub(super) fn in_utc(text: &str) -> Result<String, String> {
    in_utc_at(text, &ZonedDateTime::now())
}

fn in_utc_at(text: &str, now: &ZonedDateTime) -> Result<String, String> {
    let expected = "a time such as 02:55, 2026-11-25 02:55 or 2026-11-25T02:55:00Z";
    let timestamp = text.parse::<Timestamp>().ok();
    let timestamp = timestamp.or_else(|| time_of_day(text, now)).or_else(|| local(text, now));
    let timestamp = timestamp.and_then(|it| it.round(Unit::Microsecond).ok());
    // Always with six digits, so texts compare as times do.
    timestamp.map(|it| format!("{it:.6}")).ok_or_else(|| expected.into())
}

/// Today, or yesterday if it has not been so late yet today.
fn time_of_day(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let has_form = text.contains(':') && text.bytes().all(|it| it.is_ascii_digit() || it == b':');
    let time = text.parse::<Time>().ok().filter(|_| has_form)?;
    let today = now.date().to_datetime(time).to_zoned_datetime(now.time_zone().clone()).ok()?;
    if today <= *now {
        return Some(today.timestamp());
    }
    let yesterday = now.date().yesterday().ok()?;
    Some(yesterday.to_datetime(time).to_zoned_datetime(now.time_zone().clone()).ok()?.timestamp())
}

fn local(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let date = text.parse::<DateTime>().ok()?;
    Some(date.to_zoned_datetime(now.time_zone().clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_last_one_here_and_others_are_exact() {
        let berlin = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now: Timestamp = "2026-03-29T10:00:00Z".parse().unwrap();
        let now = now.to_zoned_datetime(berlin);
        for (text, expected) in [
            ("03:30", "2026-03-29T01:30:00Z"),
            ("12:00", "2026-03-29T10:00:00Z"),
            ("12:00:01", "2026-03-28T11:00:01Z"),
            ("23:00", "2026-03-28T22:00:00Z"),
            ("2026-01-02 03:04", "2026-01-02T02:04:00Z"),
            ("2026-07-02T03:04:05", "2026-07-02T01:04:05Z"),
            ("2026-07-02", "2026-07-01T22:00:00Z"),
            ("2026-07-02T03:04:05.5+09:00", "2026-07-01T18:04:05.5Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(in_utc_at(text, &now), Ok(format!("{expected:.6}")), "{text}");
        }
        for text in ["", "3", "25:00", "0255", "yesterday", "2026-13-01", "02:55Z"] {
            assert!(in_utc_at(text, &now).is_err(), "{text}");
        }
    }
}
