//! Who sends a request, and what it may do: asked once, before anything is done.

use smol_str::SmolStr;

use super::access::Admin;
use super::routes::Right;
use super::{Call, Settings, forwarded};
use crate::http::departures::Client;
use crate::http::{Problem, Request};
use crate::passwords::Passwords;

/// Whoever sends a request, and has the right to it.
pub(super) struct Caller<'a> {
    /// The other end of the connection.
    pub(super) client: Client<'a>,
    /// Where it is, as far as trusted proxies say.
    pub(super) address: SmolStr,
    admin: Admin,
    /// The right that it was found to have.
    needed: Right,
}

impl<'a> Caller<'a> {
    /// Lets a request that needs a right pass, or not.
    pub(super) fn admit(
        settings: &Settings,
        passwords: &Passwords,
        needs: Right,
        request: &Request<'_>,
        client: Client<'a>,
    ) -> Result<Self, Problem> {
        let admin = match needs {
            Right::Nothing => Admin::Anybody,
            Right::See | Right::Administrate => {
                settings.access.check(passwords, request.headers.only("Authorization")?)?
            }
        };
        let address = forwarded::client(request, client.address(), &settings.trusted_proxies);
        Ok(Self { client, address, admin, needed: needs })
    }

    /// Whether it may end any lock, for which it has to know the uid. Whoever may see may do that,
    /// too.
    pub(super) fn may_administrate(&self) -> bool {
        self.needed != Right::Nothing
    }

    /// Its name, for the log.
    pub(super) fn name(&self) -> &Admin {
        &self.admin
    }
}

impl Call<'_> {
    /// Asks for the right to end any lock, where only its body tells that a request needs it.
    pub(super) fn administrator(&self) -> Result<Admin, Problem> {
        let authorization = self.request.headers.only("Authorization")?;
        self.service.settings.access.check(&self.service.passwords, authorization)
    }
}
