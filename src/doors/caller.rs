//! Who sends a request, and what it may do: asked once, before anything is done.

use std::cell::LazyCell;
use std::fmt;
use std::sync::Arc;

use smol_str::SmolStr;

use super::access::{self, Access};
use super::introduction::Introduction;
use super::rights::Requirement;
use super::rights::{Right, Rights};
use super::subscribers::Who;
use super::users::{Rules, Users};
use super::{Call, Service, forwarded};
use crate::http::departures::Client;
use crate::http::{Problem, Request, Status};
use crate::lock::{IdempotencyKey, Requester, ResourceName};
use crate::passwords::Verdict;

/// Whoever sends a request, and has the right to it.
pub(super) struct Caller<'a> {
    /// The other end of the connection.
    pub(super) client: Client<'a>,
    /// Who it is, and where, as far as trusted proxies say.
    pub(super) requester: Requester,
    /// What it may see.
    pub(super) sight: Sight,
    /// Nobody on the way can read what it is sent.
    pub(super) is_encrypted: bool,
    /// Another server passes its requests on, and the responses.
    pub(super) is_introduced: bool,
}

/// What somebody may see, for as long as the rules stay as they are.
#[derive(Clone)]
pub(super) struct Sight {
    rights: Arc<Rights>,
    by: By,
}

/// Who has said what somebody may do.
#[derive(Clone)]
enum By {
    /// The options of this server: the file of administrators may allow more.
    Options,
    /// A file of users, and what it said.
    Users(Arc<Users>, Arc<Rules>),
    /// Another server, which looks after that by itself.
    Introduction,
}

impl Sight {
    /// That of those who may do everything.
    #[cfg(test)]
    pub(super) fn whole() -> Self {
        Self { rights: Rights::all(), by: By::Options }
    }

    /// Whether it includes this resource.
    pub(super) fn sees(&self, resource: &ResourceName) -> bool {
        self.rights.allow(Right::See, resource)
    }

    /// Whether it includes every resource.
    pub(super) fn sees_all(&self) -> bool {
        self.rights.allow_all(Right::See)
    }

    /// Whether the uids of its locks may be known, which are the right to release them.
    pub(super) fn shows_uids(&self, resource: &ResourceName) -> bool {
        self.rights.allow(Right::Administrate, resource)
    }

    /// Whether the rules are still those by which it was given.
    pub(super) fn is_current(&self) -> bool {
        match &self.by {
            By::Users(users, rules) => Arc::ptr_eq(&users.current(), rules),
            By::Options | By::Introduction => true,
        }
    }

    /// What they allow.
    pub(super) fn rights(&self) -> Arc<Rights> {
        Arc::clone(&self.rights)
    }
}

impl<'a> Caller<'a> {
    /// Lets a request for this resource, or for none in particular, pass, or not.
    pub(super) fn admit(
        service: &Service,
        requires: Requirement,
        resource: Option<&ResourceName>,
        request: &Request<'_>,
        client: Client<'a>,
        introduction: Option<&Introduction>,
    ) -> Result<Self, Problem> {
        let proxies = &service.settings.trusted_proxies;
        let (address, certified, is_encrypted) = match introduction {
            Some(Introduction { requester, is_encrypted, .. }) => {
                (requester.address.clone(), requester.user.as_ref(), *is_encrypted)
            }
            None => {
                let address = forwarded::client(request, client.address(), proxies);
                (address, client.certified_user(), client.is_encrypted())
            }
        };
        let (user, sight) = match introduction.and_then(|said| said.rights.clone()) {
            Some(rights) => (certified.cloned(), Sight { rights, by: By::Introduction }),
            None => identify(service, requires, request, certified)?,
        };
        let (requester, is_introduced) = (Requester { address, user }, introduction.is_some());
        let caller = Self { client, requester, sight, is_encrypted, is_introduced };
        let rights = &caller.sight.rights;
        let (is_allowed, right) = match (requires, resource) {
            (Requirement::Nothing, _) => (true, Right::See),
            (Requirement::Some(right), Some(resource)) => (rights.allow(right, resource), right),
            (Requirement::Some(right), None) => (rights.allow_some(right), right),
            (Requirement::All(right), _) => (rights.allow_all(right), right),
        };
        if is_allowed { Ok(caller) } else { Err(caller.lacks(right, resource)) }
    }

    /// The answer to whoever has not the right that is needed.
    fn lacks(&self, right: Right, resource: Option<&ResourceName>) -> Problem {
        let resource = resource.map_or("*", ResourceName::as_str);
        match &self.requester.user {
            Some(user) => {
                let detail = format!("the user {user:?} lacks the right \"{right} {resource}\"");
                Problem::new(Status::Forbidden, detail)
            }
            None => {
                unauthorized(format!("this needs a user with the right \"{right} {resource}\""))
            }
        }
    }

