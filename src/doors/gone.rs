//! What became of a lock that is gone, for the client that still asks for it.

use std::sync::Arc;
use std::time::SystemTime;

use humantime::format_rfc3339_micros;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::refusals::refused;
use crate::http::Problem;
use crate::lock::{Actor, Event, LockId, LockManager, Refusal, ResourceName};

/// Who has ended a lock.
#[derive(Serialize)]
pub(super) struct ActorView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    door: Option<&'static str>,
}

impl<'a> ActorView<'a> {
    pub(super) fn of(actor: &'a Actor) -> Self {
        let (client, door) = (Some(&*actor.requester.address), Some(actor.door));
        Self { client, door, ..Self::user_of(actor) }
    }

    /// For those who may not see the locks of others.
    fn user_of(actor: &'a Actor) -> Self {
        Self { user: actor.requester.user.as_deref(), client: None, door: None }
    }
}

/// Explains why a lock is not there, as far as the latest events tell.
pub(super) struct Gone {
    locks: Arc<dyn LockManager>,
    resource: ResourceName,
    id: LockId,
    sees: bool,
}

impl Gone {
    pub(super) fn new(
        call: &Call<'_>,
        locks: Arc<dyn LockManager>,
        resource: &ResourceName,
        id: LockId,
    ) -> Self {
        let sees = call.caller.permissions.sees(resource);
        Self { locks, resource: resource.clone(), id, sees }
    }

    /// The problem of a request about this lock.
    pub(super) fn problem(&self, refusal: Refusal) -> Problem {
        let end = match refusal {
            Refusal::NoSuchLock => self.locks.events().end_of(&self.resource, self.id),
            _ => None,
        };
        let problem = refused(refusal);
        let Some(Event { time, details, .. }) = end else { return problem };
        let how = match details.kind.name() {
            // Nobody had been told of it.
            "abandoned" => "released",
            how => how,
        };
        problem.with_members(members(how, time, details.by.as_deref(), self.sees))
    }
}

/// The problem of a request that ends without a lock. `sees`: its client may see those of others.
#[expect(clippy::disallowed_methods, reason = "it is shown")]
pub(super) fn not_granted(refusal: Refusal, sees: bool) -> Problem {
    let Refusal::Deleted(by) = &refusal else { return refused(refusal) };
    let members = members("deleted", SystemTime::now(), Some(by), sees);
    refused(refusal).with_members(members)
}

fn members(how: &str, at: SystemTime, by: Option<&Actor>, sees: bool) -> Map<String, Value> {
    let view = by.map(|by| if sees { ActorView::of(by) } else { ActorView::user_of(by) });
    let mut gone = json!({ "how": how, "at": format_rfc3339_micros(at).to_string() });
    if let Some(view) = view {
        gone["by"] = json!(view);
    }
    if let Some(reason) = by.and_then(|by| by.reason.as_ref()) {
        gone["reason"] = json!(reason.as_str());
    }
    Map::from_iter([("gone".to_string(), gone)])
}
