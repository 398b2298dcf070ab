//! What clients do to the server, good and bad. Each function is one round of one worker.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::client::{self, Wish};
use crate::record::Record;
use crate::wire::Connection;
use crate::witness::Witness;

/// The argument that makes this program a client that is there to be killed.
pub(crate) const VICTIM: &str = "victim";

const HOT_RESOURCES: usize = 3;
const SECOND: Duration = Duration::from_secs(1);

/// One worker: its place in the world.
pub(crate) struct Worker<'a> {
    pub(crate) number: usize,
    pub(crate) address: SocketAddr,
    /// Of the files of the witnesses.
    pub(crate) dir: &'a Path,
    pub(crate) record: &'a Record,
    pub(crate) rng: Rng,
    /// A connection that is kept over the rounds.
    pub(crate) kept: Option<Connection>,
    pub(crate) round: u64,
}

impl Worker<'_> {
    fn connect(&self) -> io::Result<Connection> {
        client::connect(self.address)
    }

    fn keep(&mut self) -> io::Result<Connection> {
        match self.kept.take() {
            Some(client) => Ok(client),
            None => self.connect(),
        }
    }

    fn hot_resource(&mut self) -> String {
        format!("hot{}", self.rng.usize(..HOT_RESOURCES))
    }

    fn own_resource(&self) -> String {
        format!("own{}-{}", self.number, self.round % 10)
    }

    /// A title that nobody else uses.
    fn title(&self) -> String {
        format!("client {}, round {}", self.number, self.round)
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }
}

/// Acquires, holds for a moment and releases, on a kept connection.
pub(crate) fn steady(worker: &mut Worker<'_>) -> io::Result<()> {
    let mut client = worker.keep()?;
    let hot = worker.rng.bool();
    let resource = if hot { worker.hot_resource() } else { worker.own_resource() };
    acquire_and_release(worker, &mut client, &resource)?;
    worker.kept = Some(client);
    Ok(())
}

/// The same, on a connection for each request.
pub(crate) fn churn(worker: &mut Worker<'_>) -> io::Result<()> {
    let resource = worker.hot_resource();
    let mut client = worker.connect()?;
    acquire_and_release(worker, &mut client, &resource)
}

fn acquire_and_release(
    worker: &mut Worker<'_>,
    client: &mut Connection,
    resource: &str,
) -> io::Result<()> {
    let title = worker.title();
    let wish = Wish { resource, title: &title, wait: 5 * SECOND, lifetime: 60 * SECOND };
    let answer = client.acquire(&wish)?;
    worker.record.answer("acquire", answer.status, &[201, 408]);
    if let Some(path) = answer.lock_path() {
        let witness = Witness::testify(worker.dir, resource);
        worker.record.require(witness.is_some(), || format!("two holders of {resource}"));
        thread::sleep(worker.millis(0..3));
        drop(witness);
        worker.record.answer("release", client.request("DELETE", path, "")?.status, &[204]);
    }
    Ok(())
}

/// Joins a line that nobody else uses and leaves it in some manner; the request has to go.
pub(crate) fn leave_line(worker: &mut Worker<'_>) -> io::Result<()> {
    let resource = format!("line{}", worker.number);
    let mut holder = worker.connect()?;
    let wish = Wish { resource: &resource, title: "h", wait: 5 * SECOND, lifetime: 60 * SECOND };
    let held = holder.acquire(&wish)?;
    worker.record.answer("acquire", held.status, &[201]);

    let title = worker.title();
    let mut leaver = worker.connect()?;
    let wish =
        Wish { resource: &resource, title: &title, wait: 60 * SECOND, lifetime: 60 * SECOND };
    leaver.send(wish.to_request())?;
    let is_in_line = |holder: &mut Connection| {
        let list = holder.request("GET", &format!("/resources/{resource}"), "")?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&list.body).contains(&title))
    };
    while !is_in_line(&mut holder)? {
        thread::sleep(Duration::from_millis(1));
    }
    let left = Instant::now();
    let manner = match worker.rng.u8(..3) {
        0 => {
            drop(leaver);
            "close"
        }
        1 => {
            leaver.reset()?;
            "reset"
        }
        _ => {
            half_close(leaver)?;
            "half-close"
        }
    };
    while is_in_line(&mut holder)? {
        let late = left.elapsed() > 3 * SECOND;
        worker.record.require(!late, || format!("a client that left ({manner}) is in line"));
        thread::sleep(Duration::from_millis(1));
    }
    worker.record.left(manner, left.elapsed());
    let path = held.lock_path().unwrap_or_default();
    worker.record.answer("release", holder.request("DELETE", path, "")?.status, &[204]);
    let after = holder.request("GET", &format!("/resources/{resource}"), "")?;
    let free = !String::from_utf8_lossy(&after.body).contains("\"uid\"");
    worker.record.require(free, || format!("{resource} was granted to a client that had left"));
    Ok(())
}

/// Ends the sending side, and reads until the server ends the other.
fn half_close(client: Connection) -> io::Result<()> {
    // It may have ended the connection before.
    let _ = client.half_close();
    client.rest().map(drop)
}

