//! The query strings in the documents have parameters that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{ROOT, pages};

/// The paths whose parameters openapi.json has.
const PATHS: [&str; 4] = ["/status", "/resources", "/events", "/health"];

/// The names behind the question mark of each of these paths in a text.
fn queries(text: &str) -> Vec<(&'static str, String)> {
    let ends = |end: char| end.is_whitespace() || "`'\"<>)|".contains(end);
    let mut found = Vec::new();
    for path in PATHS {
        for rest in text.split(&format!("{path}?")).skip(1) {
            let query = rest.split(ends).next().unwrap();
            let names = query.split('&').filter_map(|pair| pair.split('=').next());
            found.extend(names.map(|name| (path, name.to_string())));
        }
    }
    found
}

#[test]
fn every_query_parameter_in_the_documents_exists() {
    let document = fs::read_to_string(Path::new(ROOT).join("docs/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let known = |path: &str| -> BTreeSet<String> {
        let parameters = document["paths"][path]["get"]["parameters"].as_array();
        let name = |parameter: &Value| {
            let own = parameter["$ref"].as_str().and_then(|to| document.pointer(&to[1..]));
            own.unwrap_or(parameter)["name"].as_str().unwrap().to_string()
        };
        parameters.into_iter().flatten().map(name).collect()
    };
    let mut count = 0;
    for (page, text) in pages() {
        for (path, name) in queries(&text) {
            assert!(known(path).contains(&name), "{page}: {path}?{name}");
            count += 1;
        }
    }
    assert_ne!(count, 0);
    assert_eq!(queries("`/status?prefix=a&limit=1`")[0], ("/status", "prefix".into()));
}
