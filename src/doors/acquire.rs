//! Waiting for a lock, for a client that may disconnect: the same for all doors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::call::Call;
use super::hal;
use crate::current_locks::CurrentLocks;
use crate::http::Response;
use crate::lock::{
    Conversion, Departure, Grant, IdempotencyKey, LockId, Pending, Refusal, ResourceName, Terms,
};

/// A grant that took longer, also without a wait (the disk may), is only for a client that is
/// still there.
const PATIENCE: Duration = Duration::from_millis(100);

/// A header from the active server to the one that forwards its response: the path of the lock to
/// give back if the client does not get the response.
pub const IF_UNDELIVERED: &str = "RDLM-If-Undelivered";

/// A granted lock whose client has not got the response yet.
pub(super) struct Undelivered {
    locks: Arc<dyn CurrentLocks>,
    pub(super) resource: ResourceName,
    is_introduced: bool,
}

impl Undelivered {
    pub(super) fn new(call: &Call<'_>, resource: ResourceName) -> Self {
        let locks = Arc::clone(&call.context.locks);
        Self { locks, resource, is_introduced: call.caller.is_introduced }
    }

    /// Has the lock given back unless this response is delivered.
    pub(super) fn unless_delivered(self, response: Response, id: LockId) -> Response {
        let Self { locks, resource, is_introduced } = self;
        let response = if is_introduced {
            response.header(IF_UNDELIVERED, hal::Path::Lock(&resource, id).to_string())
        } else {
            response
        };
        response.on_undelivered(move || abandon(&*locks, &resource, id))
    }
}

/// Gives a lock back that its client was not told of. Another server has it if this one has none.
pub(super) fn abandon(locks: &dyn CurrentLocks, resource: &ResourceName, id: LockId) {
    if let Ok(locks) = locks.current() {
        locks.abandon(resource, id);
    }
}

/// Returns when the wait is over; the lock is granted when that is written. A response that tells
/// of the lock goes through [`Undelivered`].
pub(super) fn acquire(
    call: &Call<'_>,
    resource: &ResourceName,
    request: Terms,
    key: Option<IdempotencyKey>,
) -> Pending<Result<Grant, Refusal>> {
    let context = call.context;
    let began = Instant::now();
    let has_key = key.is_some();
    let (acquired, wait) = watched(call, |on_wait| match context.locks.current() {
        Ok(locks) => locks.acquire(resource, request, key, on_wait),
        Err(refusal) => Err(refusal).into(),
    });
    let (locks, metrics) = (Arc::clone(&context.locks), Arc::clone(&context.metrics));
    let (resource, presence) = (resource.clone(), call.caller.client.presence());
    acquired.map(move |acquired| {
        let took = began.elapsed();
        let acquired = acquired.map_err(|refusal| wait.explain(refusal, &*locks));
        metrics.acquisition(acquired.as_ref().map(drop).map_err(Refusal::reason), took);
        let grant = acquired?;
        // A retry may come when its client has gone on to another one.
        let may_have_left = wait == Wait::Watched || has_key || took >= PATIENCE;
        if may_have_left && presence.has_left() {
            abandon(&*locks, &resource, grant.id);
            return Err(Refusal::Departed);
        }
        Ok(grant)
    })
}

/// Returns when the lock has its new mode or the wait is over. A client that has left meanwhile has
/// the lock all the same, in one mode or the other.
pub(super) fn convert(
    call: &Call<'_>,
    resource: &ResourceName,
    id: LockId,
    conversion: Conversion,
) -> Result<Grant, Refusal> {
    let context = call.context;
    let (converted, wait) = watched(call, |on_wait| {
        context.locks.current()?.convert(resource, id, conversion, on_wait)
    });
    let converted = converted.map_err(|refusal| wait.explain(refusal, &*context.locks));
    context.metrics.conversion(converted.as_ref().map(drop).map_err(Refusal::reason));
    converted
}

/// Whether a client has waited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    Watched,
    /// It would have had to, and may not.
    Refused,
}

impl Wait {
    /// Why the request was refused, if the core says this.
    fn explain(self, refusal: Refusal, locks: &dyn CurrentLocks) -> Refusal {
        match refusal {
            Refusal::Departed if self == Self::Refused => Refusal::TooManyWaiting,
            Refusal::ShuttingDown => locks.on_shutdown(),
            refusal => refusal,
        }
    }
}

/// Does what may wait while the client is watched, which ends the wait if it leaves. The wait of a
/// client that may not wait ends when it begins.
fn watched<T>(call: &Call<'_>, act: impl FnOnce(&mut dyn FnMut(Departure)) -> T) -> (T, Wait) {
    let client = call.caller.client;
    let mut wait = Wait::No;
    let mut watch = None;
    let done = act(&mut |departure| {
        if call.caller.may_wait {
            wait = Wait::Watched;
            watch = Some(client.watch(move || departure.leave()));
        } else {
            wait = Wait::Refused;
            departure.leave();
        }
    });
    if let Some(Err(error)) = &watch {
        warn!("a client waits and would not be noticed if it left: {error}");
    }
    (done, wait)
}
