//! Whether there are two holders, told without the server: who holds a lock also locks a file,
//! which the kernel gives to one process at a time, and takes back if that is killed.

use std::fs::{File, TryLockError};
use std::path::Path;

/// The file of a resource, locked as long as this lives.
pub(crate) struct Witness(File);

impl Witness {
    /// To be called after the answer that grants the lock, and dropped before the lock is
    /// released or expires. `None`: somebody else holds it at this moment.
    pub(crate) fn testify(dir: &Path, resource: &str) -> Option<Self> {
        let file = File::create(dir.join(resource)).expect("the directory is there");
        match file.try_lock() {
            Ok(()) => Some(Self(file)),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => panic!("cannot lock a file: {error}"),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Closing it is not enough: a process that is being started has it open, too, for a
        // moment.
        self.0.unlock().expect("it is locked");
    }
}
