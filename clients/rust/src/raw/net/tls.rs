//! The client's side of TLS: which authorities it believes, and the certificate it presents.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// A certificate, those between it and its authority, and its key.
pub type CertifiedKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A PEM file that was read.
#[derive(Debug)]
pub struct Pem {
    /// What messages call the file: the option that names it, and its path.
    pub name: String,
    /// Its contents.
    pub text: Vec<u8>,
}

/// Mozilla's authorities, which are built in.
pub fn built_in_authorities() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// What connections are made with, from certificates.
///
/// # Errors
/// The key does not fit the certificate, or is of no use.
pub fn config(
    authorities: RootCertStore,
    own: Option<CertifiedKey>,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    Ok(Arc::new(match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    }))
}

/// The same, from files. Without `authorities`, those built in.
///
/// # Errors
/// A sentence that names the file and says what is wrong with it.
pub fn config_of_files(
    authorities: Option<Pem>,
    own: Option<(Pem, Pem)>,
) -> Result<Arc<ClientConfig>, String> {
    let roots = match authorities {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            // One that cannot be used, as old bundles have, is no reason to refuse the others.
            roots.add_parsable_certificates(file.certificates()?);
            roots
        }
        None => built_in_authorities(),
    };
    let pair = match &own {
        Some((certificate, key)) => Some((certificate.certificates()?, key.private_key()?)),
        None => None,
    };
    config(roots, pair).map_err(|error| match &own {
        Some((certificate, _)) => {
            certificate.is_wrong(&format!("it cannot be used with this key: {error}"))
        }
        None => error.to_string(),
    })
}

/// Accepts exactly one certificate, whatever its names. The server still has to prove its key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    signatures: Arc<WebPkiServerVerifier>,
}

/// The same, but accepts only the certificate in this file.
///
/// # Errors
/// A sentence that names the file and says what is wrong with it.
pub fn pin(config: &Arc<ClientConfig>, file: &Pem) -> Result<Arc<ClientConfig>, String> {
    let certificate = file.certificates()?.swap_remove(0);
    let roots = Arc::new(built_in_authorities());
    let signatures =
        WebPkiServerVerifier::builder_with_provider(roots, Arc::new(default_provider()))
            .build()
            .map_err(|error| error.to_string())?;
    let mut pinned = ClientConfig::clone(config);
    pinned.dangerous().set_certificate_verifier(Arc::new(Pinned { certificate, signatures }));
    Ok(Arc::new(pinned))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *certificate == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

impl Pem {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let all = CertificateDer::pem_slice_iter(&self.text).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|error| self.is_wrong(&error.to_string()))?;
        if all.is_empty() { Err(self.is_wrong("there is no certificate in it")) } else { Ok(all) }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let none = |_| self.is_wrong("there is no private key in it that is not encrypted");
        PrivateKeyDer::from_pem_slice(&self.text).map_err(none)
    }

    fn is_wrong(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }
}

/// The host of `HOST` or `HOST:PORT`, as its certificate names it.
pub fn server_name(authority: &str) -> Option<ServerName<'static>> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    ServerName::try_from(address.unwrap_or(host)).ok().map(|name| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_certificate_is_that_of_the_url() {
        for (authority, name) in [
            ("a.example:8888", "a.example"),
            ("a.example", "a.example"),
            ("10.0.0.1:8888", "10.0.0.1"),
            ("[::1]:8888", "::1"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(server_name(authority), Some(name.try_into().unwrap()), "{authority}");
        }
        assert_eq!(server_name("a b"), None);
    }
}
