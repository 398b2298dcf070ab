//! Copies standard input to standard output, a line at a time, under a lock that is renewed
//! meanwhile: `cargo run --example under_a_lock -- nightly-backup`, with a server at RDLM_URL or
//! at `http://localhost:8888`.

use std::env;
use std::error::Error;
use std::io;
use std::time::Duration;

use rdlm_client::{Client, LockOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let resource = env::args().nth(1).ok_or("expected the name of a resource")?;
    let url = env::var("RDLM_URL").unwrap_or_else(|_| "http://localhost:8888".into());
    let client = Client::new(&url)?;
    let options = LockOptions {
        wait: Some(Duration::from_secs(10)),
        lifetime: Some(Duration::from_secs(2)),
        ..LockOptions::default()
    };
    let guard = client.acquire(&resource, &options)?;
    println!("held with the fencing token {}", guard.fencing_token().unwrap_or_default());
    for line in io::stdin().lines() {
        let line = line?;
        // Another may hold it by now, and do the same work.
        if guard.is_lost() {
            return Err("the lock was lost".into());
        }
        println!("{line}");
    }
    guard.release()?;
    Ok(())
}
