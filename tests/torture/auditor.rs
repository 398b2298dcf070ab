//! Reads all that was ever written to etcd, and says what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::etcd::Etcd;

/// What was written, and what was found wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) writes: u64,
    pub(crate) tenures: u64,
    pub(crate) locks: u64,
    pub(crate) faults: Vec<String>,
}

/// What one transaction has done to a key: its new value, if it has one.
type Events = BTreeMap<String, Option<Value>>;

/// The state after a transaction.
#[derive(Default)]
struct State {
    number: u64,
    by: String,
    last_token: u64,
    clock: f64,
    rows: BTreeMap<String, Value>,
    /// Of all locks that were ever granted.
    granted: BTreeSet<u64>,
    /// The largest token of each resource.
    tokens: BTreeMap<String, u64>,
}

/// Audits the history from its first revision on. `acknowledged`: the tokens that clients were
/// told of.
pub(crate) fn audit(etcd: &Etcd, acknowledged: &[u64]) -> Audit {
    let (mut audit, mut state) = (Audit::default(), State::default());
    for (revision, events) in history(etcd) {
        for fault in state.apply(&events, &mut audit) {
            audit.faults.push(format!("revision {revision}: {fault}"));
        }
    }
    let unknown = acknowledged.iter().filter(|token| !state.granted.contains(token));
    audit.faults.extend(unknown.map(|token| format!("{token} was granted and never written")));
    audit.locks = state.granted.len() as u64;
    audit
}

impl State {
    fn apply(&mut self, events: &Events, audit: &mut Audit) -> Vec<String> {
        let mut faults = Vec::new();
        let Some(Some(head)) = events.get("/rdlm/head") else {
            return vec!["a write without a head".into()];
        };
        audit.writes += 1;
        let number = head["number"].as_u64().unwrap();
        if number != self.number + 1 {
            faults.push(format!("number {number} follows {}", self.number));
        }
        let by = head["by"].as_str().unwrap();
        let tenure = events.get("/rdlm/tenure").and_then(Option::as_ref);
        if by != self.by {
            audit.tenures += 1;
            let takes_over = tenure.is_some_and(|new| new["by"] == by && new["vacant"] == false);
            if !takes_over {
                faults.push(format!("{by} writes and has not taken over from {}", self.by));
            }
        }
        let clock = &head["clock"];
        let seconds = clock["secs"].as_f64().unwrap() + clock["nanos"].as_f64().unwrap() / 1e9;
        if seconds < self.clock {
            faults.push(format!("the cluster clock went back by {} s", self.clock - seconds));
        }
        let before = self.last_token;
        (self.number, self.by, self.clock) = (number, by.into(), seconds);
        self.last_token = head["last_token"].as_u64().unwrap();
        if self.last_token < before {
            faults.push("the last token went back".into());
        }
        let rows = events.iter().filter(|(key, _)| key.starts_with("/rdlm/lock/"));
        let mut touched = BTreeSet::new();
        for (key, value) in rows {
            touched.insert(key.split('/').nth(3).unwrap().to_string());
            faults.extend(self.put_or_delete(key, value.clone()));
        }
        faults.extend(
            touched
                .iter()
                .filter(|name| !self.fits(name))
                .map(|name| format!("the locks on {name} cannot be held together")),
        );
        faults
    }

    fn put_or_delete(&mut self, key: &str, value: Option<Value>) -> Option<String> {
        let Some(row) = value else {
            return match self.rows.remove(key) {
                Some(_) => None,
                None => Some(format!("{key} ended and was not held")),
            };
        };
        let (token, name) = (row["token"].as_u64().unwrap(), row["resource"].to_string());
        let renewed = self.rows.insert(key.into(), row).is_some();
        if renewed {
            return None;
        }
        let largest = self.tokens.insert(name, token).unwrap_or(0);
        if !self.granted.insert(token) || token <= largest {
            return Some(format!("{key} was granted after {largest}"));
        }
        (token > self.last_token).then(|| format!("{key} is larger than the last token"))
    }

    fn fits(&self, name: &str) -> bool {
        let prefix = format!("/rdlm/lock/{name}/");
        let held: Vec<_> = self
            .rows
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, row)| (row["mode"].as_str().unwrap(), row["limit"].as_u64()))
            .collect();
        let conflicts = |a: &str, b: &str| {
            let pairs = ["CRxEX", "CWxPR", "CWxPW", "CWxEX", "PRxPW", "PRxEX", "PWxPW"];
            pairs.contains(&&*format!("{a}x{b}")) || pairs.contains(&&*format!("{b}x{a}"))
        };
        let each = held.iter().enumerate();
        let together =
            each.flat_map(|(n, one)| held[n + 1..].iter().map(move |other| (one, other)));
        let exclusive = held.iter().filter(|(mode, _)| *mode == "EX");
        let limit = held.iter().filter_map(|(_, limit)| *limit).min().unwrap_or(1);
        exclusive.count() as u64 <= limit
            && !together.into_iter().any(|((a, _), (b, _))| conflicts(a, b))
    }
}

/// All transactions below the prefix, each with its revision.
fn history(etcd: &Etcd) -> BTreeMap<u64, Events> {
    let head = etcd.ctl(&["get", "/rdlm/head", "-w", "json"]).unwrap();
    let head: Value = serde_json::from_str(&head).unwrap();
    let Some(last) = head["kvs"][0]["mod_revision"].as_u64() else { return BTreeMap::new() };
    let mut watch = etcd
        .etcdctl()
        .args(["watch", "--prefix", "/rdlm/", "--rev", "1", "-w", "json"])
        .stdout(Stdio::piped())
        // It says that authentication is not switched on.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut found = BTreeMap::<u64, Events>::new();
    for line in BufReader::new(watch.stdout.take().unwrap()).lines() {
        let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
        for event in answer["Events"].as_array().into_iter().flatten() {
            let text = |name: &str| {
                let text = event["kv"][name].as_str().unwrap_or_default();
                String::from_utf8(BASE64.decode(text).unwrap()).unwrap()
            };
            let revision = event["kv"]["mod_revision"].as_u64().unwrap();
            let value = (event["type"] != 1).then(|| serde_json::from_str(&text("value")).unwrap());
            found.entry(revision).or_default().insert(text("key"), value);
        }
        if found.last_key_value().is_some_and(|(revision, _)| *revision >= last) {
            break;
        }
    }
    let _ = watch.kill();
    let _ = watch.wait();
    found
}
