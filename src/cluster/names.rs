//! The addresses of other hosts: the members of etcd, and the active server. Names are looked up on
//! threads of their own, one for each name at a time, because the system's look-up has no time
//! limit. Meanwhile the known addresses stay in use.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Older addresses are looked up again when they are used.
const FRESH: Duration = Duration::from_secs(10);

/// How many names are known at most.
const MAX_NAMES: usize = 64;

/// How many addresses of one name are used.
const MAX_ADDRESSES: usize = 16;

type LookUp = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// The addresses of names. A clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Names(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    look_up: LookUp,
    names: Mutex<HashMap<String, Name>>,
}

#[derive(Debug, Default)]
struct Name {
    /// From the latest successful look-up.
    addresses: Vec<SocketAddr>,
    /// When that was; `None`: they are in doubt.
    fresh_since: Option<Instant>,
    /// Why the latest look-up has failed.
    failure: Option<(io::ErrorKind, String)>,
    /// A thread is looking it up, and drops the other end when it has ended.
    in_progress: Option<Receiver<Infallible>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::by(|name| Ok(name.to_socket_addrs()?.take(MAX_ADDRESSES).collect()))
    }
}

impl Names {
    fn by(look_up: LookUp) -> Self {
        Self(Arc::new(Shared { look_up, names: Mutex::default() }))
    }

    /// The addresses of `HOST:PORT`, at least one: at once if some are known, else `within` this
    /// time.
    ///
    /// # Errors
    /// There are none, or nothing is known in time.
    pub(crate) fn addresses(&self, name: &str, within: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let in_progress = {
            let mut names = self.lock();
            if !has_room(&mut names, name) {
                return Err(io::Error::other("too many names are being looked up"));
            }
            let known = names.entry(name.into()).or_default();
            if known.fresh_since.is_none_or(|since| since.elapsed() >= FRESH) {
                self.look_up(known, name);
            }
            match &known.in_progress {
                Some(in_progress) if known.addresses.is_empty() => in_progress.clone(),
                _ => return known.addresses(),
            }
        };
        // It ends with the look-up.
        if in_progress.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            let why = format!("{name} was not found in time");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.lock().entry(name.into()).or_default().addresses()
    }

    /// Looks all names up again in the background, after a host was not found at its address.
    pub(crate) fn refresh(&self) {
        self.lock().iter_mut().for_each(|(name, known)| self.look_up(known, name));
    }

    /// Begins a look-up, unless there is one.
    fn look_up(&self, known: &mut Name, name: &str) {
        if known.in_progress.is_some() {
            return;
        }
        let (shared, name) = (Arc::clone(&self.0), name.to_string());
        let (ends, in_progress) = bounded(0);
        let run = move || {
            let found = (shared.look_up)(&name);
            shared.lock().entry(name).or_default().took(found);
            drop(ends);
        };
        match thread::Builder::new().name("look-up".into()).spawn(run) {
            Ok(_) => known.in_progress = Some(in_progress),
            Err(error) => known.failure = Some((error.kind(), format!("no thread: {error}"))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.0.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        // Each name is valid at any moment.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is room for a name, if need be in place of the oldest one.
fn has_room(names: &mut HashMap<String, Name>, name: &str) -> bool {
    if names.len() < MAX_NAMES || names.contains_key(name) {
        return true;
    }
    let others = names.iter().filter(|(_, known)| known.in_progress.is_none());
    let oldest = others.min_by_key(|(_, known)| known.fresh_since).map(|(name, _)| name.clone());
    oldest.is_some_and(|oldest| names.remove(&oldest).is_some())
}

impl Name {
    fn took(&mut self, found: io::Result<Vec<SocketAddr>>) {
        self.in_progress = None;
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                (self.addresses, self.fresh_since) = (addresses, Some(Instant::now()));
            }
            Ok(_) => self.failure = None,
            Err(error) => self.failure = Some((error.kind(), error.to_string())),
        }
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.failure {
            _ if !self.addresses.is_empty() => Ok(self.addresses.clone()),
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        }
    }
}

/// ureq's own resolver would start a thread for each request, even on an open connection.
impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(Error::HostNotFound);
        };
        let name = DefaultResolver::host_and_port(scheme, authority).ok_or(Error::HostNotFound)?;
        let found = self.addresses(&name, *timeout.after).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
            _ => Error::Io(error),
        })?;
        let mut addresses = self.empty();
        found.into_iter().take(MAX_ADDRESSES).for_each(|address| addresses.push(address));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Until nobody looks this name up.
    fn wait(names: &Names, name: &str) {
        let in_progress = names.lock()[name].in_progress.clone();
        let ended = in_progress.map(|in_progress| in_progress.recv_timeout(PATIENCE));
        assert_ne!(ended, Some(Err(RecvTimeoutError::Timeout)));
    }

    #[test]
    fn what_is_known_is_used_while_a_look_up_does_not_end() {
        static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);
        static SILENT: RwLock<()> = RwLock::new(());
        let names = Names::by(|_| {
            let _silence = SILENT.read();
            let port = LOOK_UPS.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(vec![address(u16::try_from(port).unwrap())])
        });
        assert_eq!(names.addresses("a:1", PATIENCE).unwrap(), [address(1)]);
        let silence = SILENT.write();
        for _ in 0..100 {
            names.refresh();
            assert_eq!(names.addresses("a:1", Duration::ZERO).unwrap(), [address(1)]);
        }
        // What is not known is waited for, as long as one wants to.
        let failure = names.addresses("b:1", Duration::from_millis(10)).unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        drop(silence);
        names.addresses("b:1", PATIENCE).unwrap();
        wait(&names, "a:1");
        assert_eq!(LOOK_UPS.load(Ordering::SeqCst), 3, "one at a time for each name");
        assert_ne!(names.addresses("a:1", Duration::ZERO).unwrap(), [address(1)]);
    }

    #[test]
    fn a_failed_look_up_takes_nothing_away() {
        static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);
        let names = Names::by(|_| match LOOK_UPS.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(vec![address(1)]),
            _ => Err(io::Error::other("the resolver is away")),
        });
        names.addresses("a:1", PATIENCE).unwrap();
        names.refresh();
        wait(&names, "a:1");
        assert_eq!(names.addresses("a:1", Duration::ZERO).unwrap(), [address(1)]);
        let failure = names.addresses("b:1", PATIENCE).unwrap_err();
        assert_eq!(failure.to_string(), "the resolver is away");
    }

    #[test]
    fn an_address_is_not_looked_up_and_64_names_are_known_at_most() {
        let names = Names::by(|_| Ok(vec![address(1)]));
        assert_eq!(
            names.addresses("[::1]:8", Duration::ZERO).unwrap(),
            ["[::1]:8".parse().unwrap()]
        );
        assert!(names.lock().is_empty());
        for n in 0..100 {
            names.addresses(&format!("host{n}:1"), PATIENCE).unwrap();
        }
        assert_eq!(names.lock().len(), MAX_NAMES);
        assert!(names.lock().contains_key("host99:1"));
    }
}
