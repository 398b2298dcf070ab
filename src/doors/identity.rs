//! Authentication: who sends a request, and with which rights.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use smol_str::SmolStr;

use super::access::Access;
use super::context::Context;
use super::rights::{Requirement, Right, Rights};
use super::rules::{Credentials, Rules};
use super::users::Users;
use crate::http::{Problem, Request, Status};
use crate::lock::ResourceName;
use crate::passwords::PasswordCheck;

/// The rights of a client, and whether the rules that gave them are still in force.
#[derive(Clone)]
pub(super) struct Permissions {
    pub(super) rights: Arc<Rights>,
    by: By,
}

/// Where rights come from.
#[derive(Clone)]
enum By {
    /// The command line: the file of administrators may grant more.
    Options,
    /// A file of users, and what it said.
    Users(Arc<Users>, Arc<Rules>),
    /// Another server, which checks that itself.
    ForwardedClient,
}

impl Permissions {
    /// All rights.
    #[cfg(test)]
    pub(super) fn whole() -> Self {
        Self { rights: Rights::all(), by: By::Options }
    }

    pub(super) fn sees(&self, resource: &ResourceName) -> bool {
        self.rights.allow(Right::See, resource)
    }

    pub(super) fn sees_all(&self) -> bool {
        self.rights.allow_all(Right::See)
    }

    /// Whether to show the uids of its locks: a uid is the right to release the lock.
    pub(super) fn shows_uids(&self, resource: &ResourceName) -> bool {
        self.rights.allow(Right::Administrate, resource)
    }

    /// Whether the rules have not changed since.
    pub(super) fn is_current(&self) -> bool {
        match &self.by {
            By::Users(users, rules) => Arc::ptr_eq(&users.current(), rules),
            By::Options | By::ForwardedClient => true,
        }
    }

    /// Whether they come from the command line, and the file of administrators may allow more.
    pub(super) fn are_by_options(&self) -> bool {
        matches!(self.by, By::Options)
    }

    /// Those that another server has found.
    pub(super) fn forwarded(rights: Arc<Rights>) -> Self {
        Self { rights, by: By::ForwardedClient }
    }
}

/// The user, if known, and its rights. `certified`: the name in the client's certificate.
pub(super) fn identify(
    context: &Context,
    requires: Requirement,
    request: &Request<'_>,
    certified: Option<&SmolStr>,
) -> Result<(Option<SmolStr>, Permissions), Problem> {
    let settings = &context.settings;
    if let Some(users) = &context.users {
        let rules = users.current();
        let (user, rights) = match requires {
            Requirement::Nothing => (None, Rights::none()),
            _ => known(context, &rules, request, certified)?,
        };
        return Ok((user, Permissions { rights, by: By::Users(Arc::clone(users), rules) }));
    }
    let certified = certified.cloned();
    let without_rules = |rights| Permissions { rights, by: By::Options };
    match requires {
        Requirement::Nothing | Requirement::Some(Right::Lock) => {
            let is_open = settings.access == Access::Open;
            let rights = if is_open { Rights::all() } else { Rights::to_lock() };
            Ok((certified, without_rules(rights)))
        }
        Requirement::All(Right::See) => Ok((certified, without_rules(Rights::all()))),
        Requirement::Some(_) | Requirement::All(_) => {
            let administrator = administrator(context, request)?;
            Ok((administrator.or(certified), without_rules(Rights::all())))
        }
    }
}

/// The user and rights under these rules, by `Authorization` or else by the client's certificate.
fn known(
    context: &Context,
    rules: &Rules,
    request: &Request<'_>,
    certified: Option<&SmolStr>,
) -> Result<(Option<SmolStr>, Arc<Rights>), Problem> {
    let name = match request.headers.only("Authorization")? {
        Some(authorization) => authenticated(context, rules, authorization)?,
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

/// By password or token. The refusal does not say whether the name or the password is wrong.
fn authenticated(
    context: &Context,
    rules: &Rules,
    authorization: &str,
) -> Result<SmolStr, Problem> {
    let wrong = || unauthorized("the user and password, or the token, are not accepted".into());
    if let Some(token) = bearer_token(authorization) {
        return rules.owner(token).cloned().ok_or_else(wrong);
    }
    let given = basic_credentials(authorization).ok_or_else(wrong)?;
    with_password(context, rules, given, wrong)
}

/// The administrator who sends a request, where a file says who may.
pub(super) fn administrator(
    context: &Context,
    request: &Request<'_>,
) -> Result<Option<SmolStr>, Problem> {
    let authorization = request.headers.only("Authorization")?;
    let Some(rules) = context.settings.access.rules()? else { return Ok(None) };
    let wrong = || {
        let detail = "administrative requests need a user name and password (HTTP Basic)";
        let problem = Problem::new(Status::Unauthorized, detail);
        problem.with_header("WWW-Authenticate", "Basic realm=\"Restricted\"")
    };
    let given = authorization.and_then(basic_credentials).ok_or_else(wrong)?;
    with_password(context, &rules, given, wrong).map(Some)
}

fn with_password(
    context: &Context,
    rules: &Rules,
    given: Credentials,
    wrong: impl FnOnce() -> Problem,
) -> Result<SmolStr, Problem> {
    let stored = rules.passwords(&given.name);
    match context.passwords.check(&stored, &given.password, rules.dearest) {
        PasswordCheck::Right => Ok(given.name.into()),
        PasswordCheck::Wrong => Err(wrong()),
        PasswordCheck::Busy => {
            let detail = "too many passwords are being checked at the moment; try again later";
            let problem = Problem::new(Status::ServiceUnavailable, detail);
            Err(problem.with_header("Retry-After", "1"))
        }
    }
}

/// RFC 7617.
fn basic_credentials(authorization: &str) -> Option<Credentials> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some(Credentials { name: name.into(), password: password.into() })
}

/// RFC 6750.
fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

pub(super) fn unauthorized(detail: String) -> Problem {
    let challenges = "Basic realm=\"Restricted\", Bearer realm=\"Restricted\"";
    Problem::new(Status::Unauthorized, detail).with_header("WWW-Authenticate", challenges)
}
