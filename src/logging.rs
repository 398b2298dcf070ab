//! The log: a line an event on standard error.

use std::panic::{self, AssertUnwindSafe};

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;

/// Sends log records of `level` and above to standard error.
///
/// # Errors
/// A logger has been started before.
pub fn start(level: LevelFilter) -> Result<(), SetLoggerError> {
    let logger = SimpleLogger::new().with_level(level).with_utc_timestamps();
    log::set_boxed_logger(Box::new(NeverPanics(logger)))?;
    log::set_max_level(level);
    Ok(())
}

/// SimpleLogger panics when standard error cannot be written to, which is no reason to stop
/// granting locks: such a record is lost.
struct NeverPanics(SimpleLogger);

impl Log for NeverPanics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| self.0.log(record)));
    }

    fn flush(&self) {}
}
