//! What the torture has found, as short as it can be told.

use std::time::Duration;

use rustix::process::Signal;

use crate::client::Client;
use crate::history::{Action, Log, Mode, Outcome, Wish};
use crate::http::Manner;
use crate::nemesis::Scratch;
use crate::rules;
use crate::server::{Server, Setup};

/// A client with a key leaves the line, and the lock comes free. It comes back while the disk
/// refuses to write, and is told that nothing has changed: its place has to be there still.
#[test]
#[ignore = "the server gives the place up: Resource::take_back does not restore a kept place"]
fn a_comeback_that_cannot_be_written_keeps_the_place() {
    let scratch = Scratch::new(false);
    let restart_grace = Duration::from_secs(1);
    let data_dir = Some(scratch.path().join("data"));
    let binary = env!("CARGO_BIN_EXE_rdlm").into();
    let server = Server::start(Setup { binary, data_dir, restart_grace });
    let log = Log::default();
    let mut client = Client::new(&log, 1, server.address(), true, 1);
    let wait = Duration::from_secs(10);
    let holder = client.wish(Mode::Ex, wait, wait);
    let Outcome::Granted { uid, .. } = client.acquire("r", &holder) else { panic!("not granted") };
    let wish = client.wish(Mode::Ex, wait, wait);
    let wish = Wish { key: Some("key".into()), ..wish };
    let joined = client.join("r", &wish).unwrap();
    while !is_listed(&mut client, &wish.title) {
        client.pause(1..5);
    }
    client.leave("r", &wish, joined, Manner::Close);
    client.pause(100..101);
    assert_eq!(client.call("r", Action::Release { uid }), Outcome::Done);
    assert!(is_listed(&mut client, &wish.title), "the place is kept");

    server.limit_file_size(Some(4096));
    assert_eq!(client.acquire("r", &wish), Outcome::Refused(503));
    let kept = is_listed(&mut client, &wish.title);
    server.signal(Signal::KILL);
    let history = log.into_history(true, restart_grace, Vec::new());
    let verdicts = rules::check_all(&history);
    let broken: Vec<_> = verdicts.iter().flat_map(|(_, verdict)| &verdict.violations).collect();
    assert!(kept && broken.is_empty(), "{broken:#?}");
}

fn is_listed(client: &mut Client<'_>, title: &str) -> bool {
    match client.call("r", Action::List) {
        Outcome::Shown(locks) => locks.iter().any(|seen| seen.title == title),
        _ => false,
    }
}
