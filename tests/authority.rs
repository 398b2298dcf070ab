//! Certificates, made by openssl; and a client that speaks TLS.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::{Client, PATIENCE, Server, TempDir};

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
        let dir = TempDir::new();
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
        Secured(secured)
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
pub(crate) struct Secured(pub(crate) StreamOwned<ClientConnection, TcpStream>);

impl Secured {
    /// Sends a request with these further lines in its head.
    pub(crate) fn send(&mut self, method: &str, path: &str, lines: &str, body: &str) {
        let len = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len}\r\n\r\n{body}"
        );
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// One byte after the other, until there is a whole answer with a Content-Length, or 204.
    pub(crate) fn response(&mut self) -> io::Result<(u16, String, String)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body)?;
        Ok((status, head, String::from_utf8(body).unwrap()))
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> io::Result<(u16, String, String)> {
        self.send(method, path, "", body);
        self.response()
    }
}

/// A connection on which nothing was sent yet.
pub(crate) fn bare(server: &Server) -> Client {
    Client::new(TcpStream::connect(("127.0.0.1", server.port())).unwrap())
}

/// Runs openssl, which has to succeed.
#[track_caller]
fn openssl(dir: &Path, args: &[&str], more: &[&str]) {
    let mut command = Command::new("openssl");
    let output = command.args(args).args(more).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.expect("openssl is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
