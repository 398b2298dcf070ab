//! The client of a request and its rights, checked once before the request is handled.

use super::context::Context;
use super::forwarded;
use super::forwarded_client::ForwardedClient;
use super::identity::{Permissions, identify, unauthorized};
use super::rights::{Requirement, Right};
use super::subscribers::Who;
use crate::http::departures::Client;
use crate::http::{Problem, Request, Status};
use crate::lock::{Requester, ResourceName};

/// A client whose request has been admitted.
pub(super) struct Caller<'a> {
    /// The other end of the connection.
    pub(super) client: Client<'a>,
    /// Who it is, and where, as far as trusted proxies say.
    pub(super) requester: Requester,
    /// What it may see.
    pub(super) permissions: Permissions,
    /// Whether its connection is encrypted.
    pub(super) is_encrypted: bool,
    /// Whether there is a thread and a connection to spare for its wait.
    pub(super) may_wait: bool,
    /// Whether another server forwards its requests.
    pub(super) is_introduced: bool,
}

impl<'a> Caller<'a> {
    /// Admits a request for this resource, or for none in particular.
    pub(super) fn admit(
        context: &Context,
        requires: Requirement,
        resource: Option<&ResourceName>,
        request: &Request<'_>,
        client: Client<'a>,
        forwarded_client: Option<&ForwardedClient>,
    ) -> Result<Self, Problem> {
        let proxies = &context.settings.trusted_proxies;
        let (address, certified, is_encrypted) = match forwarded_client {
            Some(ForwardedClient { requester, is_encrypted, .. }) => {
                (requester.address.clone(), requester.user.as_ref(), *is_encrypted)
            }
            None => {
                let address = forwarded::client(request, client.address(), proxies);
                (address, client.certified_user(), client.is_encrypted())
            }
        };
        let (user, permissions) = match forwarded_client.and_then(|said| said.rights.clone()) {
            Some(rights) => (certified.cloned(), Permissions::forwarded(rights)),
            None => identify(context, requires, request, certified)?,
        };
        let (requester, is_introduced) = (Requester { address, user }, forwarded_client.is_some());
        let may_wait = client.may_wait() && forwarded_client.is_none_or(|said| said.may_wait);
        let caller = Self { client, requester, permissions, is_encrypted, may_wait, is_introduced };
        let rights = &caller.permissions.rights;
        let (is_allowed, right) = match (requires, resource) {
            (Requirement::Nothing, _) => (true, Right::See),
            (Requirement::Some(right), Some(resource)) => (rights.allow(right, resource), right),
            (Requirement::Some(right), None) => (rights.allow_some(right), right),
            (Requirement::All(right), _) => (rights.allow_all(right), right),
        };
        if is_allowed { Ok(caller) } else { Err(caller.lacks(right, resource)) }
    }

    /// The response to a client without this right.
    pub(super) fn lacks(&self, right: Right, resource: Option<&ResourceName>) -> Problem {
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

    /// Whose share of the subscribers it takes from.
    pub(super) fn subscriber(&self) -> Who {
        if self.permissions.rights.allow_all(Right::Administrate) {
            Who::Administrator
        } else {
            Who::User(self.requester.user.clone())
        }
    }
}
