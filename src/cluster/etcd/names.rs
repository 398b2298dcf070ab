//! Where the members are: looked up once, and again when an attempt has failed. ureq would begin a
//! thread for each request to do that in time, also where there is a connection already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The addresses of each name that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<Authority, ResolvedSocketAddrs>>>);

impl Names {
    /// Has all of them looked up anew.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Authority, ResolvedSocketAddrs>> {
        // A name is in the map or not, at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let Some(name) = uri.authority() else { return Err(Error::HostNotFound) };
        if let Some(known) = self.known().get(name) {
            return Ok(known.clone());
        }
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        self.known().insert(name.clone(), found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::unversioned::transport::time::Duration;

    #[test]
    fn what_is_known_is_not_looked_up_until_it_is_forgotten() {
        let names = Names::default();
        let resolve = |uri: &'static str| {
            let timeout = NextTimeout { after: Duration::NotHappening, ..NextTimeout::default() };
            let found = names.resolve(&Uri::from_static(uri), &Config::default(), timeout);
            found.unwrap()[0].to_string()
        };
        assert_eq!(resolve("http://127.0.0.1:1/"), "127.0.0.1:1");
        assert_eq!(resolve("http://127.0.0.1:2/"), "127.0.0.1:2");
        // As if one had had the address of the other.
        let one = names.known()[&Authority::from_static("127.0.0.1:1")].clone();
        names.known().insert(Authority::from_static("127.0.0.1:2"), one);
        assert_eq!(resolve("http://127.0.0.1:2/"), "127.0.0.1:1");
        names.forget();
        assert_eq!(resolve("http://127.0.0.1:2/"), "127.0.0.1:2");
    }
}
