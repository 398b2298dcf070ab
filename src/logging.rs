//! The log: one line per event, on standard error.
//!
//! A thread that logs puts its record into a bounded queue and goes on; the log's own thread
//! formats and writes it. So nobody waits for a slow reader of standard error. A record that finds
//! the queue full is lost and counted, and the log says how many were.
//!
//! Lines of text are written by `simple_logger`, which would otherwise write on the thread that
//! logs: a pipe that nobody reads would stop the reaper, and with it every hand-over.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use humantime::format_rfc3339_millis;
use log::{Level, LevelFilter, Log, Metadata, Record, error};
use serde::Serialize;
use simple_logger::SimpleLogger;

/// How many lines may wait to be written.
const QUEUE: usize = 1024;

/// The longest message, in bytes; a longer one is cut.
const MAX_MESSAGE: usize = 8 * 1024;

/// How long a flush waits at most.
const FLUSH: Duration = Duration::from_millis(100);

/// A line of text has the time at which it is written. One that waited longer than this in the
/// queue says for how long.
const LATE: Duration = Duration::from_secs(1);

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Records of this level and above.
    pub level: LevelFilter,
    /// How a record is written.
    pub format: Format,
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Time, level, source and message, separated by blanks.
    Text,
    /// A JSON object with the same.
    Json,
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum Error {
    /// This process has a logger already.
    Started,
    /// The operating system refused a thread.
    System(io::Error),
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("a log has been started before"),
            Self::System(error) => write!(f, "cannot start the log: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Lines lost since the start of the process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost because they could not be written, or not in time.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Sends log records and the messages of panics to standard error. `log::logger().flush()`
/// waits until the queued ones are written, for a tenth of a second at most.
///
/// # Errors
/// See [`Error`].
pub fn start(options: Options) -> Result<(), Error> {
    let (logger, queue) = Logger::new();
    let writer = Writer { queue, unreported: Arc::clone(&logger.unreported) };
    log::set_boxed_logger(Box::new(logger)).map_err(|_| Error::Started)?;
    log::set_max_level(options.level);
    let run = move || writer.run(|line| options.format.write(line));
    let thread = thread::Builder::new().name("log".into()).spawn(run).map_err(Error::System)?;
    let log_thread = thread.thread().id();
    // The hook of the standard library would block on standard error. A panic of the log's own
    // thread means that a line could not be written; logging it would panic again.
    panic::set_hook(Box::new(move |panic| {
        if thread::current().id() != log_thread {
            error!("{panic}");
        }
    }));
    Ok(())
}

/// A record that waits to be written.
struct Line {
    time: SystemTime,
    logged: Instant,
    level: Level,
    target: String,
    message: String,
}

impl Line {
    #[expect(clippy::disallowed_methods, reason = "it is shown")]
    fn new(level: Level, target: &str, mut message: String) -> Self {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        let (time, logged) = (SystemTime::now(), Instant::now());
        Self { time, logged, level, target: target.into(), message }
    }
}

enum Entry {
    Line(Line),
    /// Answered when all entries before it are written.
    Flush(Sender<()>),
}

struct Logger {
    queue: Sender<Entry>,
    /// Lines lost since the log last reported how many.
    unreported: Arc<AtomicU64>,
}

impl Logger {
    fn new() -> (Self, Receiver<Entry>) {
        let (sender, queue) = bounded(QUEUE);
        (Self { queue: sender, unreported: Arc::default() }, queue)
    }
}

impl Log for Logger {
    /// The macros of `log` have compared the level with the maximum already.
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = Line::new(record.level(), record.target(), record.args().to_string());
        if self.queue.try_send(Entry::Line(line)).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
            self.unreported.fetch_add(1, Ordering::Relaxed);
        }
        // An error may be about to end the process.
        if record.level() == Level::Error {
            self.flush();
        }
    }

    fn flush(&self) {
        let deadline = Instant::now() + FLUSH;
        let (sender, written) = bounded(1);
        if self.queue.send_deadline(Entry::Flush(sender), deadline).is_ok() {
            let _ = written.recv_deadline(deadline);
        }
    }
}

/// What the log's thread does.
struct Writer {
    queue: Receiver<Entry>,
    unreported: Arc<AtomicU64>,
}

