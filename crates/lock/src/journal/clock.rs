//! Time that continues over a restart of the server, but not over a restart of the host.

use std::fs;
use std::io;
use std::time::Duration;

use uuid::Uuid;

use crate::clock;

/// CLOCK_BOOTTIME of one boot of the host. It counts while the host is suspended, and cannot be set.
#[derive(Debug, Clone, Copy)]
pub(super) struct BootClock {
    boot: u128,
}

impl BootClock {
    /// Without /proc, each start of the server counts as a boot: then locks live longer, never
    /// shorter.
    pub(super) fn of_this_boot() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let offsets = match fs::read_to_string("/proc/self/timens_offsets") {
            // A kernel without time namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(String::new()),
            read => read.ok(),
        };
        let boot = boot.ok().zip(offsets).and_then(|(boot, offsets)| identity(&boot, &offsets));
        Self { boot: boot.unwrap_or_else(|| Uuid::new_v4().as_u128()) }
    }

    /// The boot id.
    pub(super) fn boot(self) -> u128 {
        self.boot
    }

    /// The time since the boot.
    pub(super) fn now(self) -> Duration {
        clock::now()
    }
}

/// The boot id. In a time namespace, combined with the offset of its clock.
fn identity(boot_id: &str, offsets: &str) -> Option<u128> {
    let boot = Uuid::try_parse(boot_id.trim()).ok()?.as_u128();
    let mut lines = offsets.lines().map(str::split_whitespace);
    let Some(mut offset) =
        lines.find_map(|mut words| (words.next() == Some("boottime")).then_some(words))
    else {
        return Some(boot);
    };
    let (seconds, nanos): (i64, i64) = (offset.next()?.parse().ok()?, offset.next()?.parse().ok()?);
    let offset = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Some(boot ^ offset.cast_unsigned())
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    const BOOT: &str = "6fdcf3a2-4ff4-4e5e-9a53-1c5ef3a1e2b0\n";

    #[test]
    fn a_boot_is_another_one_with_another_clock() {
        let offset = |seconds: i64, nanos: i64| {
            format!("monotonic           0         0\nboottime   {seconds:10} {nanos:9}\n")
        };
        let boot = identity(BOOT, &offset(0, 0)).unwrap();
        assert_eq!(boot, Uuid::try_parse(BOOT.trim()).unwrap().as_u128(), "as 1.0.0 has noted it");
        assert_eq!(identity(BOOT, ""), Some(boot), "without time namespaces");
        let others = [(5_000, 0), (-5_000, 0), (0, 1), (5_000, 1)];
        let mut seen = vec![boot];
        for (seconds, nanos) in others {
            let other = identity(BOOT, &offset(seconds, nanos)).unwrap();
            assert_eq!(identity(BOOT, &offset(seconds, nanos)), Some(other));
            assert!(!seen.contains(&other), "{seconds} {nanos}");
            seen.push(other);
        }
        assert_eq!(identity(BOOT, "boottime x 0"), None);
        assert_eq!(identity("", ""), None);
    }
}
