//! Connections to other hosts, for the client and for rdlm's server, which talks to etcd and to
//! other servers: one way to look up names, to connect, and to set up TLS. Not part of the stable
//! interface.

mod agent;
mod names;
mod stream;
pub mod tls;

pub use agent::agent;
pub use names::Names;
pub use stream::{Stream, connect};
