//! Checks passwords in a way that reveals no user names and does not exhaust the processor.
//!
//! A bcrypt hash is expensive by design. An unknown name costs as much as a wrong password, so
//! timing does not tell them apart. At most two hashes are computed at a time, at the lowest
//! priority; other checks wait a second at most. Right passwords are remembered, so a client that
//! sends its password with each request pays once.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::debug;
use ring::{hmac, rand};
use rustix::process::setpriority_process;
use subtle::ConstantTimeEq;

/// How many passwords are checked against hashes at a time.
const AT_A_TIME: usize = 2;

/// How long a check waits for its turn.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many right passwords are remembered.
const REMEMBERED: usize = 1024;

/// The lowest priority: locks come before passwords.
const LOWEST: i32 = 19;

/// The smallest cost of bcrypt.
const MIN_COST: u32 = 4;

/// Compares passwords with those in a file: in plain text, or as bcrypt hashes.
pub struct Passwords {
    /// A semaphore: holds a message for each check in progress.
    computing: (Sender<()>, Receiver<()>),
    /// Of this process alone. `None`: nothing is remembered.
    key: Option<hmac::Key>,
    remembered: Mutex<HashSet<Digest>>,
}

/// Keyed digest of a hash and the password that matched it. A changed hash has other digests, so
/// the old password is forgotten with the old hash.
type Digest = [u8; 32];

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordCheck {
    /// It matches a stored one.
    Right,
    /// It matches none.
    Wrong,
    /// Too many checks are in progress; try again later.
    Busy,
}

impl Passwords {
    /// Remembers nothing yet.
    pub fn new() -> Self {
        let random = rand::SystemRandom::new();
        Self {
            computing: bounded(AT_A_TIME),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &random).ok(),
            remembered: Mutex::default(),
        }
    }

    /// Compares a password with those `stored` under its name; none are if the name is unknown.
    /// A wrong password always costs `work`, that of the most expensive name in the file.
    pub fn check(&self, stored: &[&str], password: &str, work: u64) -> PasswordCheck {
        let (hashes, plain): (Vec<&str>, Vec<&str>) = stored.iter().partition(|s| is_bcrypt(s));
        let is = |plain: &&str| bool::from(plain.as_bytes().ct_eq(password.as_bytes()));
        if plain.iter().any(is) || hashes.iter().any(|hash| self.remembers(hash, password)) {
            return PasswordCheck::Right;
        }
        if work == 0 {
            return PasswordCheck::Wrong;
        }
        match self.compute(&hashes, password, work) {
            Some(Some(hash)) => {
                self.remember(hash, password);
                PasswordCheck::Right
            }
            Some(None) => PasswordCheck::Wrong,
            None => PasswordCheck::Busy,
        }
    }

    /// Returns the hash that matches, if one does; the outer `None` if the check had no turn. It
    /// runs on its own thread, because a lowered priority cannot be raised again.
    fn compute<'h>(
        &self,
        hashes: &[&'h str],
        password: &str,
        work: u64,
    ) -> Option<Option<&'h str>> {
        self.computing.0.send_timeout((), PATIENCE).ok()?;
        let found = thread::scope(|scope| {
            let builder = thread::Builder::new().name("password".into());
            let thread = builder.spawn_scoped(scope, || right_one(hashes, password, work));
            thread.ok()?.join().ok()
        });
        // Cannot be empty: it holds the message sent above.
        let _ = self.computing.1.try_recv();
        found
    }

    fn remembers(&self, hash: &str, password: &str) -> bool {
        let digest = self.digest(hash, password);
        digest.is_some_and(|digest| self.remembered().contains(&digest))
    }

    fn remember(&self, hash: &str, password: &str) {
        let Some(digest) = self.digest(hash, password) else { return };
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest);
    }

    fn digest(&self, hash: &str, password: &str) -> Option<Digest> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        // No hash has a line break.
        [hash, "\n", password].iter().for_each(|part| context.update(part.as_bytes()));
        let mut digest = Digest::default();
        digest.copy_from_slice(context.sign().as_ref());
        Some(digest)
    }

    fn remembered(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // A panic cannot leave the set half changed.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// The cost of finding that a password matches none of these, in rounds of bcrypt.
pub fn work<'s>(stored: impl IntoIterator<Item = &'s str>) -> u64 {
    stored.into_iter().filter_map(cost).fold(0, |work, cost| work.saturating_add(1 << cost))
}

