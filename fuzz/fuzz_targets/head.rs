//! Heads of requests: the end is found at the same place however the bytes come in, and what
//! is accepted is within the limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rdlm_http::head::{Head, HeadScan, MAX_FIELD_SECTION, MAX_TARGET};

fuzz_target!(|input: &[u8]| {
    let whole = HeadScan::default().find_end(input);
    let mut scan = HeadScan::default();
    let by_bytes = (1..=input.len()).find_map(|len| match scan.find_end(&input[..len]) {
        Ok(None) => None,
        found => Some(found),
    });
    match (whole, by_bytes) {
        (Ok(Some(len)), by_bytes) => {
            let head = Head::parse(&input[..len]);
            // What comes in slowly is refused as soon as it is clear that it is malformed.
            let early = matches!(by_bytes, Some(Err(_)));
            assert!(by_bytes == Some(Ok(Some(len))) || early && head.is_err());
            if let Ok(head) = head {
                assert!(head.request.target.as_str().len() <= MAX_TARGET);
                assert!(len <= MAX_TARGET + MAX_FIELD_SECTION + 64);
            }
        }
        (Ok(None), by_bytes) => assert!(!matches!(by_bytes, Some(Ok(_)))),
        (Err(_), by_bytes) => assert!(matches!(by_bytes, Some(Err(_)))),
    }
});
