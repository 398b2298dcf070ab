//! The bodies in openapi.json have the fields that the server reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::ROOT;
use crate::harness::Server;

#[test]
fn a_field_is_in_the_document_exactly_if_the_server_reads_it() {
    let document = fs::read_to_string(Path::new(ROOT).join("docs/openapi.json")).unwrap();
    let schemas = &serde_json::from_str::<Value>(&document).unwrap()["components"]["schemas"];
    let fields = |schema: &str| schemas[schema]["properties"].as_object().unwrap().keys().cloned();
    let bodies = [
        ("LockRequest", "POST", json!({"title": "t", "wait": 0, "lifetime": 60})),
        ("Conversion", "PATCH", json!({"mode": "EX"})),
        ("Renewal", "PATCH", json!({"lifetime": 60})),
    ];
    let mut all: BTreeSet<_> = bodies.iter().flat_map(|(schema, ..)| fields(schema)).collect();
    all.insert("other".into());
    let server = Server::start();
    let held = server.hold("a");
    for (schema, method, body) in bodies {
        let path = if method == "POST" { "/locks/b" } else { &held };
        let is_read = |field: &&String| {
            let mut body = body.clone();
            body[field.as_str()] = json!([]);
            server.connect().request(method, path, &body.to_string()).status == 400
        };
        let read: BTreeSet<_> = all.iter().filter(is_read).cloned().collect();
        let mut known: BTreeSet<_> = fields(schema).collect();
        // With one of these it is another body.
        let no = schemas[schema]["not"]["required"].as_array().into_iter().flatten();
        known.extend(no.map(|field| field.as_str().unwrap().to_string()));
        assert_eq!(known, read, "{schema}");
    }
}
