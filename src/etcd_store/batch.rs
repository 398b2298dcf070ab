//! Turns changes into transactions of a size that etcd accepts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::records::{Keys, bytes};
use crate::lock::{Change, StoredLock};

/// The most rows in one transaction, which is more than one change has, and the most bytes. etcd
/// accepts requests of up to 1.5 MiB.
pub(crate) const MAX_ROWS: usize = 500;
const MAX_BYTES: usize = 512 * 1024;

/// The bytes of a row besides its key and value.
const ROW_OVERHEAD: usize = 64;

/// A write of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Put(String, Vec<u8>),
    Delete(String),
}

impl Op {
    fn len(&self) -> usize {
        let len = match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        };
        // Base64 turns three bytes into four.
        len * 4 / 3 + ROW_OVERHEAD
    }
}

/// The rows of one transaction, and the largest fencing token among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) ops: Vec<Op>,
    pub(crate) last_token: u64,
    len: usize,
}

impl Transaction {
    fn has_room_for(&self, ops: &[Op]) -> bool {
        let len: usize = ops.iter().map(Op::len).sum();
        self.ops.len() + ops.len() <= MAX_ROWS && self.len + len <= MAX_BYTES
    }

    fn add(&mut self, ops: Vec<Op>, last_token: u64) {
        self.len += ops.iter().map(Op::len).sum::<usize>();
        self.ops.extend(ops);
        self.last_token = self.last_token.max(last_token);
    }
}

/// The transactions that write these changes, in order. The lifetimes of their locks begin at
/// `clock`, and are longer by `grace`.
///
/// A change is cut only if it alone has too many bytes (240 locks with the longest titles have).
/// A server that takes over between two transactions finds no locks that exclude each other.
pub(crate) fn transactions(
    batch: &[Change],
    keys: &Keys,
    clock: Duration,
    grace: Duration,
) -> Vec<Transaction> {
    let mut transactions = vec![Transaction::default()];
    for change in batch {
        let ops = ops(change, keys, clock.saturating_add(grace));
        let last_token = change.added.iter().map(|held| held.grant.fencing_token).max();
        for part in parts(ops) {
            if !transactions.last().is_some_and(|last| last.has_room_for(&part)) {
                transactions.push(Transaction::default());
            }
            if let Some(last) = transactions.last_mut() {
                last.add(part, last_token.unwrap_or(0));
            }
        }
    }
    transactions
}

/// Moves as many of these rows to the last transaction as fit.
pub(crate) fn fill(transactions: &mut [Transaction], rows: &mut BTreeMap<String, Op>) {
    let Some(last) = transactions.last_mut() else { return };
    while let Some((key, op)) = rows.pop_first() {
        if !last.has_room_for(std::slice::from_ref(&op)) {
            rows.insert(key, op);
            return;
        }
        last.add(vec![op], 0);
    }
}

/// The rows of a change, each key once, in an order in which they can be cut: locks that end make
/// room for conversions, and both for new locks.
fn ops(change: &Change, keys: &Keys, clock: Duration) -> Vec<Op> {
    let Change { resource, removed, added } = change;
    let before: BTreeSet<_> = removed.iter().copied().collect();
    let after: BTreeSet<_> = added.iter().map(|held| held.grant.fencing_token).collect();
    let ended = before.difference(&after).map(|token| Op::Delete(keys.lock(resource, *token)));
    let (changed, granted): (Vec<_>, Vec<_>) =
        added.iter().partition(|held| before.contains(&held.grant.fencing_token));
    let held = changed.into_iter().chain(granted).map(|held| {
        let end = held.remaining.map(|remaining| clock.saturating_add(remaining));
        let row = StoredLock::new(resource, held, end);
        Op::Put(keys.lock(resource, held.grant.fencing_token), bytes(&row))
    });
    ended.chain(held).collect()
}

