//! TLS with the files of a [`Target`](crate::Target), and what to do if there is no session.

use std::fs;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage};

use super::Error;
use super::target::{PemFile, TlsFiles};
use crate::raw::net::tls::{Pem, config_of_files, pin};

pub(super) fn config(files: &TlsFiles) -> Result<Arc<ClientConfig>, Error> {
    let authority = files.authority.as_ref().map(PemFile::read).transpose()?;
    let own = match &files.own {
        Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
        None => None,
    };
    let config = config_of_files(authority, own).map_err(Error::Usage)?;
    match &files.pinned {
        Some(certificate) => pin(&config, &certificate.read()?).map_err(Error::Usage),
        None => Ok(config),
    }
}

impl PemFile {
    fn read(&self) -> Result<Pem, Error> {
        let name = format!("{} {}", self.named_by, self.path.display());
        match fs::read(&self.path) {
            Ok(text) => Ok(Pem { name, text }),
            Err(error) => Err(Error::Usage(format!("{name}: {error}"))),
        }
    }
}

/// That a server expects TLS, on a connection without.
pub(super) fn is_expected(url: &str) -> String {
    let host = url.trim_start_matches("http://");
    format!("{url} speaks TLS: use https://{host}")
}

/// What is wrong between this client and the server at a URL.
pub(super) fn complaint(url: &str, error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    let of_client = "--cert and --key, or RDLM_CERT and RDLM_KEY";
    let wrong = match error {
        Tls::AlertReceived(_) if url.starts_with("http://") => return is_expected(url),
        Tls::InvalidMessage(InvalidMessage::InvalidContentType) => {
            let host = url.trim_start_matches("https://");
            return format!("{url} does not speak TLS: use http://{host}");
        }
        // The other: an authority of the same name is trusted.
        Tls::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate is by an authority that is not trusted here: --ca FILE or RDLM_CA \
             names another"
            .into(),
        Tls::InvalidCertificate(error) => format!("its certificate is not accepted: {error}"),
        Tls::AlertReceived(AlertDescription::CertificateRequired) => {
            format!("it asks for a certificate: {of_client}")
        }
        Tls::AlertReceived(alert) => {
            format!(
                "it refuses the connection ({alert:?}), perhaps for the certificate of {of_client}"
            )
        }
        error => format!("there is no connection by TLS: {error}"),
    };
    format!("{url}: {wrong}")
}
