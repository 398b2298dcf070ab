//! Expires locks at the end of their lifetime.

use std::time::Duration;

use super::ResourceName;
use super::deadlines::{Deadlines, Retries};
use super::sync::now;

/// How soon an expiry that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The body of the reaper thread: calls `expire` with the resources whose deadline has come,
/// until [`Deadlines::close`].
///
/// `expire` has to move their deadlines; the reaper only reads the index. It returns those for
/// which it could not, with which it is called again after [`RETRY`].
pub(super) fn run(deadlines: &Deadlines, expire: impl Fn(Vec<ResourceName>) -> Vec<ResourceName>) {
    let mut retries = Retries::new();
    while let Some(due) = deadlines.wait_until_due(&retries) {
        for resource in &due {
            retries.remove(resource);
        }
        let at = now() + RETRY;
        retries.extend(expire(due).into_iter().map(|resource| (resource, at)));
    }
}
