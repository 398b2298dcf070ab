//! The wait of a client that may leave: the same at each door.

use std::time::{Duration, Instant};

use log::warn;

use super::Call;
use crate::lock::{Grant, IdempotencyKey, LockRequest, Refusal, ResourceName};

/// A grant that took longer, also without a wait (the disk may), is only for a client that is
/// still there.
const PATIENCE: Duration = Duration::from_millis(100);

/// Returns when the lock is granted or the wait is over. Whoever cannot be told of the lock has to
/// say so by [`LockManager::abandon`](crate::lock::LockManager::abandon).
pub(super) fn acquire(
    call: &Call<'_>,
    resource: &ResourceName,
    request: LockRequest,
    key: Option<IdempotencyKey>,
) -> Result<Grant, Refusal> {
    let (service, client) = (call.service, call.caller.client);
    let mut watch = None;
    let began = Instant::now();
    let has_key = key.is_some();
    let acquired = service.locks.acquire(resource, request, key, &mut |departure| {
        watch = Some(client.watch(move || departure.leave()));
    });
    let took = began.elapsed();
    service.metrics.acquisition(acquired.as_ref().map(drop), took);
    if let Some(Err(error)) = &watch {
        warn!("a client waits and would not be noticed if it left: {error}");
    }
    let grant = acquired?;
    // A retry may come when its client has gone on to another one.
    let may_have_left = watch.is_some() || has_key || took >= PATIENCE;
    if may_have_left && client.has_left() {
        service.locks.abandon(resource, grant.id);
        return Err(Refusal::Departed);
    }
    Ok(grant)
}
