//! Which resources a list shows, found a few names at a time.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::at_most::Turn;
use super::call::Call;
use super::identity::Permissions;
use super::sorted::{self, Rank, Sort, Top};
use crate::current_locks::CurrentLocks;
use crate::http::query::Query;
use crate::http::{Problem, Status};
use crate::lock::{Lock, LockManager, Requester, ResourceName};

/// How many names are taken from the lock core at a time. A search doubles this up to the maximum:
/// many at a time cost less each.
const NAMES: usize = 256;
const MAX_NAMES: usize = 4096;

/// How many locks of one resource are taken at a time.
pub(super) const LOCKS: usize = 128;

/// How long a search sends nothing.
const SILENCE: Duration = Duration::from_millis(200);

/// The longest text to search for, in characters: no name or title is longer.
const MAX_SEARCH: usize = 1024;

/// The longest page, in resources.
const MAX_LIMIT: usize = 1000;

/// Which resources are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// How many at most; `None`: all.
    limit: Option<usize>,
    order: Order,
    search: Option<Search>,
    /// Only those with waiting requests.
    waiting: bool,
}

/// In which order, and where the page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    Name { after: Option<ResourceName> },
    By { sort: Sort, after: Option<Rank> },
}

impl Order {
    fn parse(query: &Query<'_>) -> Result<Self, Problem> {
        let sort = query.parsed("sort", |name| match name {
            "name" => Ok(None),
            name => Sort::of(name).map(Some).ok_or_else(|| Sort::NAMES.into()),
        })?;
        Ok(match sort.flatten() {
            None => Self::Name {
                after: query.parsed("after", |name| {
                    name.parse().map_err(|_| "the name of a resource".to_string())
                })?,
            },
            Some(sort) => Self::By {
                sort,
                after: query.parsed("after", |rank| {
                    rank.parse().map_err(|()| "what _links.next has".to_string())
                })?,
            },
        })
    }
}

impl Listing {
    pub(super) fn of(call: &Call<'_>) -> Result<Self, Problem> {
        Self::parse(&call.request.target.query())
    }

    fn parse(query: &Query<'_>) -> Result<Self, Problem> {
        let limit = query.parsed("limit", |text| {
            let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            limit.ok_or_else(|| format!("a whole number from 1 to {MAX_LIMIT}"))
        })?;
        let order = Order::parse(query)?;
        if let (Order::By { sort, .. }, None) = (&order, limit) {
            let detail = format!("sort={} needs limit, 1 to {MAX_LIMIT}", sort.name());
            return Err(Problem::bad_request(detail));
        }
        let state = query.parsed("state", |state| match state {
            "waiting" => Ok(()),
            _ => Err("waiting".into()),
        })?;
        let search = query.parsed("search", |text| {
            let fits = text.chars().count() <= MAX_SEARCH;
            fits.then(|| Search::new(text))
                .ok_or_else(|| format!("at most {MAX_SEARCH} characters"))
        })?;
        let search = search.filter(|Search(text)| !text.is_empty());
        Ok(Self { limit, order, search, waiting: state.is_some() })
    }

    /// What has to be had for a walk through all resources, if this needs one.
    pub(super) fn turn(&self, call: &Call<'_>) -> Result<Option<Turn>, Problem> {
        if let Order::Name { .. } = self.order {
            return Ok(None);
        }
        call.context.walks.enter().map(Some).ok_or_else(|| {
            let detail = "other sorted lists are being made: try again";
            Problem::new(Status::ServiceUnavailable, detail).with_header("Retry-After", "1")
        })
    }

    /// Whether a resource is asked for.
    fn has(
        &self,
        locks: &dyn CurrentLocks,
        resource: &ResourceName,
        pulse: &mut Pulse<'_>,
    ) -> io::Result<bool> {
        if self.waiting && current(locks)?.locks(resource, None, 1).waiting == 0 {
            return Ok(false);
        }
        self.search.as_ref().map_or(Ok(true), |search| search.finds(locks, resource, pulse))
    }

    /// The query for the page after `last`.
    fn behind(&self, last: &impl Display) -> String {
        let mut query = format!("after={}", encoded(last));
        if let Order::By { sort, .. } = self.order {
            query += &format!("&sort={}", sort.name());
        }
        if let Some(limit) = self.limit {
            query += &format!("&limit={limit}");
        }
        if let Some(Search(text)) = &self.search {
            query += &format!("&search={}", encoded(text));
        }
        if self.waiting {
            query += "&state=waiting";
        }
        query
    }
}

