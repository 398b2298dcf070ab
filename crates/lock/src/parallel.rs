//! Work that is shared among all processors.

use std::num::NonZero;
use std::panic;
use std::thread;

use super::sync::{Mutex, locked};

/// More threads would only contend, and each takes memory.
const MAX_THREADS: usize = 8;

/// Runs a worker on each processor. Each takes one item after the other, until there are none or
/// one has failed.
///
/// # Errors
/// That of an item that has failed.
pub(super) fn share<T, E, W>(
    items: impl Iterator<Item = T> + Send,
    worker: impl Fn() -> W + Sync,
) -> Result<(), E>
where
    E: Send,
    W: FnMut(T) -> Result<(), E>,
{
    let items = Mutex::new(Some(items.fuse()));
    let run = || {
        let mut work = worker();
        let next = || locked(&items).as_mut().and_then(Iterator::next);
        while let Some(item) = next() {
            work(item).inspect_err(|_| *locked(&items) = None)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // If a thread cannot be started, the others do its share.
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

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_item_is_taken_once() {
        let sum = AtomicUsize::new(0);
        let add = || {
            |item| {
                sum.fetch_add(item, Ordering::SeqCst);
                Ok::<(), ()>(())
            }
        };
        assert_eq!(share(1..=1_000, add), Ok(()));
        assert_eq!(sum.into_inner(), 500_500);
    }

    #[test]
    fn none_is_begun_after_a_failure() {
        let begun = AtomicUsize::new(0);
        let fail = || |_| Err::<(), _>(begun.fetch_add(1, Ordering::SeqCst));
        assert!(share(0..usize::MAX, fail).is_err());
        assert!(begun.into_inner() <= MAX_THREADS);
    }

    #[test]
    fn a_panic_is_passed_on() {
        let shared =
            || share(0..100, || |item| if item == 50 { panic!("it") } else { Ok::<(), ()>(()) });
        assert!(panic::catch_unwind(shared).is_err());
    }
}
