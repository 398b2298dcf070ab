//! The lock core: who holds a resource, who waits for it, who is next.
//!
//! [`LockManager`] is its interface, [`LockTable`] the implementation. It knows no HTTP, JSON,
//! command line or sockets.

pub mod clock;
mod events;
mod grant;
mod journal;
mod lifetime;
mod manager;
mod mode;
mod names;
mod nanos;
mod numbers;
mod parallel;
mod pending;
mod refusal;
mod resource;
mod sharded;
mod stored;
mod sync;
mod table;

pub use events::{Canceller, Event, EventDetails, Events, KEPT, Kind, Received, Subscriber};
pub use grant::{Actor, Conversion, Grant, Lock, Requester, Terms, Waiting};
pub use journal::FileStore;
#[cfg(any(test, feature = "contract"))]
pub use journal::contract::store_contract;
pub use journal::store::{
    Change, Conflict, HeldLock, KeptPlace, Latency, OpenError, PlaceNote, PlaceStore, Properties,
    Remote, Restore, RestoredLock, Store, StoreError,
};
pub use lifetime::Lifetime;
pub use manager::{Ages, Cursor, Departure, End, LockManager, Observer, Page, Totals};
pub use mode::{Limit, Mode};
pub use names::{
    IdempotencyKey, InvalidIdempotencyKey, InvalidLockId, InvalidResourceName, LockId, ResourceName,
};
pub use pending::{Pending, Then};
pub use refusal::{NotWritten, Reason, Refusal};
pub use stored::StoredLock;
pub use table::{Limits, LockTable};
