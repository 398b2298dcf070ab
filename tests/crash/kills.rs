//! The server is killed at random moments under load.

use std::env;
use std::thread;
use std::time::Duration;

use super::{Host, attempt, lock_of};
use crate::harness::lock_body;

/// `make torture` sets more.
const ROUNDS: &str = "RDLM_CRASH_ROUNDS";

const CLIENTS: usize = 12;
/// Each is shared by three clients, so that a release grants the lock to one that waits.
const RESOURCES: usize = 4;

/// What a client knows of its lock when the server was killed.
enum Known {
    /// Its last answer was a grant.
    Held { path: String, token: u64 },
    /// It had released or never had a lock, or asked for one without an answer.
    Nothing,
    /// It had asked for the release without an answer.
    Doubtful { path: String },
}

struct Report {
    known: Known,
    largest_token: u64,
    released: Vec<String>,
}

/// Acquires and releases until the server is gone.
fn client(port: u16, resource: &str, last_token: u64) -> Report {
    let mut report = Report { known: Known::Nothing, largest_token: last_token, released: vec![] };
    let mut seed = port as usize;
    loop {
        let acquire = lock_body(20, 3600);
        let path = format!("/locks/{resource}");
        let Some((status, body)) = attempt(port, "POST", &path, &acquire) else { return report };
        assert_eq!(status, 201, "{body}");
        let (path, token) = lock_of(&body);
        // Every earlier grant that this client or an earlier server answered was smaller.
        assert!(token > report.largest_token, "{token} after {}", report.largest_token);
        report.largest_token = token;
        report.known = Known::Held { path: path.clone(), token };
        seed = seed.wrapping_mul(31).wrapping_add(7);
        if seed.is_multiple_of(16) {
            thread::sleep(Duration::from_millis(3));
        }
        report.known = Known::Doubtful { path: path.clone() };
        let Some((status, body)) = attempt(port, "DELETE", &path, "") else { return report };
        assert_eq!(status, 204, "{body}");
        report.released.push(path);
        report.known = Known::Nothing;
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let rounds = env::var(ROUNDS).map_or(12, |rounds| rounds.parse().unwrap());
    let host = Host::new();
    let mut random = fastrand::Rng::new();
    println!("seed {}", random.get_seed());
    let mut last_token = 0;
    for round in 0..rounds {
        let server = host.start();
        let port = server.port();
        let lifetime = Duration::from_micros(random.u64(2_000..80_000));
        let reports: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    scope.spawn(move || client(port, &format!("r{}", n % RESOURCES), last_token))
                })
                .collect();
            thread::sleep(lifetime);
            server.signal("-KILL");
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        drop(server);

        let server = host.start();
        for report in &reports {
            match &report.known {
                Known::Held { path, token } => {
                    let lock = server.get(path);
                    assert_eq!(lock.status, 200, "round {round}: a grant is lost");
                    assert_eq!(lock.json()["fencing_token"], *token);
                    assert_eq!(lock.json()["active"], true);
                }
                Known::Doubtful { path } => {
                    assert!([200, 404].contains(&server.get(path).status));
                }
                Known::Nothing => {}
            }
            for path in report.released.iter().rev().take(20) {
                assert_eq!(server.get(path).status, 404, "round {round}: a release is lost");
            }
            last_token = last_token.max(report.largest_token);
        }
        for n in 0..RESOURCES {
            assert!(server.locks(&format!("r{n}")).len() <= 1);
        }
        assert_eq!(server.delete("/resources").status, 204);
        let token = server.acquire("after", 0.0, 60.0).json()["fencing_token"].as_u64().unwrap();
        assert!(token > last_token, "{token} after {last_token}");
        last_token = token;
        assert_eq!(server.delete("/resources").status, 204);
    }
}