/// The locks for the next page of a stream, which ends early if there are none here any more.
pub(super) fn current(locks: &dyn CurrentLocks) -> io::Result<Arc<dyn LockManager>> {
    locks.current().map_err(io::Error::other)
}

fn encoded(text: &impl Display) -> String {
    utf8_percent_encode(&text.to_string(), NON_ALPHANUMERIC).to_string()
}

/// A text that is looked for in names, titles and clients, whatever its case. In lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Search(String);

impl Search {
    fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    fn finds(
        &self,
        locks: &dyn CurrentLocks,
        resource: &ResourceName,
        pulse: &mut Pulse<'_>,
    ) -> io::Result<bool> {
        if self.is_in(resource.as_str()) {
            return Ok(true);
        }
        let mut after = None;
        loop {
            let page = current(locks)?.locks(resource, after, LOCKS);
            if page.locks.iter().any(|lock| self.is_of(lock)) {
                return Ok(true);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(false),
            }
            pulse.beat()?;
        }
    }

    fn is_of(&self, lock: &Lock) -> bool {
        let Requester { address, user } = &lock.terms().client;
        let is_of_user = || user.as_ref().is_some_and(|user| self.is_in(user));
        self.is_in(&lock.terms().title) || self.is_in(address) || is_of_user()
    }

    fn is_in(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.0)
    }
}

/// Sends white space now and then during a long search, so that proxies keep the connection, and
/// so that the search ends when the client has disconnected.
struct Pulse<'a> {
    out: &'a mut dyn Write,
    silence: Duration,
    silent_until: Instant,
}

impl<'a> Pulse<'a> {
    fn new(out: &'a mut dyn Write, silence: Duration) -> Self {
        Self { out, silence, silent_until: Instant::now() + silence }
    }

    /// Sends what is buffered and a space, which JSON ignores, if the time has come.
    fn beat(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.silent_until {
            return Ok(());
        }
        self.silent_until = now + self.silence;
        self.out.write_all(b" ")?;
        self.out.flush()
    }
}

/// The resources that are asked for, in their order.
pub(super) struct Selection<'a> {
    locks: &'a dyn CurrentLocks,
    listing: &'a Listing,
    permissions: &'a Permissions,
    names: std::vec::IntoIter<ResourceName>,
    /// Where to continue in the lock core, in order of names.
    latest: Option<ResourceName>,
    /// For the one walk that finds a sorted page.
    turn: Option<Turn>,
    /// The last resource of a sorted page, if there are more.
    last: Option<Rank>,
    /// The last resource written.
    written: Option<ResourceName>,
    left: usize,
    silence: Duration,
}

impl<'a> Selection<'a> {
    pub(super) fn new(
        locks: &'a dyn CurrentLocks,
        listing: &'a Listing,
        permissions: &'a Permissions,
        turn: Option<Turn>,
    ) -> Self {
        let left = listing.limit.unwrap_or(usize::MAX);
        let latest = match &listing.order {
            Order::Name { after } => after.clone(),
            Order::By { .. } => None,
        };
        let names = Vec::new().into_iter();
        let (last, written, silence) = (None, None, SILENCE);
        Self { locks, listing, permissions, names, latest, turn, last, written, left, silence }
    }

