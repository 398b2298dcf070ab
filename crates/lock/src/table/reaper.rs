//! The loop that expires locks at the end of their lifetime.

use std::time::Duration;

use super::deadlines::{Deadlines, Due};
use crate::sync::now;

/// After how long expiries that could not be written are tried again.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(16);

/// The body of the reaper's thread: calls `expire` with the resources that are due, until
/// [`Deadlines::close`].
///
/// `expire` has to move their deadlines. It returns those whose expiry could not be written. They
/// are set aside and tried again together, after longer pauses each time, once `is_writable`.
pub(super) fn run(
    deadlines: &Deadlines,
    expire: impl Fn(&[Due]) -> Vec<Due>,
    is_writable: impl Fn() -> bool,
) {
    let (mut retry, mut pause) = (None, FIRST_RETRY);
    while let Some(due) = deadlines.wait_until_due(retry) {
        let refused = expire(&due);
        if !refused.is_empty() {
            retry = retry.or_else(|| Some(now() + pause));
            refused.into_iter().for_each(|due| deadlines.set_aside(due));
        } else if retry.is_none() {
            pause = FIRST_RETRY;
        }
        if retry.is_some_and(|retry| retry <= now()) {
            if is_writable() {
                deadlines.retry_set_aside();
                pause = (pause * 2).min(LAST_RETRY);
                retry = None;
            } else {
                retry = Some(now() + FIRST_RETRY);
            }
        }
    }
}
