//! The commands that show a lock, a resource, or all of them.

use std::io::{self, IsTerminal};
use std::time::{Instant, SystemTime};

use serde_json::Value;

use super::table::{
    FIELDS, LOCKS, RESOURCES, age, aligned, lock_row, printable, requester, waits_for_ever,
};
use super::{Ending, Error, print, terminal};
use crate::client::Client;
use crate::client::raw::{Answer, Failure, LockPath};

/// `rdlm get`
pub(super) fn lock(client: &Client, path: &LockPath, json: bool) -> Result<Ending, Error> {
    let answer = client.get(path).map_err(|failure| failure.about_lock(path))?;
    if json {
        return print_json(answer);
    }
    let lock = answer.json;
    let resource = path.resource();
    let mut rows = vec![vec!["resource".into(), printable(&resource)]];
    for (name, value) in lock.as_object().into_iter().flatten() {
        match value {
            _ if name == "wait_expires" && waits_for_ever(&lock) => {
                rows.push(vec![name.clone(), "–".into()]);
            }
            Value::String(text) => rows.push(vec![name.clone(), printable(text)]),
            Value::Object(_) | Value::Array(_) | Value::Null => {}
            other => rows.push(vec![name.clone(), other.to_string()]),
        }
    }
    rows.extend(what_lists_tell(client, &resource, &lock));
    print(&aligned(&FIELDS, &rows, width()))?;
    Ok(Ending::Done)
}

/// Fields of a lock that only the list of its resource has, if the user may see that.
fn what_lists_tell(client: &Client, resource: &str, lock: &Value) -> Vec<Vec<String>> {
    let Some(locks) = locks_to_tell_of(client, resource) else { return Vec::new() };
    let listed = locks.iter().map(|(listed, _)| listed).find(|listed| listed["uid"] == lock["uid"]);
    let mut rows = Vec::new();
    if let Some(position) = listed.and_then(|listed| listed["position"].as_u64()) {
        rows.push(vec!["position".into(), position.to_string()]);
        let holder = holder(&locks).map(|holder| printable(&holder));
        rows.extend(holder.map(|holder| vec!["resource is".into(), holder]));
    }
    rows.extend(listed.map(|listed| vec!["client".into(), requester(listed)]));
    rows
}

/// `rdlm resources`
pub(super) fn resources(client: &Client, json: bool) -> Result<Ending, Error> {
    if json {
        return print_json(client.status()?);
    }
    let rows: Vec<_> = listed(client, None)?.iter().filter_map(Resource::row).collect();
    print(&aligned(&RESOURCES, &rows, width()))?;
    Ok(Ending::Done)
}

/// `rdlm locks`
pub(super) fn locks(client: &Client, resource: &str, json: bool) -> Result<Ending, Error> {
    if json {
        return print_json(client.locks(resource)?);
    }
    let listed = listed(client, Some(resource))?;
    if listed.iter().all(|resource| resource.uids.is_empty()) {
        print(&format!("nobody holds or waits for {}\n", printable(resource)))?;
    } else {
        print(&table(&listed, width()))?;
    }
    Ok(Ending::Done)
}

/// The command that completions call for the names of resources.
pub const NAMES: &str = "__names";

