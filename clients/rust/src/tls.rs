//! The certificates and the key of a client, from files.

use std::fs;
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::Error;
use super::target::{PemFile, TlsFiles};
use crate::own_certificate;

pub(super) fn config(files: &TlsFiles) -> Result<TlsConfig, Error> {
    let mut config = TlsConfig::builder();
    if let Some(file) = &files.authority {
        config = config.root_certs(RootCerts::Specific(Arc::new(certificates(file)?)));
    }
    if let Some((certificate, key)) = &files.own {
        let (chain, key) = (certificates(certificate)?, private_key(key)?);
        own_certificate::check(&chain, &key).map_err(|error| certificate.is_wrong(&error))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(config.build())
}

fn certificates(file: &PemFile) -> Result<Vec<Certificate<'static>>, Error> {
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = items(file)?.into_iter().filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(file.is_wrong("there is no certificate in it"));
    }
    Ok(certificates)
}

fn private_key(file: &PemFile) -> Result<PrivateKey<'static>, Error> {
    let key = items(file)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| file.is_wrong("there is no private key in it that is not encrypted"))
}

fn items(file: &PemFile) -> Result<Vec<PemItem<'static>>, Error> {
    let pem = fs::read(&file.path).map_err(|error| file.is_wrong(&error.to_string()))?;
    Ok(parse_pem(&pem).filter_map(Result::ok).collect())
}

impl PemFile {
    fn is_wrong(&self, what: &str) -> Error {
        Error::Usage(format!("{} {}: {what}", self.named_by, self.path.display()))
    }
}
