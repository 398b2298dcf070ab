//! What is locked: lists of any length, which are written while they are read, a page at a time.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use humantime::format_rfc3339_micros;

use super::call::{Call, HandlerResult};
use super::hal;
use super::selection::{LOCKS, Listing, Selection, current};
use crate::current_locks::CurrentLocks;
use crate::lock::{Lock, Page, ResourceName, Totals};

/// `GET /status`: all locks of all resources, in plain JSON, and the time on the server's clock.
pub(super) fn show_status(call: &Call<'_>) -> HandlerResult {
    let (listing, locks) = (Listing::of(call)?, Arc::clone(&call.context.locks));
    let turn = listing.turn(call)?;
    let permissions = call.caller.permissions.clone();
    let prefix = call.context.prefix.clone();
    Ok(call.context.gzip.stream(call.request, "application/json", move |out| {
        out.write_all(b"{\"resources\":[")?;
        let mut selection = Selection::new(&*locks, &listing, &permissions, turn);
        let mut separator = Separator::default();
        while let Some(resource) = selection.next(out)? {
            let first = current(&*locks)?.locks(&resource, None, LOCKS);
            // What has been released since the names were listed has no place in it.
            if first.locks.is_empty() {
                continue;
            }
            separator.write(out)?;
            write!(out, "{{\"name\":\"{resource}\",\"locks\":[")?;
            let shows_uids = permissions.shows_uids(&resource);
            let list = hal::LockList { prefix: &prefix, resource: &resource, shows_uids };
            write_locks(out, &list, &*locks, first)?;
            out.write_all(b"]}")?;
            selection.count(resource);
        }
        // After the locks: none of them is newer.
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let now = format_rfc3339_micros(SystemTime::now());
        write!(out, "],\"now\":\"{now}\"")?;
        // They count what others may not see.
        if permissions.sees_all() {
            let Totals { resources, active, waiting, .. } = current(&*locks)?.totals();
            write!(
                out,
                ",\"totals\":{{\"resources\":{resources},\"active\":{active},\"waiting\":{waiting}}}"
            )?;
        }
        if let Some(next) = selection.next_page(out)? {
            write!(out, ",\"_links\":{{\"next\":{{\"href\":\"{prefix}/status?{next}\"}}}}")?;
        }
        out.write_all(b"}\n")
    }))
}

/// `GET /resources`
pub(super) fn list_resources(call: &Call<'_>) -> HandlerResult {
    let (listing, locks) = (Listing::of(call)?, Arc::clone(&call.context.locks));
    let turn = listing.turn(call)?;
    let permissions = call.caller.permissions.clone();
    let prefix = call.context.prefix.clone();
    Ok(call.context.gzip.stream(call.request, "application/hal+json", move |out| {
        out.write_all(b"{\"_embedded\":{\"resources\":[")?;
        let mut selection = Selection::new(&*locks, &listing, &permissions, turn);
        let mut separator = Separator::default();
        while let Some(resource) = selection.next(out)? {
            separator.write(out)?;
            hal::write_resource(out, &prefix, &resource)?;
            selection.count(resource);
        }
        write!(out, "]}},\"_links\":{{\"self\":{{\"href\":\"{prefix}/resources\"}}")?;
        if let Some(next) = selection.next_page(out)? {
            write!(out, ",\"next\":{{\"href\":\"{prefix}/resources?{next}\"}}")?;
        }
        out.write_all(b"}}\n")
    }))
}

/// `GET /resources/{name}`: its locks, the active ones before the waiting ones.
pub(super) fn list_locks(call: &Call<'_>, resource: &ResourceName) -> HandlerResult {
    let (resource, locks) = (resource.clone(), Arc::clone(&call.context.locks));
    let shows_uids = call.caller.permissions.shows_uids(&resource);
    let prefix = call.context.prefix.clone();
    Ok(call.context.gzip.stream(call.request, "application/hal+json", move |out| {
        write!(out, "{{\"name\":\"{resource}\"")?;
        let first = current(&*locks)?.locks(&resource, None, LOCKS);
        if !first.locks.is_empty() {
            out.write_all(b",\"_embedded\":{\"locks\":[")?;
            let list = hal::LockList { prefix: &prefix, resource: &resource, shows_uids };
            write_locks(out, &list, &*locks, first)?;
            out.write_all(b"]}")?;
        }
        write!(
            out,
            ",\"_links\":{{\"self\":{{\"href\":\"{prefix}{}\"}}}}}}",
            hal::Path::Resource(&resource)
        )?;
        out.write_all(b"\n")
    }))
}

/// Writes the locks of a resource, separated, from the first page of them.
fn write_locks(
    out: &mut dyn Write,
    list: &hal::LockList<'_>,
    locks: &dyn CurrentLocks,
    mut page: Page,
) -> io::Result<()> {
    let mut waiting = 0;
    let mut separator = Separator::default();
    loop {
        for lock in &page.locks {
            separator.write(out)?;
            waiting += usize::from(matches!(lock, Lock::Waiting(_)));
            let position = Some(waiting).filter(|number| *number > 0);
            let converting_to = page.converting.get(&lock.id()).copied();
            list.write(out, lock, position, converting_to)?;
        }
        let Some(next) = page.next else { return Ok(()) };
        page = current(locks)?.locks(list.resource, Some(next), LOCKS);
    }
}

/// The comma between the elements of a list.
#[derive(Default)]
struct Separator {
    behind_first: bool,
}

impl Separator {
    fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.behind_first {
            out.write_all(b",")?;
        }
        self.behind_first = true;
        Ok(())
    }
}
