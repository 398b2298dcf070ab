//! The file of administrators.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use rdlm::doors::access::Access;

fuzz_target!(|input: &[u8]| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/users");
    fs::write(path, input).unwrap();
    let validated = Access::UserFile(path.into()).validate();
    if let Err(error) = validated {
        assert!(!error.to_string().contains('\n'), "one line");
    }
});
