//! The role of this server: who is active, as far as it knows, and who waits for that to change.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::term::{ActiveTerm, Pace};
use crate::lock::{LockManager, NotWritten, clock};

/// Who is active, as far as this server knows.
#[derive(Clone)]
pub(crate) enum View {
    /// This one.
    Active(Arc<ActiveTerm>),
    /// Another one, or nobody.
    Standby(Option<Arc<Peer>>),
    /// Another one that advertises the URL of this one, and so cannot be reached.
    DuplicateUrl,
    /// Nobody, and this server does not take over either.
    Halted(Arc<HaltReason>),
}

/// Another server, which is active.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The id of its term.
    pub(crate) term: String,
    pub(crate) url: String,
    pub(crate) secret: String,
}

/// Why what is in etcd cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HaltReason {
    /// For the label of a metric.
    pub(crate) kind: &'static str,
    /// For the log.
    pub(crate) why: String,
    /// For everybody: without the names of resources.
    pub(crate) detail: String,
}

impl HaltReason {
    pub(crate) const KINDS: [&'static str; 3] = ["restored", "unreadable", "thread"];
}

/// The role of this server, shared by all its threads.
pub(crate) struct Role {
    /// Where the others reach this server.
    pub(crate) url: String,
    pub(crate) pace: Pace,
    state: Mutex<State>,
}

struct State {
    view: View,
    /// When a look at etcd began that showed who is active.
    looked: Duration,
    /// Those who wait for another view, by number.
    watching: HashMap<u64, Sender<()>>,
    /// The connections to the active server that wait for a response, by number.
    pending: HashMap<u64, Arc<TcpStream>>,
    last_number: u64,
    leaving_since: Option<Instant>,
}

impl Role {
    pub(crate) fn new(url: String, pace: Pace) -> Self {
        let state = State {
            view: View::Standby(None),
            looked: Duration::ZERO,
            watching: HashMap::new(),
            pending: HashMap::new(),
            last_number: 0,
            leaving_since: None,
        };
        Self { url, pace, state: Mutex::new(state) }
    }

    pub(crate) fn view(&self) -> View {
        self.state().view.clone()
    }

    /// A look at etcd that began at this time has shown who is active.
    pub(crate) fn looked(&self, at: Duration) {
        self.state().looked = at;
    }

    /// Whether requests about locks can be answered here, or by the server that they are forwarded
    /// to.
    ///
    /// # Errors
    /// Why they get 503.
    pub(crate) fn serves(&self) -> Result<(), Cow<'static, str>> {
        let silent_for = clock::now().saturating_sub(self.state().looked);
        match self.view() {
            View::Active(active) if active.term.may_answer() => Ok(()),
            View::Active(active) => {
                let seconds = active.term.unconfirmed_for().as_secs_f64();
                Err(format!("etcd has not confirmed for {seconds:.1} s that this server is active")
                    .into())
            }
            View::Standby(Some(_)) if silent_for <= self.pace.failover_after => Ok(()),
            View::Standby(Some(_)) => {
                let seconds = silent_for.as_secs_f64();
                Err(format!("etcd has not said for {seconds:.1} s which server is active").into())
            }
            View::Standby(None) => Err("there is no active server for now".into()),
            View::DuplicateUrl => {
                Err("another server is active that has the --advertise-url of this one".into())
            }
            View::Halted(why) => Err(why.detail.clone().into()),
        }
    }

    /// Whether this server can write, if it is the active one.
    pub(crate) fn writable(&self) -> Result<(), NotWritten> {
        match self.view() {
            View::Active(active) => active.table.writable(),
            View::Standby(_) | View::DuplicateUrl | View::Halted(_) => Ok(()),
        }
    }

    /// Since when this server has been shutting down.
    pub(crate) fn leaving_since(&self) -> Option<Instant> {
        self.state().leaving_since
    }

    /// Shuts down from now on, and wakes those who wait.
    pub(crate) fn leave(&self) {
        let mut state = self.state();
        state.leaving_since.get_or_insert_with(Instant::now);
        let watching = std::mem::take(&mut state.watching);
        drop(state);
        wake(&watching);
    }

    /// Changes the view: ends the connections to the server that was active, and wakes those who
    /// wait.
    pub(crate) fn show(&self, view: View) {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        let watching = std::mem::take(&mut state.watching);
        let before = std::mem::replace(&mut state.view, view);
        drop(state);
        // It may be the last reference to a table, whose locks take a moment to drop.
        drop(before);
        for connection in pending.values() {
            // Fails if it has ended.
            let _ = connection.shutdown(Shutdown::Both);
        }
        wake(&watching);
    }

    /// The view, and a channel that gets a message when it changes.
    pub(crate) fn watch(&self) -> (View, Watch<'_>) {
        let (sender, changed) = bounded(1);
        let mut state = self.state();
        let number = state.next_number();
        state.watching.insert(number, sender);
        (state.view.clone(), Watch { role: self, number, changed })
    }

    /// Has a connection to `peer` shut down when another server becomes active; `None`: one is
    /// already.
    pub(crate) fn register(
        &self,
        peer: &Arc<Peer>,
        connection: Arc<TcpStream>,
    ) -> Option<Registration<'_>> {
        let mut state = self.state();
        if !matches!(&state.view, View::Standby(Some(active)) if active == peer) {
            return None;
        }
        let number = state.next_number();
        state.pending.insert(number, connection);
        Some(Registration { role: self, number })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each of its fields is valid at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(watching: &HashMap<u64, Sender<()>>) {
    for watching in watching.values() {
        // If it is full, a message is there already.
        let _ = watching.try_send(());
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Gets a message when the view changes, until it is dropped.
pub(crate) struct Watch<'a> {
    role: &'a Role,
    number: u64,
    pub(crate) changed: Receiver<()>,
}

impl Watch<'_> {
    /// Lets another thread end the wait.
    pub(crate) fn waker(&self) -> Option<Sender<()>> {
        self.role.state().watching.get(&self.number).cloned()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.role.state().watching.remove(&self.number);
    }
}

/// A connection that is shut down with the term of the server at its other end, until this is
/// dropped.
pub(crate) struct Registration<'a> {
    role: &'a Role,
    number: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.role.state().pending.remove(&self.number);
    }
}
