//! Who there is, how each is known, and what each may do: what the file of users says, or that of
//! administrators.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use smol_str::SmolStr;

use super::rights::Rights;
use crate::passwords::{self, is_bcrypt};

/// What a file says.
pub struct Rules {
    anonymous: Arc<Rights>,
    users: HashMap<SmolStr, User>,
    tokens: HashMap<Digest, SmolStr>,
    /// The cost of refusing a password, at the name where it is highest.
    pub(super) dearest: u64,
}

/// One user.
pub(super) struct User {
    /// Plain or hashed; each is accepted.
    pub(super) passwords: Vec<String>,
    pub(super) rights: Arc<Rights>,
}

/// The SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// A name, and a password as it is sent, or as a file has it.
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

impl Rules {
    pub(super) fn new(
        anonymous: Arc<Rights>,
        users: HashMap<SmolStr, User>,
        tokens: HashMap<Digest, SmolStr>,
    ) -> Self {
        let work = |user: &User| passwords::work(user.passwords.iter().map(String::as_str));
        let dearest = users.values().map(work).max().unwrap_or(0);
        Self { anonymous, users, tokens, dearest }
    }

    /// Everybody may lock; these may do everything. A name may have several passwords.
    pub(super) fn of_administrators(all: Vec<Credentials>) -> Self {
        let mut users = HashMap::<SmolStr, User>::new();
        for Credentials { name, password } in all {
            let new = || User { passwords: Vec::new(), rights: Rights::all() };
            users.entry(name.into()).or_insert_with(new).passwords.push(password);
        }
        Self::new(Rights::to_lock(), users, HashMap::new())
    }

    /// How many users there are.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// The rights of clients without credentials.
    pub(super) fn anonymous(&self) -> Arc<Rights> {
        Arc::clone(&self.anonymous)
    }

    /// `None` if there is no such user.
    pub(super) fn rights(&self, name: &str) -> Option<Arc<Rights>> {
        self.users.get(name).map(|user| Arc::clone(&user.rights))
    }

    /// The passwords of a user, plain or hashed; none if there is no such user.
    pub(super) fn passwords(&self, name: &str) -> Vec<&str> {
        let user = self.users.get(name);
        user.map(|user| user.passwords.iter().map(String::as_str).collect()).unwrap_or_default()
    }

    /// Whose token it is.
    pub(super) fn owner(&self, token: &str) -> Option<&SmolStr> {
        let mut hash = Digest::default();
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        self.tokens.get(&hash)
    }

    #[cfg(test)]
    pub(super) fn users(&self) -> &HashMap<SmolStr, User> {
        &self.users
    }
}

/// Whether it is a hash of a kind that is not supported. As a plain password it would let in those
/// who know the hash, and nobody who knows the password.
pub(super) fn is_unknown_hash(password: &str) -> bool {
    let unsupported = ["$apr1$", "$1$", "$5$", "$6$", "$argon2", "{SHA}"];
    unsupported.iter().any(|prefix| password.starts_with(prefix))
        || (is_bcrypt(password) && password.parse::<bcrypt::HashParts>().is_err())
}
