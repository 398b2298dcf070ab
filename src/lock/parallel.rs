//! Work that all processors share.

use std::num::NonZero;
use std::panic;
use std::thread;

use super::sync::{Mutex, locked};

/// More threads would wait for each other, and each has a share of the memory for itself.
const MAX_THREADS: usize = 8;

/// Has a worker on each processor take these, one after the other, until there are none or one of
/// them has failed.
///
/// # Errors
/// Of one that has failed.
pub(super) fn share<T, E, W>(
    items: impl Iterator<Item = T> + Send,
    worker: impl Fn() -> W + Sync,
) -> Result<(), E>
where
    E: Send,
    W: FnMut(T) -> Result<(), E>,
{
    let items = Mutex::new(items.fuse());
    let run = || {
        let mut work = worker();
        let next = || locked(&items).next();
        while let Some(item) = next() {
            work(item).inspect_err(|_| while next().is_some() {})?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // Those that cannot be started leave their share to the others.
        let start = |_| thread::Builder::new().name("start".into()).spawn_scoped(scope, run).ok();
        let others: Vec<_> = (1..processors()).filter_map(start).collect();
        let own = run();
        let join = |other: thread::ScopedJoinHandle<'_, _>| {
            other.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        others.into_iter().map(join).fold(own, Result::and)
    })
}

fn processors() -> usize {
    if cfg!(shuttle) {
        return 1;
    }
    thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS)
}
