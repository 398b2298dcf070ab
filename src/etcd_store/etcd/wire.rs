//! The JSON of etcd's gateway. Zero values are left out there, and 64-bit numbers are text. Pure.

use std::fmt::{self, Write};
use std::marker::PhantomData;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::etcd_store::batch::Op;

/// How many operations one level of a transaction has at most: etcd's own limit is 128.
const MAX_OPS: usize = 64;

/// Every answer says which cluster it comes from.
pub(crate) trait FromCluster {
    fn cluster_id(&self) -> &str;
}

macro_rules! from_cluster {
    ($($answer:ty),*) => {
        $(impl FromCluster for $answer {
            fn cluster_id(&self) -> &str {
                &self.header.cluster_id
            }
        })*
    };
}

from_cluster!(TxnAnswer, RangeAnswer, Authenticated, StatusAnswer);

#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) cluster_id: String,
    #[serde(default)]
    member_id: String,
    #[serde(default, deserialize_with = "number")]
    pub(crate) revision: i64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TxnAnswer {
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) succeeded: bool,
    #[serde(default)]
    responses: Vec<OpAnswer>,
}

#[derive(Debug, Deserialize)]
struct OpAnswer {
    response_range: Option<Found>,
}

#[derive(Debug, Deserialize)]
struct Found {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RangeAnswer {
    header: Header,
    #[serde(default)]
    pub(crate) kvs: Vec<KeyValue>,
    #[serde(default)]
    pub(crate) more: bool,
    /// How many keys there are in all.
    #[serde(default, deserialize_with = "number")]
    pub(crate) count: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct KeyValue {
    #[serde(default, deserialize_with = "base64")]
    pub(crate) key: Vec<u8>,
    #[serde(default, deserialize_with = "base64")]
    pub(crate) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(crate) mod_revision: i64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Authenticated {
    header: Header,
    pub(crate) token: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StatusAnswer {
    header: Header,
    /// The member that leads.
    #[serde(default)]
    leader: String,
    /// How large its file is, in bytes.
    #[serde(default, rename = "dbSize", deserialize_with = "number")]
    pub(crate) db_size: u64,
    /// Its alarms.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
}

/// The other members of an error differ between the versions of etcd.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorAnswer {
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) code: i64,
}

impl StatusAnswer {
    /// Whether the member that answered is the leader.
    pub(crate) fn leads(&self) -> bool {
        !self.leader.is_empty() && self.leader == self.header.member_id
    }
}

impl TxnAnswer {
    /// What the ranges of the transaction have found, each the first key.
    pub(crate) fn found(self) -> impl Iterator<Item = Option<KeyValue>> {
        let ranges = self.responses.into_iter().filter_map(|answer| answer.response_range);
        ranges.map(|found| found.kvs.into_iter().next())
    }
}

/// If `head` was written at `revision` (0: there is none) with the value `known`, replaces it and
/// does `ops`; otherwise returns it. The value is compared because after a restore another `head`
/// may have the same revision.
pub(crate) fn compare_and_swap(
    head: &str,
    revision: i64,
    known: Option<&[u8]>,
    value: &[u8],
    ops: &[Op],
) -> Vec<u8> {
    let key = BASE64.encode(head);
    let mut out = format!(
        r#"{{"compare":[{{"key":"{key}","target":"MOD","result":"EQUAL","mod_revision":"{revision}"}}"#
    );
    if let Some(known) = known {
        let known = BASE64.encode(known);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#",{{"key":"{key}","target":"VALUE","result":"EQUAL","value":"{known}"}}"#
        );
    }
    out.push_str(r#"],"success":["#);
    push_op(&mut out, &Op::Put(head.into(), value.into()));
    for ops in ops.chunks(MAX_OPS) {
        out.push_str(r#",{"request_txn":{"success":["#);
        for (n, op) in ops.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            push_op(&mut out, op);
        }
        out.push_str("]}}");
    }
    let _ = write!(out, r#"],"failure":[{{"request_range":{{"key":"{key}"}}}}]}}"#);
    out.into_bytes()
}

/// Reads these keys at one revision.
pub(crate) fn look(keys: &[&str]) -> Vec<u8> {
    let ranges: Vec<_> = keys
        .iter()
        .map(|key| format!(r#"{{"request_range":{{"key":"{}"}}}}"#, BASE64.encode(key)))
        .collect();
    format!(r#"{{"success":[{}]}}"#, ranges.join(",")).into_bytes()
}

/// Reads at most `limit` keys from `from` to before `end`.
pub(crate) fn range(from: &[u8], end: &[u8], limit: usize) -> Vec<u8> {
    let (from, end) = (BASE64.encode(from), BASE64.encode(end));
    format!(r#"{{"key":"{from}","range_end":"{end}","limit":"{limit}"}}"#).into_bytes()
}

/// The same at `revision`. Serializable: any member that has this revision answers by itself.
pub(crate) fn page(from: &[u8], end: &[u8], revision: i64, limit: usize) -> Vec<u8> {
    let (from, end) = (BASE64.encode(from), BASE64.encode(end));
    format!(
        r#"{{"key":"{from}","range_end":"{end}","revision":"{revision}","limit":"{limit}","serializable":true}}"#
    )
    .into_bytes()
}

pub(crate) fn authenticate(user: &str, password: &str) -> Vec<u8> {
    serde_json::json!({ "name": user, "password": password }).to_string().into_bytes()
}

fn push_op(out: &mut String, op: &Op) {
    match op {
        Op::Put(key, value) => {
            out.push_str(r#"{"request_put":{"key":""#);
            BASE64.encode_string(key, out);
            out.push_str(r#"","value":""#);
            BASE64.encode_string(value, out);
        }
        Op::Delete(key) => {
            out.push_str(r#"{"request_delete_range":{"key":""#);
            BASE64.encode_string(key, out);
        }
    }
    out.push_str(r#""}}"#);
}

/// A number in a string.
fn number<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<T, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number as text")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(|_| E::custom("not a number"))
        }
    }
    deserializer.deserialize_str(Text(PhantomData))
}

fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    BASE64.decode(text).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_swap_has_its_rows_in_nested_transactions() {
        let ops: Vec<_> = (0..70).map(|n| Op::Delete(format!("k{n}"))).collect();
        let made = compare_and_swap("/rdlm/head", 22, Some(b"[]"), b"{}", &ops);
        let made: Value = serde_json::from_slice(&made).unwrap();
        assert_eq!(made["compare"][0]["key"], "L3JkbG0vaGVhZA==");
        assert_eq!(made["compare"][0]["mod_revision"], "22");
        assert_eq!(
            (&made["compare"][1]["target"], &made["compare"][1]["value"]),
            (&"VALUE".into(), &"W10=".into())
        );
        assert_eq!(made["success"][0]["request_put"]["value"], "e30=");
        let nested = |n: usize| made["success"][n]["request_txn"]["success"].as_array().unwrap();
        assert_eq!((nested(1).len(), nested(2).len()), (64, 6));
        assert_eq!(made["failure"][0]["request_range"]["key"], "L3JkbG0vaGVhZA==");
    }

    /// As etcd 3.4.23 has answered.
    #[test]
    fn what_is_zero_is_left_out() {
        let failed = br#"{"header":{"cluster_id":"324952591200643719","member_id":"3319","revision":"3","raft_term":"2"},"responses":[{"response_range":{"header":{"revision":"3"},"kvs":[{"key":"L3JkbG0vaGVhZA==","create_revision":"2","mod_revision":"3","version":"2","value":"e30="}],"count":"1"}}]}"#;
        let answer: TxnAnswer = serde_json::from_slice(failed).unwrap();
        assert!(!answer.succeeded);
        let head = answer.found().next().flatten().unwrap();
        assert_eq!((head.key.as_slice(), head.value.as_slice()), (&b"/rdlm/head"[..], &b"{}"[..]));
        assert_eq!(head.mod_revision, 3);

        let empty = br#"{"header":{"cluster_id":"1","revision":"1"},"succeeded":true,"responses":[{"response_range":{"header":{"revision":"1"}}},{"response_range":{}}]}"#;
        let answer: TxnAnswer = serde_json::from_slice(empty).unwrap();
        assert_eq!(answer.header.revision, 1);
        let found: Vec<_> = answer.found().map(|found| found.is_none()).collect();
        assert_eq!(found, [true, true]);

        let status = |leader: &str| {
            let text = format!(
                r#"{{"header":{{"cluster_id":"1","member_id":"3319","revision":"3"}},"version":"3.4.23","dbSize":"20480","leader":"{leader}","raftIndex":"9"}}"#
            );
            serde_json::from_str::<StatusAnswer>(&text).unwrap()
        };
        assert!(status("3319").leads() && !status("3320").leads());
        assert_eq!(status("3319").db_size, 20480);

        let error = br#"{"error":"etcdserver: mvcc: required revision has been compacted","message":"etcdserver: mvcc: required revision has been compacted","code":11}"#;
        let error: ErrorAnswer = serde_json::from_slice(error).unwrap();
        assert_eq!(error.code, 11);
    }
}
