//! Certificates that this program presents to a server.

use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, PrivateKey};

/// Whether a certificate and its key can be used. ureq panics at its first connection if not.
pub fn check(chain: &[Certificate<'_>], key: &PrivateKey<'_>) -> Result<(), String> {
    let chain = chain.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
    let key = PrivateKeyDer::try_from(key.der().to_vec())?;
    let usable = CertifiedKey::from_der(chain, key, &default_provider());
    usable.map_err(|error| format!("it cannot be used with this key: {error}"))?;
    Ok(())
}