    pub(super) fn next(&mut self, out: &mut dyn Write) -> io::Result<Option<ResourceName>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.find(out)
    }

    /// Notes that this resource was written.
    pub(super) fn count(&mut self, resource: ResourceName) {
        self.left -= 1;
        self.written = Some(resource);
    }

    /// The query of the next page, if there is more. Ends the selection.
    pub(super) fn next_page(mut self, out: &mut dyn Write) -> io::Result<Option<String>> {
        if let Order::By { .. } = self.listing.order {
            return Ok(self.last.map(|last| self.listing.behind(&last)));
        }
        let more = self.find(out)?;
        Ok(more.and(self.written).map(|written| self.listing.behind(&written)))
    }

    fn find(&mut self, out: &mut dyn Write) -> io::Result<Option<ResourceName>> {
        let mut pulse = Pulse::new(out, self.silence);
        let mut count = NAMES;
        loop {
            for name in self.names.by_ref() {
                if self.permissions.sees(&name)
                    && self.listing.has(self.locks, &name, &mut pulse)?
                {
                    return Ok(Some(name));
                }
            }
            let names = match &self.listing.order {
                Order::Name { .. } => current(self.locks)?.resources(self.latest.as_ref(), count),
                Order::By { sort, after } => self.walk(*sort, after.as_ref(), &mut pulse)?,
            };
            count = MAX_NAMES.min(2 * count);
            let Some(last) = names.last() else { return Ok(None) };
            self.latest = Some(last.clone());
            self.names = names.into_iter();
            pulse.beat()?;
        }
    }

    /// The names of a sorted page; none when it has been walked for.
    fn walk(
        &mut self,
        sort: Sort,
        after: Option<&Rank>,
        pulse: &mut Pulse<'_>,
    ) -> io::Result<Vec<ResourceName>> {
        let Some(_turn) = self.turn.take() else { return Ok(Vec::new()) };
        let locks = current(self.locks)?;
        let Top { names, last } =
            sorted::top(&*locks, sort, after, self.left, |name, standing| {
                let may_be = self.permissions.sees(name);
                let may_be = may_be && (!self.listing.waiting || standing.waiting > 0);
                Ok(may_be && self.listing.has(self.locks, name, pulse)?)
            })?;
        self.last = last;
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::tests::Broken;

    fn listing(query: &str) -> Result<Listing, Problem> {
        Listing::parse(&Query::new(query))
    }

    #[test]
    fn a_listing_is_what_the_query_says() {
        let order = Order::Name { after: None };
        let all = Listing { limit: None, order, search: None, waiting: false };
        assert_eq!(listing("").unwrap(), all);
        assert_eq!(listing("search=&other=1&limits=0").unwrap(), all);
        let query = "limit=1000&after=a%3Ab&search=A+%C3%89&state=waiting";
        let narrowed = listing(query).unwrap();
        assert_eq!(narrowed.limit, Some(1000));
        assert_eq!(narrowed.order, Order::Name { after: Some("a:b".parse().unwrap()) });
        assert_eq!(narrowed.search, Some(Search("a é".into())));
        assert!(narrowed.waiting);
        let next = narrowed.behind(&"c:d");
        assert_eq!(next, "after=c%3Ad&limit=1000&search=a%20%C3%A9&state=waiting");
        assert_eq!(listing(&next).unwrap().search, narrowed.search);
        let sorted = listing("limit=7&sort=line&after=12.a%3Ab").unwrap();
        assert_eq!(sorted.behind(&"13.c:d"), "after=13%2Ec%3Ad&sort=line&limit=7");
    }

    #[test]
    fn a_bad_value_is_refused() {
        for query in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=",
            "limit=1&limit=1",
            "after=",
            "after=a/",
            "state=held",
            "state=",
            "search=%ff",
            "sort=size&limit=1",
            "sort=",
            "sort=line",
            "sort=line&limit=1&after=a",
            "sort=line&limit=1&after=1.",
        ] {
            assert!(listing(query).is_err(), "{query}");
        }
    }

    /// A client that leaves.
    struct Leaving {
        sent: Vec<u8>,
        flushes: usize,
    }

    impl Write for Leaving {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushes = self.flushes.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(())
        }
    }

    #[test]
    fn a_search_tells_that_it_goes_on_and_ends_with_its_client() {
        // Too many names, or one name with too many locks to look at.
        for (query, resources, heard) in [("state=waiting", 1_000_000, 3), ("search=x", 1, 1)] {
            let locks = Arc::new(Broken { resources, ..Broken::default() });
            let listing = listing(query).unwrap();
            let permissions = Permissions::whole();
            let mut selection = Selection::new(&locks, &listing, &permissions, None);
            selection.silence = Duration::ZERO;
            let mut client = Leaving { sent: Vec::new(), flushes: heard };
            let ended = selection.next(&mut client);
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "{query}");
            assert_eq!(client.sent, vec![b' '; heard + 1]);
        }
    }

    #[test]
    fn a_text_is_found_whatever_its_case() {
        for (wanted, text, found) in [
            ("b", "aBc", true),
            ("ABC", "abc", true),
            ("abcd", "abc", false),
            ("é", "CAFÉ", true),
            ("é", "cafe", false),
        ] {
            assert_eq!(Search::new(wanted).is_in(text), found, "{wanted} in {text}");
        }
    }
}
