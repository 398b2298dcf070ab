//! The HTTP edge: bytes of a client into requests, responses into bytes, one thread a connection.
//!
//! It knows nothing of locks. Any service that answers on the connection's thread can use it.
//! ARCHITECTURE.md says why there is no library.

pub mod accept;
mod body_writer;
pub mod certificates;
pub mod chunked;
pub mod connection;
pub mod departures;
mod detached;
pub mod head;
mod headers;
mod input;
pub mod lingering;
pub mod listener;
mod problem;
pub mod query;
pub mod reloaded;
pub mod request;
mod response;
mod socket;
mod target;
mod tls;
pub mod transport;

pub use body_writer::BodyWriter;
pub use problem::Problem;
pub use request::{Request, Singleton, Unreadable};
pub use response::{Body, Response, Status};
pub use target::Target;