/// Whether this is a bcrypt hash, perhaps a malformed one.
pub fn is_bcrypt(stored: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| stored.starts_with(prefix))
}

/// The binary logarithm of the rounds of a hash.
fn cost(stored: &str) -> Option<u32> {
    let parts = stored.parse::<bcrypt::HashParts>().ok().filter(|_| is_bcrypt(stored))?;
    Some(parts.get_cost())
}

/// Returns the hash that matches. If none does, `work` rounds have been spent.
fn right_one<'h>(hashes: &[&'h str], password: &str, work: u64) -> Option<&'h str> {
    if let Err(error) = setpriority_process(None, LOWEST) {
        debug!("a password is computed at the usual priority: {error}");
    }
    let mut spent = 0;
    let right = hashes.iter().find(|hash| {
        spent += self::work([**hash]);
        bcrypt::verify(password, hash).unwrap_or(false)
    });
    if right.is_none() {
        spent += spend(work.saturating_sub(spent), password);
    }
    debug!("a password was computed, in {spent} rounds of bcrypt");
    right.copied()
}

/// Spends about `work` rounds without a result; returns how many.
fn spend(work: u64, password: &str) -> u64 {
    let mut left = work;
    while let Some(cost) = left.checked_ilog2().filter(|cost| *cost >= MIN_COST) {
        // Fails for the passwords for which `bcrypt::verify` does, too.
        let _ = bcrypt::hash_with_salt(password, cost, [0; 16]);
        left -= 1 << cost;
    }
    work - left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A cheap one, and one that costs four times as much.
    fn hashes() -> [String; 2] {
        [4, 6].map(|cost| bcrypt::hash("secret", cost).unwrap())
    }

    #[test]
    fn a_password_is_right_wherever_it_is_stored() {
        let passwords = Passwords::new();
        let [cheap, dear] = hashes();
        let whole = work([&*cheap, &*dear]);
        for stored in [&["secret"][..], &[&cheap], &[&dear], &["other", &dear], &[&cheap, &dear]] {
            assert_eq!(
                passwords.check(stored, "secret", whole),
                PasswordCheck::Right,
                "{stored:?}"
            );
            for wrong in ["Secret", "", &cheap, "\0"] {
                assert_eq!(
                    passwords.check(stored, wrong, whole),
                    PasswordCheck::Wrong,
                    "{stored:?}"
                );
            }
        }
        assert_eq!(passwords.check(&[], "secret", whole), PasswordCheck::Wrong);
    }

    #[test]
    fn what_is_remembered_is_of_one_hash_and_has_a_limit() {
        let passwords = Passwords::new();
        let [cheap, dear] = hashes();
        passwords.remember(&cheap, "secret");
        assert!(passwords.remembers(&cheap, "secret"));
        assert!(!passwords.remembers(&cheap, "Secret"));
        assert!(!passwords.remembers(&dear, "secret"), "the file has changed");
        for n in 0..2 * REMEMBERED {
            passwords.remember(&cheap, &n.to_string());
            assert!(passwords.remembered().len() <= REMEMBERED);
        }
    }

    #[test]
    fn work_is_that_of_all_hashes_of_a_name() {
        let [cheap, dear] = hashes();
        assert_eq!(work(["plain"]), 0);
        assert_eq!(work(["plain", &*cheap, &*dear]), (1 << 4) + (1 << 6));
    }

    #[test]
    fn beyond_two_checks_at_a_time_others_wait_a_second_at_most() {
        let passwords = Passwords::new();
        let [cheap, _] = hashes();
        for _ in 0..AT_A_TIME {
            passwords.computing.0.try_send(()).unwrap();
        }
        let began = Instant::now();
        assert_eq!(passwords.check(&[&cheap], "wrong", 1 << 4), PasswordCheck::Busy);
        assert!(began.elapsed() >= PATIENCE);
        passwords.remember(&cheap, "secret");
        assert_eq!(passwords.check(&[&cheap], "secret", 1 << 4), PasswordCheck::Right);
        assert_eq!(passwords.check(&["plain"], "plain", 1 << 4), PasswordCheck::Right);
    }
}
