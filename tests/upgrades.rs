//! What earlier versions have left: it is taken over, or refused with what to do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::cluster::{etcd_or_skip, health, join};
use crate::crash::Host;
use crate::harness::{Server, wait_until};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Puts a file that an earlier version wrote where that had it.
fn put(fixture_name: &str, file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let compressed = fs::File::open(fixture(fixture_name)).unwrap();
    GzDecoder::new(compressed).read_to_end(&mut bytes).unwrap();
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(file, &bytes).unwrap();
    bytes
}

/// The locks that an earlier version showed, by resource.
fn locks(of: &str) -> BTreeMap<String, Vec<Value>> {
    serde_json::from_slice(&fs::read(fixture(of)).unwrap()).unwrap()
}

/// Every lock is held, and is what it was.
fn assert_held(server: &Server, locks: &BTreeMap<String, Vec<Value>>) {
    for (resource, before) in locks {
        let held: Vec<_> =
            server.locks(resource).into_iter().filter(|lock| lock["active"] == true).collect();
        assert_eq!(held.len(), before.len(), "{resource}");
        for (held, before) in held.iter().zip(before) {
            for (field, value) in before.as_object().unwrap() {
                // A restart lets locks live longer.
                let is_same = field == "active_expires" || held[field] == *value;
                assert!(is_same, "{resource}: {field} is {}, and was {value}", held[field]);
            }
        }
    }
    assert_eq!(
        server.get("/resources").json()["_embedded"]["resources"].as_array().unwrap().len(),
        locks.len()
    );
}

fn largest_token(locks: &BTreeMap<String, Vec<Value>>) -> u64 {
    locks.values().flatten().map(|lock| lock["fencing_token"].as_u64().unwrap()).max().unwrap()
}

/// The locks can still be used with their URLs and keys.
fn assert_usable(server: &Server, locks: &BTreeMap<String, Vec<Value>>) {
    let mut client = server.connect();
    client.send_acquire_with_key("keyed", "a-key");
    assert_eq!(client.response().json()["uid"], locks["keyed"][0]["uid"]);
    for resource in ["plain", "endless"] {
        let uid = locks[resource][0]["uid"].as_str().unwrap();
        assert_eq!(server.delete(&format!("/locks/{resource}/{uid}")).status, 204, "{resource}");
    }
    server.acquire("read", 0.0, 1.0).detail(408);
    let next = server.acquire("next", 0.0, 60.0).json()["fencing_token"].as_u64().unwrap();
    assert!(next > largest_token(locks));
}

#[test]
fn a_log_is_taken_over() {
    let host = Host::new();
    put("log-1.0.0.gz", &host.file());
    let locks = locks("log-1.0.0.json");
    let server = host.start();
    assert_held(&server, &locks);
    server.signal("-KILL");
    drop(server);
    let server = host.start();
    assert_held(&server, &locks);
    assert_usable(&server, &locks);
}

#[test]
fn a_log_of_before_1_0_is_refused_with_what_to_do_and_left_as_it_is() {
    for name in ["log-5b211c9.gz", "log-37c8086.gz"] {
        let host = Host::new();
        let written = put(name, &host.file());
        let text = host.refused();
        assert!(text.contains("00000001.log is damaged or not a journal of rdlm"), "{text}");
        assert!(text.contains("docs/durability.md says what to do"), "{text}");
        assert_eq!(fs::read(host.file()).unwrap(), written);
    }
}

/// CRC-32C, bit by bit, continued from another one.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!seed, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A frame of the log: checksum, length, number, body.
fn frame(salt: u32, number: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    let checked = [&length[..], &number.to_le_bytes(), body].concat();
    [&crc32c(salt, &checked).to_le_bytes()[..], &checked].concat()
}

/// The body and the number of the frame at `at`.
fn frame_at(bytes: &[u8], at: usize) -> (&[u8], u64) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let number = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
    (&bytes[at + 16..at + 16 + word(at + 4) as usize], number)
}

#[test]
fn a_log_of_a_newer_version_is_refused_by_name_and_left_as_it_is() {
    let host = Host::new();
    let written = put("log-1.0.0.gz", &host.file());
    // Its salt is the first number of the header, seven bits in each byte.
    let (header, _) = frame_at(&written, 16);
    let digits = header.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let salt =
        header[..=digits].iter().rev().fold(0, |salt, byte| salt << 7 | u32::from(byte & 0x7f));
    // The records are behind an acknowledgement of 16 bytes each.
    let (mut at, mut record) = (4096 + 16, Vec::new());
    let mut next = 1;
    while let (body, number) = frame_at(&written, at)
        && number == next
        && frame(salt, number, body) == written[at..at + 16 + body.len()]
    {
        (at, next, record) = (at + 16 + body.len() + 16, number + 1, body.to_vec());
    }
    assert!(next > 2, "its records were not found");
    let refused = |but: &[u8], at: usize| {
        let mut newer = written.clone();
        newer[at..at + but.len()].copy_from_slice(but);
        fs::write(host.file(), &newer).unwrap();
        let text = host.refused();
        assert!(text.contains("00000001.log was written by a newer rdlm than this one"), "{text}");
        assert!(text.contains("start that version again"), "{text}");
        assert_eq!(fs::read(host.file()).unwrap(), newer);
    };
    // A kind of entry that there is not yet, as the last one of one more record.
    record.extend(b"\x63what a newer version knows");
    refused(&frame(salt, next, &record), at);
    // Another format of the whole file.
    let header = [&b"rdlm locks v3\r\n\0"[..], &frame(3, 1, b"whatever")].concat();
    refused(&header, 0);
    fs::write(host.file(), &written).unwrap();
    assert_held(&host.start(), &locks("log-1.0.0.json"));
}

#[test]
fn a_database_of_before_1_0_is_refused_with_what_to_do_and_left_as_it_is() {
    for name in ["redb-e7c9d58.gz", "redb-855443c.gz"] {
        let host = Host::new();
        let database = host.file().with_file_name("locks.redb");
        let written = put(name, &database);
        let text = host.refused();
        assert!(text.contains("locks.redb is of an earlier version of rdlm"), "{text}");
        assert!(text.contains("move it away"), "{text}");
        assert_eq!(fs::read(&database).unwrap(), written);
        fs::remove_file(&database).unwrap();
        assert_eq!(host.start().acquire("plain", 0.0, 60.0).status, 201);
    }
}

#[test]
fn what_is_in_etcd_is_taken_over() {
    let etcd = etcd_or_skip!(1);
    for name in ["etcd-37c8086", "etcd-1.0.0"] {
        etcd.ctl(&["del", "--prefix", "/rdlm/"]).unwrap();
        let text = fs::read_to_string(fixture(&format!("{name}.txt"))).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for pair in lines.chunks(2) {
            etcd.ctl(&["put", pair[0], pair[1]]).unwrap();
        }
        let locks = locks(&format!("{name}.json"));
        let server = join(&etcd);
        wait_until("it is active", || health(&server)["role"] == "active");
        assert_held(&server, &locks);
        let head = etcd.ctl(&["get", "--print-value-only", "/rdlm/head"]).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&head).unwrap()["format"], 2);
        // The place in line is kept for who comes back, and passed over meanwhile.
        let waits = &server.locks("plain")[1];
        assert_eq!((&waits["title"], &waits["active"]), (&"waits".into(), &false.into()));
        let uid = waits["uid"].clone();
        let mut client = server.connect();
        client.send_acquire_with_key("plain", "who-waits");
        assert_usable(&server, &locks);
        assert_eq!(client.response().json()["uid"], uid, "{name}");
    }
}
