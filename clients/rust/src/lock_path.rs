//! Where a lock is.

use percent_encoding::percent_decode_str;

use super::Error;

/// The path of a lock, `/locks/{resource}/{uid}`, and the server if its URL names one.
#[derive(Debug, Clone, PartialEq)]
pub struct LockPath {
    pub(super) base: Option<String>,
    pub(super) path: String,
}

impl LockPath {
    /// The name of the resource.
    pub fn resource(&self) -> String {
        let name = self.path.split('/').nth(2).unwrap_or_default();
        percent_decode_str(name).decode_utf8_lossy().into_owned()
    }

    pub(super) fn uid(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Parses the URL of a lock, or its path.
    ///
    /// # Errors
    /// [`Error::Usage`]: neither of them.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let expected = || {
            // Messages do not show a password.
            let shown = text.rsplit('@').next().unwrap_or_default();
            Error::Usage(format!("{shown:?}: expected the URL of a lock, as acquire prints it"))
        };
        // From the right: the base may have `/locks/` in its path.
        let (at, _) = text.rmatch_indices('/').nth(2).ok_or_else(expected)?;
        let (base, path) = text.split_at(at);
        let is_url = base.starts_with("http://") || base.starts_with("https://");
        let shape: Vec<_> = path.split('/').collect();
        match shape[..] {
            ["", "locks", resource, uid] if is_uid(uid) && !resource.is_empty() => {}
            _ => return Err(expected()),
        }
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        if !(base.is_empty() || is_url) || !text.bytes().all(legal) {
            return Err(expected());
        }
        let base = if is_url { Some(base.into()) } else { None };
        Ok(Self { base, path: path.into() })
    }
}

pub(super) fn is_uid(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
