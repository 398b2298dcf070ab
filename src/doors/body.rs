//! The JSON body of a request for a lock, or for its renewal or conversion.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::settings::RequestLimits;
use crate::http::Problem;
use crate::lock::{Conversion, Limit, Mode, Requester, Terms};

/// The longest title, in bytes.
pub(super) const MAX_TITLE: usize = 1024;

/// How much of a wrong value an error repeats, in characters.
const MAX_QUOTE: usize = 40;

/// Reads `{"title": …, "wait": …, "lifetime": …}`, and perhaps `"mode"` and `"limit"`, from
/// `client`. Other fields are ignored.
pub(super) fn lock_request(
    body: &[u8],
    limits: RequestLimits,
    client: &Requester,
) -> Result<Terms, Problem> {
    let fields = parse(body, r#"{"title":"backup","wait":5,"lifetime":300}"#)?;
    let title = title(fields.title)?;
    let wait = wait(fields.wait, limits)?;
    let lifetime = lifetime(fields.lifetime, limits)?;
    let mode = mode(fields.mode, fields.limit)?;
    Ok(Terms { wait, mode, client: client.clone(), ..Terms::exclusive(title, lifetime) })
}

/// What a lock is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is to expire this long from now.
    Renewal(Duration),
    Conversion(Conversion),
}

/// Reads `{"lifetime": …}`, or `{"mode": …}` with perhaps `"wait"` and `"lifetime"`. Other fields
/// are ignored.
pub(super) fn change(body: &[u8], limits: RequestLimits) -> Result<Change, Problem> {
    let fields = parse(body, r#"{"lifetime":300} or {"mode":"PR"}"#)?;
    if let Field::Missing = fields.mode {
        return lifetime(fields.lifetime, limits).map(Change::Renewal);
    }
    Ok(Change::Conversion(Conversion {
        mode: mode(fields.mode, fields.limit)?,
        wait: match fields.wait {
            Field::Missing => Duration::ZERO,
            given => wait(given, limits)?,
        },
        lifetime: match fields.lifetime {
            Field::Missing => None,
            given => Some(lifetime(given, limits)?),
        },
    }))
}

#[derive(serde::Deserialize)]
struct Fields<'a> {
    #[serde(default, borrow)]
    title: Field<'a>,
    #[serde(default, borrow)]
    wait: Field<'a>,
    #[serde(default, borrow)]
    lifetime: Field<'a>,
    #[serde(default, borrow)]
    mode: Field<'a>,
    #[serde(default, borrow)]
    limit: Field<'a>,
}

/// Any JSON value, so that an error can name the field it is in.
#[derive(Default)]
enum Field<'a> {
    #[default]
    Missing,
    Text(Cow<'a, str>),
    Number(f64),
    /// Neither of the two: what it is instead.
    Other(&'static str),
}

fn parse<'a>(body: &'a [u8], example: &str) -> Result<Fields<'a>, Problem> {
    let expected = || format!("expected a JSON object such as {example}");
    // Some editors and shells put a byte order mark before it (RFC 8259, section 8.1).
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let first = body.iter().find(|byte| !b" \t\r\n".contains(byte));
    match first {
        None => Err(Problem::bad_request(format!("the body is empty, {}", expected()))),
        // Without this a derived struct would also be read from an array.
        Some(b'{') => serde_json::from_slice(body).map_err(|error| {
            Problem::bad_request(format!("the body is not valid ({error}), {}", expected()))
        }),
        Some(_) => Err(Problem::bad_request(format!("the body is not an object, {}", expected()))),
    }
}

