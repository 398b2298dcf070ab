//! The loop that every server goes through: standby, loading, active, and standby again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, bounded, select};
use log::{debug, error, info, warn};

use super::Options;
use super::chain::{Chain, Leaving, StoredHead, Tenure};
use super::etcd::{Etcd, Failure, wire};
use super::history::{History, Loss};
use super::loading::Loading;
use super::member::{Member, Peer, Tables, Tenancy, Unusable, View};
use super::records::{FORMAT, Head, Keys, TenureRecord, range_end};
use super::store::EtcdStore;
use super::tenure::Silence;
use crate::lock::clock;
use crate::lock::{LockManager, LockTable, OpenError};

/// How long the requests in flight may take to end when this server leaves.
const FAREWELL: Duration = Duration::from_millis(700);

/// How often the active server looks how etcd is, and how long a member may take to say so: the
/// server cannot leave meanwhile.
const LOOK_AT_ETCD: Duration = Duration::from_secs(60);
const LOOK_TIME: Duration = Duration::from_millis(200);

/// Four fifths of etcd's default quota, in bytes.
const LARGE: u64 = (2 << 30) / 5 * 4;

pub(super) struct Loop {
    member: Arc<Member>,
    etcd: Arc<Etcd>,
    keys: Keys,
    history: Arc<History>,
    tables: Tables,
    leaving: Leaving,
    /// Something of this service, or nothing at all, was seen in etcd: from now on, what cannot be
    /// read there is no reason to end.
    begun: bool,
    /// Why what is in etcd cannot be used, as the log says.
    refused: Option<Arc<Unusable>>,
    /// Dropped when this server has left.
    leaves: Option<Sender<Infallible>>,
    /// What is known of etcd is that it does not answer, and the log says so.
    failing: bool,
    /// etcd is about to be full, and the log says so.
    warned: bool,
}

/// What a look at etcd has shown.
struct Seen {
    /// How far etcd was.
    revision: i64,
    head: Option<StoredHead>,
    tenure: Option<TenureRecord>,
}

impl Seen {
    /// That of `head`; 0: there is none.
    fn head_revision(&self) -> i64 {
        self.head.as_ref().map_or(0, |stored| stored.revision)
    }
}

/// Why a standby takes over.
struct Chance {
    head: Option<StoredHead>,
    /// When that was first seen.
    first_seen: Duration,
    why: String,
    /// What was read since that `head` was seen.
    ahead: Option<Loading>,
}

impl Loop {
    pub(super) fn new(
        member: Arc<Member>,
        etcd: Arc<Etcd>,
        options: &Options,
        tables: Tables,
        leaving: Leaving,
        leaves: Sender<Infallible>,
    ) -> Self {
        Self {
            member,
            etcd,
            keys: Keys::new(&options.prefix),
            history: Arc::new(History::new(options.accept_restored)),
            tables,
            leaving,
            begun: false,
            refused: None,
            leaves: Some(leaves),
            failing: false,
            warned: false,
        }
    }

    /// The body of the thread. Ends with the process, or with the reason for which that has to
    /// end.
    pub(super) fn run(mut self) -> Result<Infallible, String> {
        loop {
            let chance = self.stand_by()?;
            info!("taking over: {}", chance.why);
            let began = clock::now();
            match self.take_over(chance) {
                Ok(Some((tenancy, deposed, over))) => {
                    self.refused = None;
                    let locks = tenancy.table.totals().active;
                    let took = clock::now().saturating_sub(began).as_millis();
                    info!(
                        "this server is the active one; locks held from before: {locks}, loaded in {took} ms"
                    );
                    self.member.show(View::Active(tenancy));
                    self.be_active(&deposed, &over);
                }
                Ok(None) if self.history.lost().is_none() => info!("another server was faster"),
                // The next look at etcd says why.
                Ok(None) => {}
                Err(why) => self.refuse(why),
            }
        }
    }

    /// Looks at etcd until there is a reason to take over.
    fn stand_by(&mut self) -> Result<Chance, String> {
        let pace = self.member.pace;
        let mut silence = Silence::new(pace);
        let mut ahead = None;
        let mut own_url = OwnUrl::default();
        loop {
            self.etcd.look_now_and_then();
            match self.look() {
                Ok(seen) => {
                    self.note_answer();
                    self.begun = true;
                    let revision = seen.head_revision();
                    let theirs = seen.tenure.as_ref().and_then(|tenure| tenure.failover_after);
                    let sighting = silence.saw(revision, theirs, clock::now());
                    self.read_ahead(&mut ahead, (revision, seen.revision), &silence);
                    let why = reason(&seen, &silence);
                    let tenure = seen.tenure.filter(|tenure| !tenure.vacant);
                    let of_own_url = tenure.as_ref().filter(|tenure| tenure.url == self.member.url);
                    if own_url.is_in_use(of_own_url.map(|tenure| (&*tenure.by, revision))) {
                        self.show_namesake();
                    } else {
                        self.follow(tenure);
                    }
                    if let Some(why) = why.filter(|_| self.leaves.is_some()) {
                        let first_seen = sighting.first_seen;
                        return Ok(Chance { head: seen.head, first_seen, why, ahead });
                    }
                }
                Err(Look::Foreign(why)) if !self.begun => return Err(why),
                Err(no_look) => {
                    silence.missed();
                    self.note(no_look);
                }
            }
            self.pause(pace.poll());
        }
    }

