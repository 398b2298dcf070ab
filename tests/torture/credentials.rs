//! How etcd knows the servers: the password in a file, which is theirs from when authentication is
//! switched on in etcd.

use std::fs;

use fastrand::Rng;
use tempfile::NamedTempFile;

use crate::etcd::Etcd;

pub(crate) struct Credentials {
    file: NamedTempFile,
    password: String,
    /// Authentication is switched on.
    pub(crate) are_on: bool,
}

impl Credentials {
    pub(crate) fn new() -> Self {
        let (file, password) = (NamedTempFile::new().unwrap(), String::from("first"));
        let credentials = Self { file, password, are_on: false };
        credentials.write();
        credentials
    }

    /// Of the servers.
    pub(crate) fn options(&self) -> [String; 4] {
        let file = self.file.path().display().to_string();
        ["--etcd-user".into(), "locks".into(), "--etcd-password-file".into(), file]
    }

    /// In etcd first, then in the file, as docs/high-availability.md says.
    pub(crate) fn change(&mut self, etcd: &Etcd, rng: &mut Rng) {
        if !self.are_on {
            etcd.secure(&self.password);
            self.are_on = true;
            return;
        }
        self.password = format!("p{}", rng.u64(..));
        etcd.set_password(&self.password);
        self.write();
    }

    fn write(&self) {
        fs::write(self.file.path(), format!("{}\n", self.password)).unwrap();
    }
}
