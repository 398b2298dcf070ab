//! Whether the active server can be reached, for the log and the metrics.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{info, warn};

/// The server that the latest request could not be forwarded to, and why. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Unreachable(Arc<Mutex<Option<(String, String)>>>);

impl Unreachable {
    /// Whether the server at this URL could not be reached.
    pub(crate) fn is(&self, url: &str) -> bool {
        self.known().as_ref().is_some_and(|(known, _)| known == url)
    }

    /// One line in the log when it cannot be reached, and for each other reason.
    pub(super) fn note(&self, url: &str, error: &dyn Display) {
        let now = (url.to_string(), error.to_string());
        let mut known = self.known();
        if known.as_ref() != Some(&now) {
            *known = Some(now);
            drop(known);
            warn!("cannot pass requests on to {url}: {error}");
        }
    }

    /// It can be reached, perhaps again.
    pub(super) fn note_reached(&self, url: &str) {
        let before = self.known().take();
        if before.is_some() {
            info!("requests are passed on to {url}");
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<(String, String)>> {
        // Each change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
