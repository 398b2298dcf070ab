//! The terms of a lock that is held, in little memory.

use std::time::Duration;

use smol_str::SmolStr;

use crate::nanos::Span;
use crate::{Lifetime, Mode, Requester, Terms};

/// [`Terms`] but for the lifetime, which is beside the moment at which it ends, and for
/// `other_limits`, which matters only until the lock is granted.
#[derive(Debug, Clone)]
pub(crate) struct PackedTerms {
    /// Of the lock: a conversion changes it.
    pub(crate) mode: Mode,
    wait: Span,
    /// The title, the address and the user, if it is known. Most are so short that all three fit
    /// into the string itself; the others share one allocation.
    text: SmolStr,
    title_bytes: u16,
    address_bytes: u16,
}

impl PackedTerms {
    pub(super) fn new(terms: &Terms) -> Self {
        let Terms { title, client, mode, wait, lifetime: _, other_limits: _ } = terms;
        let [title, address] = [title, &client.address].map(|text| beginning(text));
        let user = client.user.as_deref().unwrap_or_default();
        Self {
            mode: *mode,
            wait: (*wait).into(),
            text: [title.0, address.0, user].into_iter().collect(),
            title_bytes: title.1,
            address_bytes: address.1,
        }
    }

    pub(super) fn unpack(&self, lifetime: Lifetime) -> Terms {
        Terms {
            title: self.text[..self.title_bytes.into()].into(),
            client: self.client(),
            mode: self.mode,
            wait: self.wait(),
            lifetime,
            other_limits: false,
        }
    }

    /// The client that holds the lock.
    pub(super) fn client(&self) -> Requester {
        let (_, client) = self.text.split_at(self.title_bytes.into());
        let (address, user) = client.split_at(self.address_bytes.into());
        // A user always has a name.
        let user = (!user.is_empty()).then(|| user.into());
        Requester { address: address.into(), user }
    }

    fn wait(&self) -> Duration {
        self.wait.into()
    }
}

/// As much of a text as fits, with its length. No client can send a title of 64 KiB.
fn beginning(text: &str) -> (&str, u16) {
    let text = &text[..text.floor_char_boundary(u16::MAX.into())];
    (text, text.len() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(title: &str, user: Option<&str>) -> Terms {
        Terms {
            title: title.into(),
            client: Requester { address: "::1".into(), user: user.map(SmolStr::new) },
            mode: Mode::Null,
            wait: Duration::from_millis(1),
            lifetime: Duration::from_secs(60).into(),
            other_limits: false,
        }
    }

    #[test]
    fn terms_survive_packing() {
        for title in ["", "a", "nightly build of everything", "ü\0\n"] {
            for user in [None, Some("ann"), Some("someone with a name that is long")] {
                let terms = terms(title, user);
                assert_eq!(PackedTerms::new(&terms).unpack(terms.lifetime), terms);
            }
        }
        let long = "länger als irgendetwas".repeat(10_000);
        let terms = terms(&long, None);
        let unpacked = PackedTerms::new(&terms).unpack(terms.lifetime);
        assert!(long.starts_with(&*unpacked.title));
        assert_eq!(unpacked.client, terms.client);
    }
}
