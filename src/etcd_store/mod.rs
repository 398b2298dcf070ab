//! The store on etcd, and the election of the server that writes to it.
//!
//! **Fencing.** The active server is the one that wrote the key `head` last. Each write replaces
//! exactly its predecessor by one compare-and-swap of `head`, and so does a take-over, so the write
//! path itself proves who is active. A lease kept alive beside the writes proves less: a leader can
//! keep its lease and be unable to write, or have lost it and still write. A server that has been
//! replaced is fenced: its next write fails. Everything that it acknowledged is in etcd at the
//! revision of the take-over, and its successor loads exactly that. None of this relies on a clock.
//!
//! **Writes.** Any answer but the outcome of the comparison says nothing: the same bytes are sent
//! again until the comparison shows what became of them (`chain`). A request waits up to
//! `--failover-after` for its write, and is then told that the outcome is unknown. A grant that is
//! written later is released, since no client knows of it.
//!
//! **Failover.** A standby reads the rows ahead when the active server has missed two heartbeats, at
//! the revision of the `head` that it sees. If it takes over, that `head` was the last one and the
//! rows are complete; if another `head` comes, it discards them. Silence counts only between two
//! successful polls, so an unreachable etcd is not taken for a silent server.
//!
//! **Loading.** Pages are large, because each one costs etcd a look at all keys behind it, and the
//! next page is fetched while one is parsed. Many rows are read in two halves at a time: etcd's
//! gateway encodes each answer on one processor, which takes most of the time.
//!
//! **Lost writes.** An etcd that was emptied, or restored from a snapshot, has the same cluster id.
//! So each process remembers the latest `head` that it has seen (`history`), and compares it with
//! every linearizable answer to a later request: heads of one history grow in number and revision,
//! by no more numbers than revisions. If the answer cannot be a successor, the server refuses
//! everything until it is restarted. A write compares the whole `head` that it replaces, not its
//! revision alone, because a revision comes again after a restore.
//!
//! The model in `model.rs` has servers whose clocks run at different rates and a network that
//! loses, duplicates, delays and reorders, and decides by the functions of `failover`. It checks that
//! the acknowledged writes are one history, and that only one server may answer.

mod batch;
mod bisection;
mod chain;
mod election;
mod etcd;
mod failover;
mod history;
mod loading;
mod look;
#[cfg(test)]
mod model;
mod own_url;
mod records;
mod store;

pub(crate) use election::Election;
pub(crate) use etcd::{Etcd, Failure};
