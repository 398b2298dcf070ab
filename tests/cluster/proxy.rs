//! A proxy before etcd that loses on command.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// Passes bytes on, both ways.
pub(crate) struct Proxy {
    port: u16,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// So many answers are lost, each with its connection.
    lose_answers: AtomicUsize,
    /// Nothing passes any more, and nobody is told.
    swallow: AtomicBool,
    /// Something has been swallowed since.
    has_swallowed: AtomicBool,
    /// Answers with a status of 4xx are lost, each with its connection.
    hang_up_on_refusals: AtomicBool,
    /// Whoever passes an answer on needs this.
    answers: Mutex<()>,
}

impl Proxy {
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let faults = Arc::<Faults>::default();
        let shared = Arc::clone(&faults);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let faults = Arc::clone(&shared);
                thread::spawn(move || pass(from, to, &faults, false));
                let faults = Arc::clone(&shared);
                thread::spawn(move || pass(server, client, &faults, true));
            }
        });
        Self { port: own, faults }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next `count` answers are lost: what was asked has been done.
    pub(crate) fn lose_answers(&self, count: usize) {
        self.faults.lose_answers.store(count, Ordering::SeqCst);
    }

    /// Whether all the answers that were to be lost are.
    pub(crate) fn has_lost_all(&self) -> bool {
        self.faults.lose_answers.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn hang_up_on_refusals(&self) {
        self.faults.hang_up_on_refusals.store(true, Ordering::SeqCst);
    }

    /// No answer passes as long as the result lives.
    pub(crate) fn hold_answers(&self) -> MutexGuard<'_, ()> {
        self.faults.answers.lock().unwrap()
    }

    pub(crate) fn swallow(&self, swallow: bool) {
        self.faults.has_swallowed.store(false, Ordering::SeqCst);
        self.faults.swallow.store(swallow, Ordering::SeqCst);
    }

    /// Whether a request has been swallowed, so that whoever sent it waits for an answer.
    pub(crate) fn has_swallowed(&self) -> bool {
        self.faults.has_swallowed.load(Ordering::SeqCst)
    }
}

/// Passes on what one side sends, until it ends that.
fn pass(mut from: TcpStream, mut to: TcpStream, faults: &Faults, is_answer: bool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read @ 1..) => read,
            // The other side may go on.
            Ok(0) => return drop(to.shutdown(Shutdown::Write)),
            Err(_) => break,
        };
        if faults.swallow.load(Ordering::SeqCst) {
            faults.has_swallowed.fetch_or(!is_answer, Ordering::SeqCst);
            continue;
        }
        let lose = |left: usize| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if is_answer && faults.lose_answers.fetch_update(order, order, lose).is_ok() {
            break;
        }
        let is_refusal = is_answer && buffer.starts_with(b"HTTP/1.1 4");
        if is_refusal && faults.hang_up_on_refusals.load(Ordering::SeqCst) {
            break;
        }
        let _held = is_answer.then(|| faults.answers.lock().unwrap());
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
