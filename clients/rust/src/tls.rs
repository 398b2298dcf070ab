//! TLS with the files of a [`Target`](crate::Target).

use std::fs;
use std::sync::Arc;

use rustls::ClientConfig;

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
