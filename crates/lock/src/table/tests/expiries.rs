//! Expiries that cannot be written.

use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::*;
use crate::Mode;
use crate::journal::store::{Change, Restore, StoreError};

const PATIENCE: Duration = Duration::from_secs(60);

/// A store that refuses or not, and tells how many changes it was asked for.
struct Refusing {
    refuses: Arc<AtomicBool>,
    asked: Arc<Mutex<usize>>,
    /// Told of each commit without a change: a look whether it still refuses.
    probes: Sender<()>,
}

impl Store for Refusing {
    fn load(&mut self, _: &dyn Restore) -> Result<u64, OpenError> {
        Ok(0)
    }

    fn commit(&mut self, batch: &[Change], _: Duration) -> Result<(), StoreError> {
        if !self.refuses.load(Ordering::SeqCst) {
            return Ok(());
        }
        *self.asked.lock().unwrap() += batch.len();
        if batch.is_empty() {
            let _ = self.probes.send(());
        }
        Err(StoreError::Refused("the disk is full".into()))
    }

    fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
        Ok(())
    }
}

fn refusing() -> (LockTable, Arc<AtomicBool>, Arc<Mutex<usize>>, Receiver<()>) {
    let (refuses, asked) = (Arc::<AtomicBool>::default(), Arc::<Mutex<usize>>::default());
    let (probes, probed) = unbounded();
    let (is_refusing, is_asked) = (Arc::clone(&refuses), Arc::clone(&asked));
    let store = Box::new(Refusing { refuses: is_refusing, asked: is_asked, probes });
    let limits = Limits { locks: 10_000, waiting: 10, waiting_per_resource: 10 };
    let table = LockTable::new(limits, Duration::ZERO, Some(store), Arc::new(())).unwrap();
    (table, refuses, asked, probed)
}

#[test]
fn what_cannot_be_written_is_tried_once_and_again_when_it_can_be() {
    const COUNT: usize = 1_000;
    let (table, refuses, asked, probed) = refusing();
    for number in 0..COUNT {
        let request = LockRequest {
            title: "test".into(),
            wait: Duration::ZERO,
            lifetime: Duration::from_secs(5).into(),
            mode: Mode::EXCLUSIVE,
            other_limits: false,
            client: "nobody".into(),
        };
        let resource = format!("r{number}").parse().unwrap();
        table.acquire(&resource, request, None, &mut |_| {}).wait().unwrap();
    }
    refuses.store(true, Ordering::SeqCst);
    assert_eq!(table.totals().active, COUNT, "none has expired before");
    while *asked.lock().unwrap() < COUNT {
        thread::yield_now();
    }
    // The journal looks each second whether it can write again.
    (0..3).for_each(|_| probed.recv_timeout(PATIENCE).unwrap());
    assert_eq!(*asked.lock().unwrap(), COUNT, "each was tried once");
    refuses.store(false, Ordering::SeqCst);
    while table.totals().active > 0 {
        thread::yield_now();
    }
}
