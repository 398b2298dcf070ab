//! Certificates, made by openssl; and a client that speaks TLS.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::harness::{Client, PATIENCE, Server};
use crate::needed;

/// An authority, with a directory for what it issues.
pub(crate) struct Authority {
    dir: TempDir,
}

/// A certificate, and its key beside it.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        openssl(
            dir.path(),
            &["req", "-x509", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"],
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=authority"],
        );
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a server on this host.
    pub(crate) fn server(&self, name: &str) -> Issued {
        self.issue(name, "localhost", Some("DNS:localhost,IP:127.0.0.1"), "2")
    }

    /// A certificate for a client whose common name this is.
    pub(crate) fn client(&self, user: &str) -> Issued {
        self.issue(user, user, None, "2")
    }

    /// A certificate of so many days in files with this name.
    pub(crate) fn issue(
        &self,
        file: &str,
        common_name: &str,
        names: Option<&str>,
        days: &str,
    ) -> Issued {
        let [key, request, extensions, certificate] =
            ["key", "csr", "ext", "pem"].map(|suffix| format!("{file}.{suffix}"));
        openssl(
            self.path(),
            &["req", "-nodes", "-keyout", &key, "-out", &request, "-newkey", "ec"],
            &["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={common_name}")],
        );
        let names = names.map_or(String::new(), |names| format!("subjectAltName={names}\n"));
        let text = format!("{names}basicConstraints=CA:FALSE\n");
        fs::write(self.path().join(&extensions), text).unwrap();
        openssl(
            self.path(),
            &["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key"],
            &["-CAcreateserial", "-days", days, "-extfile", &extensions, "-out", &certificate],
        );
        Issued { certificate: self.path().join(certificate), key: self.path().join(key) }
    }

    /// The options of a server with this certificate.
    pub(crate) fn options<'a>(&self, issued: &'a Issued) -> [&'a str; 4] {
        ["--tls-cert", text(&issued.certificate), "--tls-key", text(&issued.key)]
    }

    /// Connects to a server whose certificate has to be of this authority.
    pub(crate) fn connect(&self, server: &Server, own: Option<&Issued>) -> Secured {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut secured = StreamOwned::new(self.session(own), stream);
        // A refusal is seen when something is read.
        let _ = secured.conn.complete_io(&mut secured.sock);
        Client::over(secured)
    }

    /// The client's side of a session.
    pub(crate) fn session(&self, own: Option<&Issued>) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        let own_certificate = CertificateDer::from_pem_file(self.certificate()).unwrap();
        roots.add(own_certificate).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(Issued { certificate, key }) => {
                let chain = CertificateDer::pem_file_iter(certificate).unwrap();
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        };
        let name = "localhost".try_into().unwrap();
        ClientConnection::new(Arc::new(config), name).unwrap()
    }
}

/// A connection that is encrypted.
pub(crate) type Secured = Client<StreamOwned<ClientConnection, TcpStream>>;

/// Runs openssl, which has to succeed.
#[track_caller]
fn openssl(dir: &Path, args: &[&str], more: &[&str]) {
    needed::insist("openssl");
    let mut command = Command::new("openssl");
    let output = command.args(args).args(more).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
