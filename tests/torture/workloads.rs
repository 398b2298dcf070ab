//! What clients do. Each function is one round of one client; each has resources of its own.

use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::history::{Action, Mode, Outcome, Seen, Wish};
use crate::http::Manner;

const SECOND: Duration = Duration::from_secs(1);

/// A round of a client; the number tells clients with the same workload apart.
pub(crate) type Round = fn(&mut Client<'_>, u32);

/// Every mode, semaphores, keys, renewals, and holders that stall, on a few resources that all
/// such clients share.
pub(crate) fn mixed(client: &mut Client<'_>, _: u32) {
    let (resource, mode, limit) = match client.rng.u8(..4) {
        0 => ("hot-ex", Mode::Ex, 1),
        1 => ("hot-semaphore", Mode::Ex, 3),
        _ => ("hot-modes", Mode::ALL[client.rng.usize(..6)], 1),
    };
    let lifetime =
        if client.rng.u8(..3) == 0 { client.millis(10..150) } else { client.millis(400..3000) };
    let wait = if client.rng.u8(..4) == 0 { Duration::ZERO } else { client.millis(100..2500) };
    let mut wish = client.wish(mode, wait, lifetime);
    wish.limit = limit;
    if client.rng.bool() {
        wish.key = Some(format!("key-{}", wish.title));
    }
    if let Some(uid) = obtain(client, resource, &wish) {
        hold(client, resource, &wish, &uid);
    }
    client.pause(0..30);
}

/// Acquires; with a key, as often as it takes to know.
fn obtain(client: &mut Client<'_>, resource: &str, wish: &Wish) -> Option<String> {
    let outcome = if wish.key.is_some() {
        client.insist(resource, &Action::Acquire(wish.clone()))?
    } else {
        client.acquire(resource, wish)
    };
    match outcome {
        Outcome::Granted { uid, .. } => Some(uid),
        _ => None,
    }
}

fn hold(client: &mut Client<'_>, resource: &str, wish: &Wish, uid: &str) {
    let uid = || uid.to_string();
    client.pause(0..20);
    match client.rng.u8(..10) {
        0 => {
            client.call(resource, Action::Renew { uid: uid(), lifetime: SECOND / 2 });
            client.pause(0..100);
        }
        1 if wish.key.is_some() => {
            client.reconnect();
            client.acquire(resource, wish);
        }
        2 => {
            client.call(resource, Action::Get { uid: uid() });
        }
        // It stalls beyond its lifetime.
        3 => {
            thread::sleep(wish.lifetime.min(SECOND));
            client.call(resource, Action::Get { uid: uid() });
            client.call(resource, Action::Renew { uid: uid(), lifetime: SECOND / 2 });
        }
        // It never comes back.
        4 if wish.lifetime < SECOND => return,
        _ => {}
    }
    client.insist(resource, &Action::Release { uid: uid() });
    if client.rng.u8(..8) == 0 {
        client.call(resource, Action::Get { uid: uid() });
    }
}

/// A line that is joined one after the other; then the holder releases its lock, or lets it
/// expire, and nothing else happens.
pub(crate) fn line(client: &mut Client<'_>, number: u32) {
    let resource = &format!("line-{number}");
    let expires = client.rng.u8(..3) == 0;
    let lifetime = if expires { client.millis(150..400) } else { 30 * SECOND };
    let wish = client.wish(Mode::Ex, 5 * SECOND, lifetime);
    let Some(uid) = obtain(client, resource, &wish) else { return };
    let one_mode = client.rng.bool();
    let mut waiters: Vec<_> = (0..4).map(|n| client.fork(client.number() * 10 + n)).collect();
    thread::scope(|scope| {
        for waiter in &mut waiters {
            let mode = if one_mode { Mode::Ex } else { Mode::ALL[client.rng.usize(2..6)] };
            let wish = waiter.wish(mode, 4 * SECOND, 4 * SECOND);
            let title = format!("{}-{}", wish.title, client.rng.u32(..));
            let wish = Wish { title, ..wish };
            let seen = wish.title.clone();
            scope.spawn(move || wait_in_line(waiter, resource, &wish));
            if !is_seen(client, resource, &seen) {
                break;
            }
        }
        if !expires {
            client.insist(resource, &Action::Release { uid });
        }
    });
}

fn wait_in_line(waiter: &mut Client<'_>, resource: &str, wish: &Wish) {
    if let Some(uid) = obtain(waiter, resource, wish) {
        waiter.pause(0..5);
        waiter.insist(resource, &Action::Release { uid });
    }
}

/// Looks until a list shows this request in line or as a holder.
fn is_seen(client: &mut Client<'_>, resource: &str, title: &str) -> bool {
    is_listed(client, resource, |seen| seen.title == title)
}

fn is_listed(client: &mut Client<'_>, resource: &str, is_it: impl Fn(&Seen) -> bool) -> bool {
    for _ in 0..100 {
        if let Outcome::Shown(locks) = client.call(resource, Action::List)
            && locks.iter().any(&is_it)
        {
            return true;
        }
        client.pause(1..4);
    }
    false
}

/// A client leaves the line while somebody holds the lock.
pub(crate) fn departure(client: &mut Client<'_>, number: u32) {
    let resource = &format!("left-{number}");
    let wish = client.wish(Mode::Ex, 5 * SECOND, 30 * SECOND);
    let Some(uid) = obtain(client, resource, &wish) else { return };
    let wish = client.wish(Mode::Ex, 20 * SECOND, 10 * SECOND);
    let Some(joined) = client.join(resource, &wish) else { return };
    let seen = is_seen(client, resource, &wish.title);
    let manners = [Manner::Close, Manner::Reset, Manner::HalfClose];
    let manner = manners[client.rng.usize(..3)];
    let rest = client.leave(resource, &wish, joined, manner);
    // At once, so that the server may not have noticed, or later.
    if client.rng.bool() {
        client.pause(0..20);
    }
    if seen {
        if client.rng.u8(..4) == 0 {
            client.pause(1050..1150);
            client.call(resource, Action::List);
        }
        client.insist(resource, &Action::Release { uid });
        client.call(resource, Action::List);
        client.pause(1100..1400);
        client.call(resource, Action::List);
    }
    drop(rest);
    client.insist(resource, &Action::Delete);
}

/// A key is sent again while its request waits, and while its lock is held.
pub(crate) fn keys(client: &mut Client<'_>, number: u32) {
    let resource = &format!("keys-{number}");
    let limit = client.rng.usize(1..3);
    let mut wish = client.wish(Mode::Ex, 3 * SECOND, 5 * SECOND);
    wish.limit = limit;
    let Some(holder) = obtain(client, resource, &wish) else { return };
    let mut wish = client.wish(Mode::Ex, 3 * SECOND, 5 * SECOND);
    wish.limit = limit;
    wish.key = Some(format!("key-{}", wish.title));
    let mut first = client.fork(client.number() * 10);
    let uid = thread::scope(|scope| {
        scope.spawn(|| first.acquire(resource, &wish));
        is_seen(client, resource, &wish.title);
        let mut second = client.fork(client.number() * 10 + 1);
        let (wish, resource) = (&wish, resource.as_str());
        let second = scope.spawn(move || obtain(&mut second, resource, wish));
        client.pause(5..15);
        client.call(resource, Action::List);
        client.insist(resource, &Action::Release { uid: holder });
        second.join().unwrap()
    });
    client.reconnect();
    client.acquire(resource, &wish);
    client.call(resource, Action::List);
    if let Some(uid) = uid {
        client.insist(resource, &Action::Release { uid });
    }
    client.insist(resource, &Action::Delete);
}

/// A client with a key leaves the line and comes back to its place, before one who came
/// meanwhile.
pub(crate) fn comeback(client: &mut Client<'_>, number: u32) {
    let resource = &format!("back-{number}");
    let wish = client.wish(Mode::Ex, 5 * SECOND, 30 * SECOND);
    let Some(uid) = obtain(client, resource, &wish) else { return };
    let mut wish = client.wish(Mode::Ex, 3 * SECOND, 5 * SECOND);
    wish.key = Some(format!("key-{}", wish.title));
    let Some(joined) = client.join(resource, &wish) else { return };
    is_seen(client, resource, &wish.title);
    let manner = [Manner::Close, Manner::Reset][client.rng.usize(..2)];
    client.leave(resource, &wish, joined, manner);
    let mut later = client.fork(client.number() * 10);
    let mut again = client.fork(client.number() * 10 + 1);
    let later_wish = Wish { title: format!("{}-later", wish.title), key: None, ..wish.clone() };
    wish.wait = 4 * SECOND;
    thread::scope(|scope| {
        scope.spawn(|| wait_in_line(&mut later, resource, &later_wish));
        is_seen(client, resource, &later_wish.title);
        client.pause(0..200);
        scope.spawn(|| wait_in_line(&mut again, resource, &wish));
        is_listed(client, resource, |seen| seen.title == wish.title && seen.wait == wish.wait);
        client.insist(resource, &Action::Release { uid });
    });
    client.insist(resource, &Action::Delete);
}

/// A lock expires while another client waits for it.
pub(crate) fn expiry(client: &mut Client<'_>, number: u32) {
    let resource = &format!("short-{number}");
    let lifetime = client.millis(3..120);
    let wish = client.wish(Mode::Ex, 2 * SECOND, lifetime);
    let first = obtain(client, resource, &wish);
    let lifetime = client.millis(60..150);
    let wish = client.wish(Mode::Ex, 2 * SECOND, lifetime);
    if let (Some(first), Some(second)) = (first, obtain(client, resource, &wish)) {
        client.call(resource, Action::Get { uid: first });
        client.call(resource, Action::Get { uid: second.clone() });
        if client.rng.bool() {
            let lifetime = client.millis(100..300);
            client.call(resource, Action::Renew { uid: second.clone(), lifetime });
        }
        client.pause(1..400);
        client.call(resource, Action::Get { uid: second });
    }
}

/// Locks that live long are looked at again and again, released, and looked at again.
pub(crate) fn keeper(client: &mut Client<'_>, number: u32) {
    let n = client.rng.u32(..6);
    let resource = &format!("kept-{number}-{n}");
    let wish = client.wish(Mode::Ex, SECOND / 2, 60 * SECOND);
    let Some(uid) = obtain(client, resource, &wish) else {
        // A request without an answer may hold it: nobody else would for a minute.
        client.insist(resource, &Action::Delete);
        return;
    };
    for _ in 0..client.rng.u32(1..6) {
        client.pause(5..150);
        client.call(resource, Action::Get { uid: uid.clone() });
        client.call(resource, Action::List);
    }
    if client.rng.bool() {
        client.call(resource, Action::Renew { uid: uid.clone(), lifetime: 60 * SECOND });
    }
    client.insist(resource, &Action::Release { uid: uid.clone() });
    for _ in 0..client.rng.u32(1..4) {
        client.call(resource, Action::Get { uid: uid.clone() });
        client.pause(5..150);
    }
}

/// Deletes everybody on a resource, while others wait for it and hold it.
pub(crate) fn deletion(client: &mut Client<'_>, number: u32) {
    let resource = "deleted";
    if number == 0 {
        client.pause(50..300);
        client.call(resource, Action::Delete);
        client.call(resource, Action::List);
        return;
    }
    let wish = client.wish(Mode::Ex, SECOND, 2 * SECOND);
    if let Some(uid) = obtain(client, resource, &wish) {
        client.pause(0..200);
        client.call(resource, Action::Get { uid: uid.clone() });
        client.insist(resource, &Action::Release { uid });
    }
}

/// Looks at what all share.
pub(crate) fn observer(client: &mut Client<'_>, _: u32) {
    for resource in ["hot-ex", "hot-semaphore", "hot-modes"] {
        client.call(resource, Action::List);
        client.pause(3..10);
    }
}
