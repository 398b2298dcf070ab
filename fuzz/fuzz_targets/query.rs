//! Query strings: what one asks of them is text, there at most once, and what it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rdlm_http::query::Query;

fuzz_target!(|text: &str| {
    let query = Query::new(text);
    for name in ["limit", "after", "search", "state", ""] {
        let Ok(Some(value)) = query.only(name) else { continue };
        assert!(value.len() <= text.len());
        let number = query.parsed(name, |text| {
            assert_eq!(text, value);
            text.parse::<u16>().map_err(|_| "a number".to_string())
        });
        assert_eq!(number.ok().flatten(), value.parse().ok());
    }
});