/// Cuts the rows into parts that fit into one transaction each.
fn parts(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut parts = vec![Vec::new()];
    let mut current = Transaction::default();
    for op in ops {
        if !current.has_room_for(std::slice::from_ref(&op)) {
            current = Transaction::default();
            parts.push(Vec::new());
        }
        current.add(vec![op.clone()], 0);
        if let Some(part) = parts.last_mut() {
            part.push(op);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd_store::records::tests::held;
    use crate::lock::Mode;

    const CLOCK: Duration = Duration::from_secs(1000);
    const GRACE: Duration = Duration::from_millis(200);

    fn change(resource: &str, ended: &[u64], granted: &[u64]) -> Change {
        let added = granted.iter().map(|token| held(Mode::EXCLUSIVE, None, *token)).collect();
        Change { resource: resource.parse().unwrap(), removed: ended.to_vec(), added }
    }

    fn made(batch: &[Change]) -> Vec<Transaction> {
        transactions(batch, &Keys::new("/rdlm/"), CLOCK, GRACE)
    }

    /// As text: `-` deleted, `+` put.
    fn shown(transaction: &Transaction) -> Vec<String> {
        let show = |op: &Op| match op {
            Op::Put(key, _) => format!("+{key}"),
            Op::Delete(key) => format!("-{key}"),
        };
        transaction.ops.iter().map(show).collect()
    }

    #[test]
    fn a_change_ends_locks_and_begins_others() {
        let made = made(&[change("a", &[5], &[16]), change("b", &[7], &[])]);
        assert_eq!(made.len(), 1);
        assert_eq!(
            shown(&made[0]),
            [
                "-/rdlm/lock/a/0000000000000005",
                "+/rdlm/lock/a/0000000000000010",
                "-/rdlm/lock/b/0000000000000007",
            ]
        );
        assert_eq!(made[0].last_token, 16);
    }

    /// A lock that makes room by its conversion does so before those that it makes room for.
    #[test]
    fn conversions_are_written_before_grants() {
        let made = made(&[change("a", &[5, 7], &[16, 7])]);
        let (row, all) = ("/rdlm/lock/a/00000000000000", shown(&made[0]));
        assert_eq!(all, [format!("-{row}05"), format!("+{row}07"), format!("+{row}10")]);
    }

    #[test]
    fn a_renewal_writes_its_row_once_with_the_new_end() {
        let made = made(&[change("a", &[5], &[5])]);
        let [Op::Put(_, value)] = &made[0].ops[..] else { panic!("{made:?}") };
        let row: StoredLock<'_> = serde_json::from_slice(value).unwrap();
        assert_eq!(row.end, Some(CLOCK + GRACE + Duration::from_nanos(1)));
    }

    #[test]
    fn a_batch_is_split_between_changes() {
        let batch: Vec<_> = (0..400).map(|n| change(&format!("r{n}"), &[1], &[2])).collect();
        let made = made(&batch);
        assert_eq!(made.iter().map(|made| made.ops.len()).sum::<usize>(), 800);
        for transaction in &made {
            assert!(transaction.ops.len() <= MAX_ROWS && transaction.len <= MAX_BYTES);
            assert_eq!(transaction.ops.len() % 2, 0, "a change was cut");
        }
    }

    #[test]
    fn a_change_that_is_too_large_for_a_transaction_ends_locks_before_it_grants() {
        let ended: Vec<_> = (1..=1200).collect();
        let made = made(&[change("a", &ended, &[2000])]);
        assert_eq!(made.iter().map(|made| made.ops.len()).collect::<Vec<_>>(), [500, 500, 201]);
        assert!(matches!(made[2].ops.last(), Some(Op::Put(..))));
    }

    #[test]
    fn rows_that_do_not_fit_wait_for_the_next_transaction() {
        let op = |n: usize| (format!("{n:04}"), Op::Delete(format!("{n:04}")));
        let mut rows: BTreeMap<_, _> = (0..600).map(op).collect();
        let mut made = made(&[change("a", &[5], &[6])]);
        fill(&mut made, &mut rows);
        assert_eq!((made.len(), made[0].ops.len(), rows.len()), (1, MAX_ROWS, 102));
        assert_eq!(made[0].last_token, 6);
        assert_eq!(rows.first_key_value().unwrap().0, "0498");
    }

    #[test]
    fn an_empty_batch_is_one_transaction_without_rows() {
        assert_eq!(made(&[]), [Transaction::default()]);
    }
}
