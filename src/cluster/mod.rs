//! One of several servers that share their locks: what the store on etcd
//! (`etcd_store`) and the proxy in front of the active server
//! (`proxy`) have in common.
//!
//! One server is active and has all locks in memory; the others are standbys. `Role`
//! says which of them this one is, and is the only thing that both rooms write to and read: the
//! store's election sets it, the proxy acts on it. [`Node`] puts the two together.
//!
//! Clocks decide only how old an answer may be (`term`). Each answer is worked out first, and
//! given only if less than 0.8 of `--failover-after` has passed since the latest acknowledged write
//! was *sent*. Nobody can take over before all of it has passed since that write was *seen*. Who may
//! write is decided without any clock.

mod node;
pub(crate) mod options;
pub(crate) mod role;
pub(crate) mod term;

pub use node::Node;
pub use options::{Options, Standby, Tables};
