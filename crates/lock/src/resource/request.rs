//! What a holder has asked for, in little memory.

use std::time::Duration;

use smol_str::SmolStr;

use crate::nanos::Span;
use crate::{Mode, Requester};

/// What is kept of a request whose lock is held.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Of the lock: a conversion changes it.
    pub(crate) mode: Mode,
    wait: Span,
    /// The title, the address and the user, if it is known. Most are so short that all three fit
    /// into the string itself, and else they share one allocation.
    text: SmolStr,
    title_bytes: u16,
    address_bytes: u16,
}

impl Request {
    pub(super) fn new(mode: Mode, wait: Duration, title: &str, client: &Requester) -> Self {
        let [title, address] = [title, &client.address].map(beginning);
        let user = client.user.as_deref().unwrap_or_default();
        let text = [title.0, address.0, user].into_iter().collect();
        Self { mode, wait: wait.into(), text, title_bytes: title.1, address_bytes: address.1 }
    }

    pub(super) fn wait(&self) -> Duration {
        self.wait.into()
    }

    pub(super) fn title(&self) -> SmolStr {
        self.split().0.into()
    }

    pub(super) fn client(&self) -> Requester {
        let (_, address, user) = self.split();
        // No user is without a name.
        let user = (!user.is_empty()).then(|| user.into());
        Requester { address: address.into(), user }
    }

    fn split(&self) -> (&str, &str, &str) {
        let (title, client) = self.text.split_at(self.title_bytes.into());
        let (address, user) = client.split_at(self.address_bytes.into());
        (title, address, user)
    }
}

/// As much of a text as has room, with its length. No client can send a title of 64 KiB.
fn beginning(text: &str) -> (&str, u16) {
    let text = &text[..text.floor_char_boundary(u16::MAX.into())];
    (text, text.len() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_it_was() {
        for title in ["", "a", "nightly build of everything", "ü\0\n"] {
            for user in [None, Some("ann"), Some("someone with a name that is long")] {
                let client = Requester { address: "::1".into(), user: user.map(SmolStr::new) };
                let wait = Duration::from_millis(1);
                let request = Request::new(Mode::Null, wait, title, &client);
                assert_eq!((&*request.title(), request.client()), (title, client));
                assert_eq!((request.mode, request.wait()), (Mode::Null, wait));
            }
        }
        let (long, client) = ("länger als irgendetwas".repeat(10_000), Requester::from("::1"));
        let request = Request::new(Mode::Null, Duration::ZERO, &long, &client);
        assert!(long.starts_with(&*request.title()));
        assert_eq!(request.client(), client);
    }
}
