//! What the clients do.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::{connect, connect_for};
use crate::servers::Server;

const ROUND: Duration = Duration::from_secs(2);

/// Clients need little stack, and there are thousands of them.
const STACK: usize = 128 * 1024;

/// What the clients have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sharing {
    /// Nothing: each has a resource of its own.
    Nothing,
    /// One resource, that one of them has at a time.
    Exclusive,
    /// One resource, that all of them read.
    Readers,
    /// One resource, that eight of them have at a time.
    SemaphoreOf8,
}

/// Each client acquires and releases, over and over; how often per second in all.
pub(crate) fn pairs(server: &Server, clients: usize, sharing: Sharing) -> f64 {
    let fields = match sharing {
        Sharing::Nothing | Sharing::Exclusive => "",
        Sharing::Readers => r#","mode":"PR""#,
        Sharing::SemaphoreOf8 => r#","limit":8"#,
    };
    let (started, stop, count) =
        (Barrier::new(clients + 1), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..clients {
            let (started, stop, count) = (&started, &stop, &count);
            let run = move || {
                let mut client = connect_for(server, fields);
                let own = sharing == Sharing::Nothing;
                let resource = if own { format!("own{n}") } else { format!("{sharing:?}") };
                started.wait();
                while !stop.load(Ordering::Relaxed) {
                    let handle = client.acquire(&resource);
                    client.release(&resource, &handle);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run).unwrap();
        }
        started.wait();
        let began = Instant::now();
        thread::sleep(ROUND);
        let done = count.load(Ordering::Relaxed);
        let rate = done as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        rate
    })
}

/// All wait for one lock; each releases it as soon as it has it. How often per second it
/// changes hands.
pub(crate) fn hand_over(server: &Server, waiters: usize) -> f64 {
    let mut holder = connect(server);
    let handle = holder.acquire("line");
    thread::scope(|scope| {
        let wait = || {
            let mut client = connect(server);
            let handle = client.acquire("line");
            client.release("line", &handle);
        };
        let start = |_| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, wait).unwrap();
        let threads: Vec<_> = (0..waiters).map(start).collect();
        // Until all of them wait; there is no way to ask each kind of server.
        thread::sleep(Duration::from_secs(2));
        let began = Instant::now();
        holder.release("line", &handle);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        waiters as f64 / began.elapsed().as_secs_f64()
    })
}