    /// Why a look has shown nothing, for the log.
    fn note(&mut self, no_look: Look) {
        match no_look {
            Look::Failed(failure) => self.note_failure(&failure),
            Look::Foreign(why) => self.refuse(unreadable(why)),
            Look::Lost(loss) => {
                let why = loss.to_string();
                self.refuse(Unusable { kind: "restored", detail: why.clone(), why });
            }
            Look::TooEarly => {}
        }
    }

    /// Says why no lock is granted here, and grants none until there is an active server again.
    fn refuse(&mut self, why: Unusable) {
        let refused = match self.refused.take().filter(|known| **known == why) {
            Some(known) => known,
            None => {
                error!("{}", why.why);
                Arc::new(why)
            }
        };
        if !matches!(self.member.view(), View::Refusing(known) if known == refused) {
            self.member.show(View::Refusing(Arc::clone(&refused)));
        }
        self.refused = Some(refused);
    }

    /// Reads the locks as long as the `head` of this revision, which is what etcd has at another
    /// one, may be the last one of its tenure.
    fn read_ahead(
        &self,
        ahead: &mut Option<Loading>,
        (head, seen_at): (i64, i64),
        silence: &Silence,
    ) {
        if !silence.may_read_ahead() {
            *ahead = None;
        } else if ahead.as_ref().is_none_or(|ahead| !ahead.is_of(head)) {
            debug!("reading the locks ahead, at revision {seen_at}");
            // Without a thread it is done later, or not at all.
            *ahead = Loading::start(Arc::clone(&self.etcd), &self.keys, head, seen_at).ok();
        }
    }

    /// Says that another server is active under the URL of this one.
    fn show_namesake(&self) {
        if !matches!(self.member.view(), View::Namesake) {
            error!(
                "another server is active that has the URL of this one, {}: each needs an \
                 --advertise-url of its own, or requests to this one cannot be passed on",
                self.member.url
            );
            self.member.show(View::Namesake);
        }
    }

    /// Shows who is active, if that is another server.
    fn follow(&self, tenure: Option<TenureRecord>) {
        // An earlier process at this server's own place is not there any more.
        let other = tenure.filter(|tenure| tenure.url != self.member.url);
        let peer = other.map(|TenureRecord { by, url, secret, .. }| Peer { by, url, secret });
        let is_news = match self.member.view() {
            View::Active(_) => false,
            View::Standby(known) => known.as_deref() != peer.as_ref(),
            View::Namesake => true,
            // The reason stands while nobody is active.
            View::Refusing(_) => peer.is_some(),
        };
        if is_news {
            match &peer {
                Some(peer) => info!("standby: {} is active", peer.url),
                None => info!("standby: nobody is active"),
            }
            self.member.show(View::Standby(peer.map(Arc::new)));
        }
    }

    /// Becomes the active server; `None` if another one did.
    #[expect(clippy::type_complexity, reason = "three channels and what they are about")]
    fn take_over(
        &self,
        chance: Chance,
    ) -> Result<Option<(Arc<Tenancy>, Receiver<()>, Receiver<Infallible>)>, Unusable> {
        let Chance { head, first_seen, ahead, .. } = chance;
        // What was taken over from is exactly what was seen.
        let revision = head.as_ref().map_or(0, |stored| stored.revision);
        let ahead = ahead.filter(|ahead| ahead.is_of(revision));
        let tenure = Tenure::new(self.member.pace, &self.member.url)
            .map_err(|error| unreadable(format!("cannot take over: {error}")))?;
        let (over_sender, over) = bounded(0);
        let Ok(chain) = Chain::take_over(
            Arc::clone(&self.etcd),
            self.keys.clone(),
            Arc::clone(&self.history),
            tenure,
            head,
            first_seen,
            self.leaving.clone(),
            over_sender,
        ) else {
            return Ok(None);
        };
        self.member.metrics.tenure();
        let tenure = Arc::clone(&chain.tenure);
        let (sender, deposed) = bounded(1);
        let store = EtcdStore::new(chain, ahead, Arc::clone(&self.member.metrics), sender);
        let Tables { limits, reconnect_grace, observer } = &self.tables;
        let observer = Arc::clone(observer);
        self.member.events.restart_numbering();
        let (store, events) = (Some(Box::new(store) as Box<_>), Arc::clone(&self.member.events));
        match LockTable::with_events(*limits, *reconnect_grace, store, observer, events) {
            Ok(table) => {
                let tenancy = Tenancy { table: Arc::new(table), tenure };
                Ok(Some((Arc::new(tenancy), deposed, over)))
            }
            Err(_) if tenure.is_over() || self.member.leaving_since().is_some() => Ok(None),
            Err(error) => {
                // It writes no more, so that another server may try.
                tenure.end();
                Err(cannot_take_over(&error))
            }
        }
    }

