//! A request at its door.

use std::cell::LazyCell;
use std::sync::Arc;

use smol_str::SmolStr;

use super::caller::Caller;
use super::context::Context;
use super::identity::administrator;
use super::refusals::refused;
use super::rights::Right;
use crate::http::{Problem, Request, Response};
use crate::lock::{Actor, IdempotencyKey, LockManager, Pending, ResourceName};

/// The longest reason for ending a lock, in bytes.
const MAX_REASON: usize = 1024;

pub(super) struct Call<'a> {
    pub(super) context: &'a Context,
    pub(super) request: &'a Request<'a>,
    pub(super) caller: Caller<'a>,
}

/// The result of a request at its door.
pub(super) type HandlerResult = Result<Response, Problem>;

/// The same, perhaps when a change has been written.
pub(super) type PendingResult = Result<Pending<HandlerResult>, Problem>;

impl Call<'_> {
    /// The locks at this moment.
    pub(super) fn locks(&self) -> Result<Arc<dyn LockManager>, Problem> {
        self.context.locks.current().map_err(refused)
    }

    /// The client, as one who ends a lock by way of this door, with the reason in the query.
    pub(super) fn actor(&self, door: &'static str) -> Result<Actor, Problem> {
        let reason = self.request.target.query().parsed("reason", |text| {
            let fits = text.len() <= MAX_REASON;
            fits.then(|| text.into()).ok_or_else(|| format!("at most {MAX_REASON} bytes"))
        })?;
        Ok(Actor { requester: self.caller.requester.clone(), door, reason })
    }

    /// Asks for a right where only the body of a request tells that it is needed, or for which
    /// resource. Returns the user.
    pub(super) fn require(
        &self,
        right: Right,
        resource: &ResourceName,
    ) -> Result<Option<SmolStr>, Problem> {
        if self.caller.permissions.rights.allow(right, resource) {
            return Ok(self.caller.requester.user.clone());
        }
        if self.caller.permissions.are_by_options() && right != Right::Lock {
            return administrator(self.context, self.request);
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

/// Stands for a holder that the client may not see.
pub(super) const ANONYMOUS: &str = "another client";
