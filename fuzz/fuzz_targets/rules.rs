//! The file of users, and the rights of each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rdlm::doors::users::UserFile;
use rdlm_http::reloaded::Source;

fuzz_target!(|input: &[u8]| {
    let parsed = UserFile("users.toml".into()).parse(&[input.to_vec()]);
    if let Err(error) = parsed {
        let error = error.to_string();
        assert!(error.starts_with("users.toml, line "), "it has a place");
        assert!(!error.contains(char::is_control), "one line");
    }
});
