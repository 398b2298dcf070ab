//! Whether another server advertises the URL of this one. Pure.

/// Tells such a server, which writes, from an earlier process of this one, which is gone.
#[derive(Default)]
pub(super) struct OwnUrl {
    seen: Option<Seen>,
}

/// The term that has this URL.
struct Seen {
    term: String,
    /// Of its latest write.
    revision: i64,
    /// How many of its writes were seen, up to [`OwnUrl::WRITES`].
    writes: u32,
}

impl OwnUrl {
    /// One write may have been on its way when the earlier process ended.
    const WRITES: u32 = 2;

    /// `seen`: the id of the term that has this URL now, and the revision of its latest write.
    pub(super) fn is_in_use(&mut self, seen: Option<(&str, i64)>) -> bool {
        self.seen = seen.map(|(term, revision)| {
            let known = self.seen.take().filter(|known| known.term == term);
            let known = known.unwrap_or_else(|| Seen { term: term.into(), revision, writes: 0 });
            let is_new = revision != known.revision;
            Seen { revision, writes: Self::WRITES.min(known.writes + u32::from(is_new)), ..known }
        });
        self.seen.as_ref().is_some_and(|seen| seen.writes >= Self::WRITES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_url_is_in_use_by_a_server_that_goes_on_writing_under_it() {
        let mut own_url = OwnUrl::default();
        for (term, in_use) in [
            (None, false),
            (Some(("a", 1)), false),
            (Some(("a", 1)), false),
            // The last write of a process that has ended.
            (Some(("a", 2)), false),
            (Some(("a", 2)), false),
            (Some(("b", 3)), false),
            (Some(("b", 4)), false),
            (Some(("b", 5)), true),
            (Some(("b", 5)), true),
            (None, false),
            (Some(("b", 6)), false),
        ] {
            assert_eq!(own_url.is_in_use(term), in_use, "{term:?}");
        }
    }
}