impl Writer {
    /// `write` returns whether it could write the line.
    fn run(self, mut write: impl FnMut(&Line) -> bool) {
        let mut write = |line: &Line| {
            if !write(line) {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        };
        for entry in &self.queue {
            match entry {
                Entry::Line(line) => write(&line),
                // Fails if the flush has timed out.
                Entry::Flush(written) => drop(written.try_send(())),
            }
            if self.queue.is_empty()
                && let Some(report) = self.report_lost()
            {
                write(&report);
            }
        }
    }

    fn report_lost(&self) -> Option<Line> {
        let lost = self.unreported.swap(0, Ordering::Relaxed);
        let lines = if lost == 1 { "line" } else { "lines" };
        let message = format!("{lost} {lines} lost: standard error did not take them in time");
        (lost > 0).then(|| Line::new(Level::Warn, module_path!(), message))
    }
}

impl Format {
    /// Writes a line to standard error; returns whether that succeeded. If not, the line is lost,
    /// which is no reason to stop granting locks.
    fn write(self, line: &Line) -> bool {
        match self {
            Self::Json => io::stderr().write_all(json(line).as_bytes()).is_ok(),
            // simple_logger panics if it cannot write.
            Self::Text => panic::catch_unwind(|| {
                let message = text(line);
                let mut record = Record::builder();
                record.level(line.level).target(&line.target);
                SimpleLogger::new().log(&record.args(format_args!("{message}")).build());
            })
            .is_ok(),
        }
    }
}

/// The message of a line in text format.
fn text(line: &Line) -> Cow<'_, str> {
    let message = in_one_line(&line.message);
    let waited = line.logged.elapsed();
    if waited <= LATE {
        return message;
    }
    format!("{message} (logged {:.1} s earlier)", waited.as_secs_f64()).into()
}

fn json(line: &Line) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        time: String,
        level: &'a str,
        target: &'a str,
        message: &'a str,
    }
    let time = format_rfc3339_millis(line.time).to_string();
    let level = line.level.as_str().to_ascii_lowercase();
    let object = Object { time, level: &level, target: &line.target, message: &line.message };
    // Serializing strings cannot fail.
    serde_json::to_string(&object).unwrap_or_default() + "\n"
}

/// Escapes control characters: a message with line feeds, or one that moves the cursor of a
/// terminal, could pass for another event.
fn in_one_line(message: &str) -> Cow<'_, str> {
    if !message.contains(char::is_control) {
        return message.into();
    }
    let escape = |char: char| -> String {
        if char.is_control() { char.escape_default().collect() } else { char.into() }
    };
    message.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(logger: &Logger, message: &str) {
        let args = format_args!("{message}");
        logger.log(&Record::builder().level(Level::Info).target("t").args(args).build());
    }

    fn line(message: &str) -> Line {
        Line { time: SystemTime::UNIX_EPOCH, ..Line::new(Level::Warn, "t", message.into()) }
    }

    #[test]
    fn lines_that_find_the_queue_full_are_lost_and_reported() {
        let (logger, queue) = Logger::new();
        let writer = Writer { queue, unreported: Arc::clone(&logger.unreported) };
        let lost_before = lost_lines();
        for n in 0..QUEUE + 12 {
            log(&logger, &n.to_string());
        }
        assert!(lost_lines() >= lost_before + 12);
        drop(logger);
        let mut written = Vec::new();
        writer.run(|line| {
            written.push(line.message.clone());
            true
        });
        assert_eq!(written.len(), QUEUE + 1);
        let last = written.last().unwrap();
        assert!(last.contains("12 lines lost"), "{last}");
    }

    #[test]
    fn a_flush_returns_even_if_nothing_is_written() {
        let (logger, _queue) = Logger::new();
        logger.flush();
        for _ in 0..QUEUE {
            log(&logger, "");
        }
        logger.flush();
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        assert_eq!(text(&line("a\nb\u{1b}[2J\"é")), "a\\nb\\u{1b}[2J\"é");
        let expected = r#"{"time":"1970-01-01T00:00:00.000Z","level":"warn","target":"t","message":"a\nb\"é"}"#;
        assert_eq!(json(&line("a\nb\"é")), format!("{expected}\n"));
        assert!(text(&line(&"é".repeat(MAX_MESSAGE))).len() <= MAX_MESSAGE);
    }

    #[test]
    fn a_line_of_text_says_if_it_is_written_late() {
        let late = Line { logged: Instant::now() - 2 * LATE, ..line("a") };
        assert_eq!(text(&late), "a (logged 2.0 s earlier)");
    }
}
