//! The identity of a client whose request another server forwards.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::context::Context;
use super::forwarded;
use super::identity::{Permissions, identify};
use super::rights::{Requirement, Rights};
use crate::http::departures::Client;
use crate::http::{Problem, Request};
use crate::lock::Requester;

/// The identity of a client, vouched for by the server that it is connected to.
#[derive(Clone)]
pub struct ForwardedClient {
    pub(super) requester: Requester,
    /// `None`: that server has no file of users, and has not authenticated the client.
    pub(super) rights: Option<Arc<Rights>>,
    /// Whether its connection is encrypted.
    pub(super) is_encrypted: bool,
    /// Whether that server has a thread and a connection for its wait.
    pub(super) may_wait: bool,
    /// On that server: the rules that gave the rights.
    permissions: Option<Permissions>,
}

/// Its form in the header.
#[derive(Serialize, Deserialize)]
struct Letter {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rights: Option<Vec<String>>,
    #[serde(default)]
    tls: bool,
    /// Version 1.0.0 neither writes nor reads it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    must_not_wait: bool,
}

impl ForwardedClient {
    /// Authenticates the client of a request.
    pub(super) fn of(
        context: &Context,
        requires: Requirement,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<Self, Problem> {
        let proxies = &context.settings.trusted_proxies;
        let address = forwarded::client(request, client.address(), proxies);
        let (is_encrypted, may_wait) = (client.is_encrypted(), client.may_wait());
        if context.users.is_none() {
            let requester = Requester { address, user: client.certified_user().cloned() };
            return Ok(Self { requester, rights: None, is_encrypted, may_wait, permissions: None });
        }
        let (user, permissions) = identify(context, requires, request, client.certified_user())?;
        Ok(Self {
            requester: Requester { address, user },
            rights: Some(Arc::clone(&permissions.rights)),
            is_encrypted,
            may_wait,
            permissions: Some(permissions),
        })
    }

    /// The same client, for a request that gets no place in line.
    pub fn not_waiting(&self) -> Self {
        Self { may_wait: false, ..self.clone() }
    }

    /// Whether the rules have not changed since.
    pub fn is_current(&self) -> bool {
        self.permissions.as_ref().is_none_or(Permissions::is_current)
    }

    /// Whether the client has been authenticated, so that its credentials need not be forwarded.
    pub fn is_complete(&self) -> bool {
        self.rights.is_some()
    }

    /// As the value of a header field.
    pub fn to_field(&self) -> String {
        let Requester { address, user } = &self.requester;
        let letter = Letter {
            address: address.to_string(),
            user: user.as_ref().map(ToString::to_string),
            rights: self.rights.as_ref().map(|rights| rights.rules().collect()),
            tls: self.is_encrypted,
            must_not_wait: !self.may_wait,
        };
        // Serializing strings cannot fail.
        BASE64_STANDARD.encode(serde_json::to_vec(&letter).unwrap_or_default())
    }

    /// `None` if the value is malformed.
    pub fn from_field(field: &str) -> Option<Self> {
        let letter = BASE64_STANDARD.decode(field).ok()?;
        let Letter { address, user, rights, tls, must_not_wait } =
            serde_json::from_slice(&letter).ok()?;
        let rights = match rights {
            Some(rules) => Some(Arc::new(Rights::from_rules(&rules)?)),
            None => None,
        };
        let requester = Requester { address: address.into(), user: user.map(SmolStr::from) };
        let may_wait = !must_not_wait;
        Some(Self { requester, rights, is_encrypted: tls, may_wait, permissions: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded_client(user: Option<&str>, rights: Option<&[&str]>) -> ForwardedClient {
        let rules = |rules: &[&str]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rights = rights.map(|rights| Arc::new(Rights::from_rules(&rules(rights)).unwrap()));
        let requester = Requester { address: "::1".into(), user: user.map(SmolStr::from) };
        let (is_encrypted, may_wait) = (true, false);
        ForwardedClient { requester, rights, is_encrypted, may_wait, permissions: None }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for made in [
            forwarded_client(None, None),
            forwarded_client(
                Some("e\u{1b}[2Jve\n\"é\u{7f}"),
                Some(&["lock a", "see b-*", "admin *"]),
            ),
            forwarded_client(None, Some(&[])),
        ] {
            let field = made.to_field();
            assert!(field.bytes().all(|byte| byte.is_ascii_graphic()), "{field}");
            let read = ForwardedClient::from_field(&field).unwrap();
            assert_eq!(format!("{:?}", read.requester), format!("{:?}", made.requester));
            assert_eq!((read.rights, read.is_encrypted), (made.rights, true));
            assert!(!read.may_wait);
        }
    }

    #[test]
    fn what_is_none_is_not_read() {
        let letter = r#"{"address":"::1","rights":["everything *"]}"#;
        for field in ["", "::1", "e30=", &BASE64_STANDARD.encode(letter)] {
            assert!(ForwardedClient::from_field(field).is_none(), "{field}");
        }
    }
}
