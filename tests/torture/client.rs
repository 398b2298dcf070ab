//! A client that logs what it does.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::history::{Action, Call, Log, Mode, Outcome, Span, Time, Wish};
use crate::http::{self, Connection, Manner};
use crate::witness::{self, HELD_UP};

/// Where calls are written: to the log of the run, or to the process that has the log.
pub(crate) trait Record: Sync {
    fn record(&self, call: Call);

    /// The client did not get a processor.
    fn held_up(&self, span: Span);
}

impl Record for Log {
    fn record(&self, call: Call) {
        self.call(call);
    }

    fn held_up(&self, span: Span) {
        self.hiccup(span);
    }
}

pub(crate) struct Client<'r> {
    record: &'r dyn Record,
    number: u32,
    address: SocketAddr,
    /// See [`Call::timely`].
    timely: bool,
    /// Kept from call to call.
    connection: Option<Connection>,
    pub(crate) rng: Rng,
    titles: u32,
}

impl<'r> Client<'r> {
    pub(crate) fn new(
        record: &'r dyn Record,
        number: u32,
        address: SocketAddr,
        timely: bool,
        seed: u64,
    ) -> Self {
        let rng = Rng::with_seed(seed);
        Self { record, number, address, timely, connection: None, rng, titles: 0 }
    }

    /// One more client with the same way to the server.
    pub(crate) fn fork(&mut self, number: u32) -> Self {
        Self::new(self.record, number, self.address, self.timely, self.rng.u64(..))
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// A request with a title of its own.
    pub(crate) fn wish(&mut self, mode: Mode, wait: Duration, lifetime: Duration) -> Wish {
        self.titles += 1;
        let title = format!("c{}-{}", self.number, self.titles);
        Wish { title, mode, limit: 1, wait, lifetime, key: None }
    }

    pub(crate) fn acquire(&mut self, resource: &str, wish: &Wish) -> Outcome {
        self.call(resource, Action::Acquire(wish.clone()))
    }

    /// One call. If no connection could be made, it certainly has not happened, and is not
    /// logged.
    pub(crate) fn call(&mut self, resource: &str, action: Action) -> Outcome {
        let kept = self.connection.take().filter(|kept| !kept.has_ended());
        let Some(mut connection) = kept.or_else(|| self.connect()) else {
            return Outcome::Unknown;
        };
        let held_up_before = witness::held_up_so_far();
        let sent = Time::now();
        let answer = connection.send(resource, &action).and_then(|()| connection.answer());
        let returned = Time::now();
        if witness::held_up_so_far() - held_up_before > HELD_UP {
            self.record.held_up(Span { from: sent, to: returned });
        }
        let outcome = match answer {
            Ok(answer) => {
                self.connection = Some(connection);
                http::outcome(&answer, &action)
            }
            Err(_) => Outcome::Unknown,
        };
        self.log(resource, action, sent, returned, outcome.clone());
        outcome
    }

    /// Sends a request; `None` if there is no connection.
    pub(crate) fn join(&mut self, resource: &str, wish: &Wish) -> Option<Joined> {
        let mut connection = self.connect()?;
        let sent = Time::now();
        // If this fails, the connection is useless, which its end tells.
        let _ = connection.send(resource, &Action::Acquire(wish.clone()));
        Some(Joined { connection, sent })
    }

    /// Ends the connection of a request that waits.
    pub(crate) fn leave(
        &mut self,
        resource: &str,
        wish: &Wish,
        joined: Joined,
        manner: Manner,
    ) -> Option<Connection> {
        let rest = joined.connection.leave(manner);
        let action = Action::Acquire(wish.clone());
        self.log(resource, action, joined.sent, Time::now(), Outcome::Left);
        rest
    }

    /// Calls until it is known what became of it; `None` if that takes too long.
    pub(crate) fn insist(&mut self, resource: &str, action: &Action) -> Option<Outcome> {
        for _ in 0..40 {
            match self.call(resource, action.clone()) {
                Outcome::Unknown | Outcome::Refused(503) => self.pause(20..60),
                outcome => return Some(outcome),
            }
        }
        None
    }

    /// Forgets the kept connection.
    pub(crate) fn reconnect(&mut self) {
        self.connection = None;
    }

    pub(crate) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }

    /// The client does something else.
    pub(crate) fn pause(&mut self, millis: std::ops::Range<u64>) {
        thread::sleep(self.millis(millis));
    }

    fn connect(&mut self) -> Option<Connection> {
        let connection = Connection::open(self.address);
        if connection.is_err() {
            self.pause(5..20);
        }
        connection.ok()
    }

    fn log(&self, resource: &str, action: Action, sent: Time, returned: Time, outcome: Outcome) {
        let (client, timely, resource) = (self.number, self.timely, resource.to_string());
        self.record.record(Call { client, resource, action, sent, returned, outcome, timely });
    }
}

/// A request that was sent.
pub(crate) struct Joined {
    connection: Connection,
    sent: Time,
}