fn title(field: Field<'_>) -> Result<Cow<'_, str>, Problem> {
    match field {
        Field::Text(text) if text.len() <= MAX_TITLE => Ok(text),
        Field::Text(text) => {
            let len = text.len();
            let detail = format!("title has {len} bytes, at most {MAX_TITLE} are accepted");
            Err(Problem::bad_request(detail))
        }
        other => {
            let found = other.describe();
            let detail = format!("title {found}, expected a string of at most {MAX_TITLE} bytes");
            Err(Problem::bad_request(detail))
        }
    }
}

fn wait(field: Field<'_>, limits: RequestLimits) -> Result<Duration, Problem> {
    let max = limits.max_wait;
    let in_range = |seconds| (0.0..=max.as_secs_f64()).contains(&seconds);
    let expected = || format!("from 0 to {}", max.as_secs_f64());
    let seconds = seconds("wait", &field, in_range, expected).map_err(|p| limits.shown_in(p))?;
    Ok(Duration::from_secs_f64(seconds).min(max))
}

fn lifetime(field: Field<'_>, limits: RequestLimits) -> Result<Duration, Problem> {
    let max = limits.max_lifetime;
    let in_range = |seconds| seconds > 0.0 && seconds <= max.as_secs_f64();
    let expected = || format!("over 0 to {}", max.as_secs_f64());
    let seconds =
        seconds("lifetime", &field, in_range, expected).map_err(|p| limits.shown_in(p))?;
    Ok(Duration::from_secs_f64(seconds).clamp(Duration::from_nanos(1), max))
}

/// EX if there is none. Only EX has a limit.
fn mode(mode: Field<'_>, limit: Field<'_>) -> Result<Mode, Problem> {
    let named = match &mode {
        Field::Missing => Some(Mode::EXCLUSIVE),
        Field::Text(name) => match name.as_ref() {
            "exclusive" => Some(Mode::EXCLUSIVE),
            "shared" => Some(Mode::ProtectedRead),
            name => Mode::named(name),
        },
        Field::Number(_) | Field::Other(_) => None,
    };
    let Some(named) = named else {
        let names = Mode::ALL.map(Mode::name).join(", ");
        let detail = format!(
            "mode {}, expected one of {names}, exclusive (EX), shared (PR)",
            mode.describe()
        );
        return Err(Problem::bad_request(detail));
    };
    match (named, limit) {
        (mode, Field::Missing) => Ok(mode),
        (Mode::Exclusive { .. }, limit) => Ok(Mode::Exclusive { limit: whole_limit(&limit)? }),
        (mode, _) => {
            let name = mode.name();
            let detail = format!("limit goes with mode EX alone, and the mode is {name}");
            Err(Problem::bad_request(detail))
        }
    }
}

fn whole_limit(field: &Field<'_>) -> Result<Limit, Problem> {
    let is_limit =
        |number: &f64| number.fract() == 0.0 && (0.0..=Limit::MAX.into()).contains(number);
    let number = field.number().filter(is_limit);
    number.and_then(|number| Limit::new(number as u32)).ok_or_else(|| {
        let (found, max) = (field.describe(), Limit::MAX);
        Problem::bad_request(format!("limit {found}, expected a whole number from 1 to {max}"))
    })
}

/// A number of seconds, given as a number or, as RDLM's clients may, as a string. `expected` is
/// the range in words.
fn seconds(
    name: &str,
    field: &Field<'_>,
    in_range: impl FnOnce(f64) -> bool,
    expected: impl FnOnce() -> String,
) -> Result<f64, Problem> {
    match field.number().filter(|number| number.is_finite()) {
        Some(seconds) if in_range(seconds) => Ok(seconds),
        Some(seconds) => {
            let expected = expected();
            Err(Problem::bad_request(format!("{name} is {seconds}, expected seconds {expected}")))
        }
        None => {
            let (found, expected) = (field.describe(), expected());
            let detail = format!(
                "{name} {found}, expected seconds {expected}, as a number or a numeric string"
            );
            Err(Problem::bad_request(detail))
        }
    }
}

/// A decimal number. `f64::from_str` alone would also take words such as "inf".
fn numeric(text: &str) -> Option<f64> {
    let decimal = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if text.bytes().all(decimal) { text.parse().ok() } else { None }
}

impl Field<'_> {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => numeric(text.trim_matches([' ', '\t', '\r', '\n'])),
            Self::Missing | Self::Other(_) => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Missing => "is missing".into(),
            Self::Text(text) => {
                let start: String = text.chars().take(MAX_QUOTE).collect();
                format!("is {start:?}")
            }
            Self::Number(number) => format!("is {number}"),
            Self::Other(kind) => format!("is {kind}"),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text.into())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Field::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Field::Number(number as f64))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Field::Number(number as f64))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Field::Other("a boolean"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}
