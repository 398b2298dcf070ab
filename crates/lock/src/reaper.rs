//! Expires locks at the end of their lifetime.

use std::time::Duration;

use super::deadlines::{Deadlines, Due};
use super::sync::now;

/// How soon expiries that could not be written are tried again, the first time and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(16);

/// The body of the reaper thread: calls `expire` with the resources whose deadline has come,
/// until [`Deadlines::close`].
///
/// `expire` has to move their deadlines. It returns those for which it could not: they are set
/// aside and tried again together, later each time, and not before `is_writable` says that it can
/// be of use.
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
                deadlines.take_back();
                pause = (pause * 2).min(LAST_RETRY);
                retry = None;
            } else {
                retry = Some(now() + FIRST_RETRY);
            }
        }
    }
}