/// Leaves in the middle of a request, or without reading the answer.
pub(crate) fn leave_early(worker: &mut Worker<'_>) -> io::Result<()> {
    let resource = worker.own_resource();
    let wish = Wish { resource: &resource, title: "e", wait: Duration::ZERO, lifetime: SECOND };
    let request = wish.to_request();
    let mut client = worker.connect()?;
    let sent = worker.rng.usize(..=request.len());
    client.send(&request.as_bytes()[..sent])?;
    match worker.rng.u8(..3) {
        0 => drop(client),
        1 => client.reset()?,
        _ => half_close(client)?,
    }
    worker.record.left("early", Duration::ZERO);
    Ok(())
}

/// A process that waits for a lock or holds it, and is killed.
pub(crate) fn kill_process(worker: &mut Worker<'_>) -> io::Result<()> {
    let resource = worker.hot_resource();
    let mut command = Command::new(env::current_exe()?);
    command.args([VICTIM, &worker.address.to_string(), &resource]).arg(worker.dir);
    let mut process = command.stderr(Stdio::null()).spawn()?;
    thread::sleep(worker.millis(1..200));
    process.kill()?;
    let code = process.wait()?.code();
    worker.record.require(code.unwrap_or(0) == 0, || format!("a killed client: code {code:?}"));
    worker.record.left(if code.is_none() { "killed" } else { "over before" }, Duration::ZERO);
    // Its lock lives on: the others should have their turn, too.
    thread::sleep(worker.millis(200..1000));
    Ok(())
}

/// The body of that process.
pub(crate) fn be_a_victim(mut args: impl Iterator<Item = String>) -> Option<()> {
    let address = args.next()?.parse().ok()?;
    let (resource, dir) = (args.next()?, args.next()?);
    let wish =
        Wish { resource: &resource, title: "victim", wait: 5 * SECOND, lifetime: 3 * SECOND };
    let sent = Instant::now();
    let answer = client::connect(address).ok()?.acquire(&wish).ok()?;
    if answer.status == 201 && sent.elapsed() < SECOND / 4 {
        let witness = Witness::testify(Path::new(&dir), &resource);
        // Told by the exit code, if it is not killed before.
        assert!(witness.is_some(), "two holders");
        thread::sleep(SECOND / 4);
    }
    Some(())
}

/// Lets a lock expire, and sees that the next holder does not come too early.
pub(crate) fn expire(worker: &mut Worker<'_>) -> io::Result<()> {
    let resource = format!("short{}", worker.number);
    let lifetime = worker.millis(1..100);
    let mut client = worker.keep()?;
    let sent = Instant::now();
    let wish = Wish { resource: &resource, title: "s", wait: 5 * SECOND, lifetime };
    let first = client.acquire(&wish)?;
    let second = client.acquire(&wish)?;
    for answer in [&first, &second] {
        worker.record.answer("acquire and let expire", answer.status, &[201]);
    }
    worker.record.require(sent.elapsed() >= lifetime, || format!("{resource} expired early"));
    let path = first.lock_path().unwrap_or_default();
    worker.record.answer(
        "look at an expired lock",
        client.request("GET", path, "")?.status,
        &[404],
    );
    worker.kept = Some(client);
    Ok(())
}

/// Deletes a resource with a holder and a waiter; lists; looks.
pub(crate) fn administrate(worker: &mut Worker<'_>) -> io::Result<()> {
    let resource = format!("adm{}", worker.number);
    let (mut admin, mut waiter) = (worker.connect()?, worker.connect()?);
    let wish = Wish { resource: &resource, title: "a", wait: 5 * SECOND, lifetime: 60 * SECOND };
    let held = admin.acquire(&wish)?;
    worker.record.answer("acquire", held.status, &[201]);
    waiter.send(wish.to_request())?;
    worker.record.answer("list", admin.request("GET", "/resources", "")?.status, &[200]);
    let path = held.lock_path().unwrap_or_default();
    worker.record.answer("look", admin.request("GET", path, "")?.status, &[200]);
    let path = format!("/resources/{resource}");
    while admin
        .request("GET", &path, "")?
        .body
        .windows(12)
        .filter(|w| w == b"\"title\":\"a\",")
        .count()
        < 2
    {
        thread::sleep(Duration::from_millis(1));
    }
    worker.record.answer("delete a resource", admin.request("DELETE", &path, "")?.status, &[204]);
    worker.record.answer("wait and be deleted", waiter.response()?.status, &[409]);
    Ok(())
}

/// What is no request, or none that can be done.
pub(crate) fn talk_nonsense(worker: &mut Worker<'_>) -> io::Result<()> {
    let nonsense: [(&[u8], u16); 6] = [
        (b"\x16\x03\x01\x02", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"POST /locks/a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /locks/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"DELETE /locks/a/aa4e181e17374148a21b30d9dcb941f9 HTTP/1.1\r\nHost: h\r\n\r\n", 404),
    ];
    let (bytes, status) = nonsense[worker.rng.usize(..nonsense.len())];
    let mut client = worker.connect()?;
    client.send(bytes)?;
    worker.record.answer("nonsense", client.response()?.status, &[status]);
    Ok(())
}