    /// Until another server has taken over, or this one leaves.
    fn be_active(&mut self, deposed: &Receiver<()>, over: &Receiver<Infallible>) {
        let leaves = loop {
            self.etcd.look_now_and_then();
            self.look_at_etcd();
            select! {
                recv(deposed) -> _ => break false,
                recv(self.leaving) -> _ => break true,
                recv(after(LOOK_AT_ETCD)) -> _ => {}
            }
        };
        let View::Active(tenancy) = self.member.view() else { return };
        if leaves {
            info!("stepping down");
        } else if self.history.lost().is_none() {
            warn!("another server has taken over: this one is a standby from now on");
        }
        // Whoever comes from now on is not served here, and whoever is just looking sees nothing.
        tenancy.tenure.close();
        self.member.show(View::Standby(None));
        tenancy.table.dismiss();
        self.member.events.end_subscriptions();
        drop(tenancy);
        if leaves {
            // Ends when the last request is done with the locks, and etcd knows.
            let _ = over.recv_timeout(FAREWELL);
            self.leaves = None;
        }
    }

    /// Looks for the member that is best asked, and warns, once, of what will keep locks from being
    /// changed.
    fn look_at_etcd(&mut self) {
        let Ok(status) = self.etcd.prefer_leader(LOOK_TIME) else { return };
        let (size, alarms) = (status.db_size >> 20, status.errors.join(", "));
        let troubled = !alarms.is_empty() || status.db_size > LARGE;
        if troubled && !self.warned {
            warn!(
                "etcd's file has {size} MiB, {}: docs/high-availability.md says how to make room",
                if alarms.is_empty() { "near its default quota of 2048" } else { &alarms }
            );
        }
        self.warned = troubled;
    }

    fn look(&self) -> Result<Seen, Look> {
        if let Some(loss) = self.history.lost() {
            return Err(Look::Lost(loss));
        }
        let known = self.history.latest();
        let (head, tenure) = (self.keys.head(), self.keys.tenure());
        let body = wire::look(&[&head, &tenure]);
        let answer = self.etcd.txn(&body, self.member.pace.attempt()).map_err(Look::Failed)?;
        let revision = answer.header.revision;
        let mut found = answer.found();
        let (Some(found_head), Some(found_tenure)) = (found.next(), found.next()) else {
            return Err(Look::Failed(Failure::Unreadable));
        };
        let head = match found_head {
            Some(found) => Some(StoredHead {
                revision: found.mod_revision,
                head: read_head(&head, &found.value)?,
                value: found.value,
            }),
            None => None,
        };
        let version = head.as_ref().map(|stored| stored.head.version(stored.revision));
        self.history.show(known.as_ref(), version.as_ref()).map_err(Look::Lost)?;
        if head.is_none() && !self.begun {
            self.look_below_prefix()?;
        }
        let tenure = match found_tenure {
            Some(found) => Some(
                TenureRecord::read(&found.value).ok_or_else(|| Look::Foreign(foreign(&tenure)))?,
            ),
            None => None,
        };
        Ok(Seen { revision, head, tenure })
    }

    /// There is no `head`, so nothing else may be below the prefix: nothing is written beside what
    /// somebody else keeps there, nor beside locks whose `head` was lost.
    fn look_below_prefix(&self) -> Result<(), Look> {
        let prefix = self.keys.prefix();
        let body = wire::range(prefix.as_bytes(), &range_end(prefix), 2);
        let found = self.etcd.range(&body, self.member.pace.attempt()).map_err(Look::Failed)?;
        let keys: Vec<_> = found.kvs.into_iter().map(|found| found.key).collect();
        if let Some(key) = keys.iter().find(|key| !self.keys.is_ours(key)) {
            return Err(Look::Foreign(foreign(&String::from_utf8_lossy(key))));
        }
        if keys.iter().any(|key| *key == self.keys.head().as_bytes()) {
            // Another server has begun meanwhile.
            return Err(Look::TooEarly);
        }
        match keys.is_empty() {
            true => Ok(()),
            false => self.history.show_locks_without_head().map_err(Look::Lost),
        }
    }