    /// As whom it follows events.
    pub(super) fn subscriber(&self) -> Who {
        if self.sight.rights.allow_all(Right::Administrate) {
            Who::Administrator
        } else {
            Who::User(self.requester.user.clone())
        }
    }

    /// Its name, for the log.
    pub(super) fn name(&self) -> Name<'_> {
        Name(self.requester.user.as_ref())
    }
}

/// A user's name, for the log.
pub(super) struct Name<'a>(Option<&'a SmolStr>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "{name:?}"),
            None => f.write_str("somebody"),
        }
    }
}

impl Call<'_> {
    /// Asks for a right where only the body of a request tells that it is needed, or for which
    /// resource. Returns the user.
    pub(super) fn require(
        &self,
        right: Right,
        resource: &ResourceName,
    ) -> Result<Option<SmolStr>, Problem> {
        if self.caller.sight.rights.allow(right, resource) {
            return Ok(self.caller.requester.user.clone());
        }
        if matches!(self.caller.sight.by, By::Options) && right != Right::Lock {
            let authorization = self.request.headers.only("Authorization")?;
            return self.service.settings.access.check(&self.service.passwords, authorization);
        }
        Err(self.caller.lacks(right, Some(resource)))
    }

    /// Whether a refusal by a door may name a holder by its title, given the key of the holder's
    /// request: those who use the same door are told of each other, others need the right to see.
    pub(super) fn shows_titles(
        &self,
        resource: &ResourceName,
        door: &'static str,
    ) -> impl Fn(Option<&IdempotencyKey>) -> bool {
        // A password is checked once, however many holders there are.
        let may_see = LazyCell::new(move || self.require(Right::See, resource).is_ok());
        move |key| key.is_some_and(|key| key.id_at_door(door).is_some()) || *may_see
    }
}

/// A holder, to those who are not told who it is.
pub(super) const SOMEBODY: &str = "another client";

/// Who sends a request, if it is known, and with which rights. `certified` is whom a certificate
/// names.
pub(super) fn identify(
    service: &Service,
    requires: Requirement,
    request: &Request<'_>,
    certified: Option<&SmolStr>,
) -> Result<(Option<SmolStr>, Sight), Problem> {
    let settings = &service.settings;
    if let Some(users) = &settings.users {
        let rules = users.current();
        let (user, rights) = match requires {
            Requirement::Nothing => (None, Rights::none()),
            _ => known(service, &rules, request, certified)?,
        };
        return Ok((user, Sight { rights, by: By::Users(Arc::clone(users), rules) }));
    }
    let certified = certified.cloned();
    let without_rules = |rights| Sight { rights, by: By::Options };
    match requires {
        Requirement::Nothing | Requirement::Some(Right::Lock) => {
            let is_open = settings.access == Access::Open;
            let rights = if is_open { Rights::all() } else { Rights::to_lock() };
            Ok((certified, without_rules(rights)))
        }
        Requirement::All(Right::See) => Ok((certified, without_rules(Rights::all()))),
        Requirement::Some(_) | Requirement::All(_) => {
            let authorization = request.headers.only("Authorization")?;
            let user = settings.access.check(&service.passwords, authorization)?;
            Ok((user.or(certified), without_rules(Rights::all())))
        }
    }
}

/// Who it is by these rules: by what the request says or else by the client's certificate.
fn known(
    service: &Service,
    rules: &Rules,
    request: &Request<'_>,
    certified: Option<&SmolStr>,
) -> Result<(Option<SmolStr>, Arc<Rights>), Problem> {
    let name = match request.headers.only("Authorization")? {
        Some(authorization) => authenticated(service, rules, authorization)?,
        None => match certified {
            Some(name) => name.clone(),
            None => return Ok((None, rules.anonymous())),
        },
    };
    match rules.rights(&name) {
        Some(rights) => Ok((Some(name), rights)),
        None => Err(unauthorized("the certificate belongs to no user".into())),
    }
}

/// By a password or a token. Whether the name or the password is wrong is not told.
fn authenticated(
    service: &Service,
    rules: &Rules,
    authorization: &str,
) -> Result<SmolStr, Problem> {
    let wrong = || unauthorized("the user and password, or the token, are not accepted".into());
    if let Some(token) = bearer_token(authorization) {
        return rules.owner(token).cloned().ok_or_else(wrong);
    }
    let given = access::basic_credentials(authorization).ok_or_else(wrong)?;
    let stored = rules.password(&given.name);
    match service.passwords.check(stored.as_slice(), &given.password, rules.dearest) {
        Verdict::Right => Ok(given.name.into()),
        Verdict::Wrong => Err(wrong()),
        Verdict::Busy => Err(access::busy()),
    }
}

/// RFC 6750.
fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorized(detail: String) -> Problem {
    let challenges = "Basic realm=\"Restricted\", Bearer realm=\"Restricted\"";
    Problem::new(Status::Unauthorized, detail).with_header("WWW-Authenticate", challenges)
}