/// Prints the names with this beginning, except those that a shell would not take as they are.
pub(super) fn names(client: &Client, prefix: &str) -> Result<Ending, Error> {
    let is_plain = |name: &&str| {
        name.starts_with(prefix)
            && !name.starts_with('-')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._/@:-".contains(c))
    };
    let json = client.search_at_once(prefix)?.json;
    let entries = json["resources"].as_array().into_iter().flatten();
    let names = entries.filter_map(|entry| entry["name"].as_str()).filter(is_plain);
    print(&names.map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(Ending::Done)
}

/// A sentence for a waiting client: who holds the resource, and its position in line, if the user may
/// see that.
pub(super) fn wait(
    client: &Client,
    resource: &str,
    server: Option<&str>,
    title: Option<&str>,
) -> String {
    let at = server.map(|server| format!(" at {server}")).unwrap_or_default();
    let mut words = format!("waiting for {resource}{at}");
    let Some(locks) = locks_to_tell_of(client, resource) else { return words };
    if let Some(holder) = holder(&locks) {
        words += &format!(", {holder}");
    }
    let mine = |lock: &&Value| title.is_some() && lock["title"].as_str() == title;
    let waiting = locks.iter().filter(|(lock, _)| lock["active"] == false);
    let position = waiting.map(|(lock, _)| lock).find(mine).and_then(|l| l["position"].as_u64());
    if let Some(position) = position {
        words += &format!(", {} in line", ordinal(position));
    }
    words
}

/// Why a lock was not granted, and who holds it, if the user may see that.
pub(super) fn refusal(client: &Client, resource: &str, why: &str) -> String {
    let holder = locks_to_tell_of(client, resource).and_then(|locks| holder(&locks));
    match holder {
        Some(holder) => format!("{resource}: {why}; it is {holder}"),
        None => format!("{resource}: {why}"),
    }
}

/// The locks of a resource, each with its age.
fn locks_to_tell_of(client: &Client, resource: &str) -> Option<Vec<(Value, String)>> {
    let answer = client.locks_at_once(resource).ok()?;
    let locks = answer.json["_embedded"]["locks"].as_array()?.clone();
    let with_age = |lock: Value| {
        let age = age(&lock, answer.date);
        (lock, age)
    };
    Some(locks.into_iter().map(with_age).collect())
}

fn holder(locks: &[(Value, String)]) -> Option<String> {
    let mut held = locks.iter().filter(|(lock, _)| lock["active"] == true);
    let (first, age) = held.next()?;
    let title = first["title"].as_str().unwrap_or_default();
    Some(match held.count() {
        0 => format!("held by {title} for {age}"),
        more => format!("held by {title} for {age} and {more} more"),
    })
}

fn ordinal(number: u64) -> String {
    let ending = match (number % 10, number % 100) {
        (1, n) if n != 11 => "st",
        (2, n) if n != 12 => "nd",
        (3, n) if n != 13 => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// A resource and its locks.
pub(super) struct Resource {
    /// A row of the table for each lock.
    rows: Vec<Vec<String>>,
    /// Of each lock.
    pub(super) uids: Vec<String>,
    pub(super) held: usize,
}

impl Resource {
    fn new(name: &str, locks: &Value, now: Option<SystemTime>) -> Self {
        let locks = locks.as_array().map(Vec::as_slice).unwrap_or_default();
        let is_held = |lock: &&Value| lock["active"].as_bool() == Some(true);
        Self {
            rows: locks.iter().map(|lock| lock_row(name, lock, now)).collect(),
            uids: locks.iter().map(|lock| lock["uid"].to_string()).collect(),
            held: locks.iter().filter(is_held).count(),
        }
    }

    /// A row for the resource; `None` if it has no locks any more.
    fn row(&self) -> Option<Vec<String>> {
        let [name, state, title, mode, client, since, ends] =
            <&[String; 7]>::try_from(self.rows.first()?.as_slice()).ok()?;
        let holder = match self.held {
            0 => format!("({state})"),
            1 => title.clone(),
            more => format!("{title} and {} more", more - 1),
        };
        let waiting = (self.rows.len() - self.held).to_string();
        let rest = [mode, client, since, ends].map(String::clone);
        let [mode, client, since, ends] = rest;
        Some(vec![name.clone(), holder, mode, client, since, ends, waiting])
    }
}

/// A table of all locks.
pub(super) fn table(resources: &[Resource], width: Option<usize>) -> String {
    let rows: Vec<_> = resources.iter().flat_map(|resource| resource.rows.clone()).collect();
    aligned(&LOCKS, &rows, width)
}

/// The locks of one resource, or of all, now.
pub(super) fn listed(client: &Client, resource: Option<&str>) -> Result<Vec<Resource>, Failure> {
    Ok(look(client, resource)?.resources())
}

/// A snapshot of one resource, or of all.
pub(super) struct Look {
    json: Value,
    /// `None`: all resources.
    resource: Option<String>,
    date: Option<SystemTime>,
    at: Instant,
}

/// Takes a snapshot, by one request.
pub(super) fn look(client: &Client, resource: Option<&str>) -> Result<Look, Failure> {
    let answer = match resource {
        Some(name) => client.locks(name)?,
        None => client.status()?,
    };
    let resource = resource.map(String::from);
    Ok(Look { json: answer.json, resource, date: answer.date, at: Instant::now() })
}

impl Look {
    /// The locks of the snapshot, with their ages now.
    pub(super) fn resources(&self) -> Vec<Resource> {
        let now = self.date.map(|date| date + self.at.elapsed());
        if let Some(name) = &self.resource {
            return vec![Resource::new(name, &self.json["_embedded"]["locks"], now)];
        }
        let entries = self.json["resources"].as_array().into_iter().flatten();
        let named = entries.filter_map(|entry| Some((entry["name"].as_str()?, &entry["locks"])));
        named.map(|(name, locks)| Resource::new(name, locks, now)).collect()
    }
}

/// The width of standard output if that is a terminal; otherwise nothing is cut.
pub(super) fn width() -> Option<usize> {
    let stdout = io::stdout();
    stdout.is_terminal().then(|| terminal::columns(stdout))
}

/// Prints what the server sent, except that the end of an endless wait is null.
fn print_json(answer: Answer) -> Result<Ending, Error> {
    let Answer { mut json, body, .. } = answer;
    let text = match without_ends(&mut json) {
        true => json.to_string(),
        false => String::from_utf8_lossy(&body).trim_end().to_string(),
    };
    print(&format!("{text}\n"))?;
    Ok(Ending::Done)
}

/// Replaces ends of endless waits by null; returns whether there were any.
fn without_ends(json: &mut Value) -> bool {
    let mut changed = false;
    if waits_for_ever(json) {
        json["wait_expires"] = Value::Null;
        changed = true;
    }
    match json {
        Value::Array(values) => values.iter_mut().fold(changed, |c, v| without_ends(v) | c),
        Value::Object(fields) => fields.values_mut().fold(changed, |c, v| without_ends(v) | c),
        _ => changed,
    }
}
