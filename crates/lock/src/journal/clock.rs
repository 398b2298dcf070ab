//! Time that goes on over a restart of the server, but not over a restart of the host.

use std::fs;
use std::time::Duration;

use uuid::Uuid;

use crate::clock;

/// CLOCK_BOOTTIME of one boot of the host. It also counts while the host is suspended, and
/// nobody sets it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BootClock {
    boot: u128,
}

impl BootClock {
    /// Where the kernel does not tell the boot (without /proc), each start of the server
    /// counts as one: locks then live longer, never shorter.
    pub(super) fn of_this_boot() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = text.ok().and_then(|text| Uuid::try_parse(text.trim()).ok());
        Self { boot: boot.unwrap_or_else(Uuid::new_v4).as_u128() }
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
