//! What rdlm itself is made of, and a program that takes a lock does not need: single requests, and
//! the connections below them. It may change with any version.

pub mod net;
pub mod url;

pub use crate::answer::{Answer, Failure};
pub use crate::deadline::{Deadline, Wait};
pub use crate::events::{Event, Following, Span};
pub use crate::guard::GIVE_UP;
pub use crate::lock_path::LockPath;
pub use crate::retry::LastFailure;
pub use crate::target::who;
pub use crate::transport::new_key;