    fn pause(&mut self, pause: Duration) {
        let over = after(pause);
        if self.leaves.is_none() {
            // Fails never: it is a clock.
            let _ = over.recv();
            return;
        }
        select! {
            recv(over) -> _ => {}
            // There is nothing to step down from.
            recv(self.leaving) -> _ => self.leaves = None,
        }
    }

    fn note_failure(&mut self, failure: &Failure) {
        if !self.failing {
            warn!("waiting for etcd: {failure}");
            self.failing = true;
        }
    }

    fn note_answer(&mut self) {
        if self.failing {
            info!("etcd answers again");
            self.failing = false;
        }
    }
}

/// Tells another server that has the URL of this one from an earlier process of this one, which is
/// gone: it writes.
#[derive(Default)]
struct OwnUrl {
    /// Whose tenure it is, at which revision it wrote last, and how often it was seen to write.
    seen: Option<(String, i64, u32)>,
}

impl OwnUrl {
    /// One write may have been on its way when the process ended.
    const WRITES: u32 = 2;

    /// With the tenure that has this URL now, and its latest revision.
    fn is_in_use(&mut self, tenure: Option<(&str, i64)>) -> bool {
        self.seen = tenure.map(|(by, revision)| {
            let known = self.seen.take().filter(|(known, ..)| known == by);
            let (by, before, writes) = known.unwrap_or_else(|| (by.into(), revision, 0));
            let writes = if revision == before { writes } else { Self::WRITES.min(writes + 1) };
            (by, revision, writes)
        });
        self.seen.as_ref().is_some_and(|(.., writes)| *writes >= Self::WRITES)
    }
}

/// Why a look has shown nothing.
enum Look {
    Failed(Failure),
    /// What is there is not what this version writes.
    Foreign(String),
    /// It shows that etcd has lost writes.
    Lost(Loss),
    /// It was overtaken by the first write of all.
    TooEarly,
}

/// Why a standby takes over that has seen this.
fn reason(seen: &Seen, silence: &Silence) -> Option<String> {
    match &seen.tenure {
        _ if seen.head.is_none() => Some("there was no active server yet".into()),
        None => Some("nobody is active".into()),
        Some(tenure) if tenure.vacant => Some(format!("{} has stepped down", tenure.url)),
        Some(tenure) if silence.is_over() => {
            let seconds = silence.patience().as_secs_f64();
            Some(format!("{} has been silent for {seconds} s", tenure.url))
        }
        Some(_) => None,
    }
}

fn read_head(key: &str, value: &[u8]) -> Result<Head, Look> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_slice(value) {
        Ok(Format { format: FORMAT }) => {}
        Ok(Format { format }) => {
            return Err(Look::Foreign(format!(
                "--etcd: {key} has format {format}, and this version of rdlm supports format \
                 {FORMAT} alone"
            )));
        }
        Err(_) => return Err(Look::Foreign(foreign(key))),
    }
    Head::read(value).ok_or_else(|| Look::Foreign(foreign(key)))
}

/// Because of a value that this version does not write.
fn unreadable(why: String) -> Unusable {
    let detail = "a value in etcd is not one of this version of rdlm: the log names its key";
    Unusable { kind: "unreadable", why, detail: detail.into() }
}

fn cannot_take_over(error: &OpenError) -> Unusable {
    let why = format!("cannot take over: {error}");
    match error {
        OpenError::Thread(_) => Unusable { kind: "thread", detail: why.clone(), why },
        _ => unreadable(why),
    }
}

fn foreign(key: &str) -> String {
    format!("--etcd: {key} does not belong to rdlm: choose another --etcd-prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_url_is_in_use_by_whoever_goes_on_writing_under_it() {
        let mut own_url = OwnUrl::default();
        for (tenure, in_use) in [
            (None, false),
            (Some(("a", 1)), false),
            (Some(("a", 1)), false),
            // The last write of a process that has ended.
            (Some(("a", 2)), false),
            (Some(("a", 2)), false),
            (Some(("b", 3)), false),
            (Some(("b", 4)), false),
            (Some(("b", 5)), true),
            (Some(("b", 5)), true),
            (None, false),
            (Some(("b", 6)), false),
        ] {
            assert_eq!(own_url.is_in_use(tenure), in_use, "{tenure:?}");
        }
    }
}
