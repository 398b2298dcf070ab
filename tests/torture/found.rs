//! What the torture has found, as short as it can be told.

use std::time::Duration;

use crate::client::{Client, Joined};
use crate::history::{Action, Log, Mode, Outcome, Wish};
use crate::http::Manner;
use crate::nemesis::Scratch;
use crate::rules::{self, Rule};
use crate::server::{Server, Setup};

const WAIT: Duration = Duration::from_secs(10);

fn start(scratch: &Scratch) -> Server {
    let data_dir = Some(scratch.path().join("data"));
    let binary = env!("CARGO_BIN_EXE_rdlm").into();
    let restart_grace = Duration::from_secs(1);
    let (options, clock_ahead) = (Vec::new(), Duration::ZERO);
    Server::start(Setup { binary, data_dir, restart_grace, options, clock_ahead })
}

/// A client with a key leaves the line, and the lock comes free. It comes back while the disk
/// refuses to write, and is told that nothing has changed: its place has to be there still.
#[test]
fn a_comeback_that_cannot_be_written_keeps_the_place() {
    let scratch = Scratch::new(false);
    let server = start(&scratch);
    let log = Log::default();
    let mut client = Client::new(&log, 1, server.address(), true, 1);
    let holder = client.wish(Mode::Ex, WAIT, WAIT);
    let Outcome::Granted { uid, .. } = client.acquire("r", &holder) else { panic!("not granted") };
    let wish = client.wish(Mode::Ex, WAIT, WAIT);
    let wish = Wish { key: Some("key".into()), ..wish };
    let joined = join(&mut client, &wish);
    client.leave("r", &wish, joined, Manner::Close);
    client.pause(100..101);
    assert_eq!(client.call("r", Action::Release { uid }), Outcome::Done);
    assert_eq!(listed(&mut client), [&*wish.title], "the place is kept");

    server.limit_file_size(Some(4096));
    assert_eq!(client.acquire("r", &wish), Outcome::Refused(503));
    let kept = listed(&mut client);
    let history = log.into_history(true, Duration::from_secs(1), Vec::new());
    let mut verdicts = rules::check_all(&history);
    // Nobody watches how long the disk takes.
    verdicts.retain(|(rule, _)| *rule != Rule::Starvation);
    let broken: Vec<_> = verdicts.iter().flat_map(|(_, verdict)| &verdict.violations).collect();
    assert!(kept == [&*wish.title] && broken.is_empty(), "{broken:#?}");
}

/// A lock expires while the disk refuses to write, so that the two who wait for it have to wait
/// on. Whoever comes now comes after them.
#[test]
fn nobody_overtakes_a_line_that_could_not_be_served() {
    let scratch = Scratch::new(false);
    let server = start(&scratch);
    let log = Log::default();
    let mut client = Client::new(&log, 1, server.address(), true, 1);
    let holder = client.wish(Mode::Ex, WAIT, Duration::from_millis(500));
    assert!(matches!(client.acquire("r", &holder), Outcome::Granted { .. }));
    let wishes = [Mode::Cr, Mode::Cr, Mode::Ex].map(|mode| client.wish(mode, WAIT, WAIT));
    let [first, second, newcomer] = &wishes;
    let _waiting = [join(&mut client, first), join(&mut client, second)];
    server.limit_file_size(Some(4096));
    client.pause(600..601);
    let _joined = join(&mut client, newcomer);
    assert_eq!(listed(&mut client), wishes.each_ref().map(|wish| &*wish.title));
}

/// Sends a request, and returns when it is in line.
fn join(client: &mut Client<'_>, wish: &Wish) -> Joined {
    let joined = client.join("r", wish).unwrap();
    while !listed(client).contains(&wish.title) {
        client.pause(1..5);
    }
    joined
}

/// The titles in the list.
fn listed(client: &mut Client<'_>) -> Vec<String> {
    match client.call("r", Action::List) {
        Outcome::Shown(locks) => locks.into_iter().map(|seen| seen.title).collect(),
        _ => Vec::new(),
    }
}
