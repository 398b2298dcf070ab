//! The log: a line an event on standard error.
//!
//! A thread of its own writes the lines, from a queue that has an end: whoever logs does not
//! wait for whoever reads. A line that does not fit is lost, counted, and told of.

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

/// How many lines may wait to be written.
const QUEUE: usize = 1024;

/// The longest line, in bytes; what is longer is cut.
const MAX_LINE: usize = 8 * 1024;

/// How long to wait at most for the lines before an end to be written.
const FLUSH: Duration = Duration::from_millis(100);

/// What is logged, and what a line looks like.
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
    /// Time, level, source and message with blanks between.
    Text,
    /// A JSON object with the same.
    Json,
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum Error {
    /// A logger has been started before.
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

/// Lines that nobody could read, since the start of the process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost because standard error did not take them.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Sends log records and the messages of panics to standard error. `log::logger().flush()`
/// waits for those that are on their way, for a tenth of a second at most.
///
/// # Errors
/// See [`Error`].
pub fn start(options: Options) -> Result<(), Error> {
    let (logger, lines) = Logger::new(options);
    let writer = Writer { lines, untold: Arc::clone(&logger.untold), format: options.format };
    log::set_boxed_logger(Box::new(logger)).map_err(|_| Error::Started)?;
    log::set_max_level(options.level);
    let run = move || writer.run(&mut io::stderr());
    thread::Builder::new().name("log".into()).spawn(run).map_err(Error::System)?;
    // The hook of the standard library would wait for standard error.
    panic::set_hook(Box::new(|panic| error!("{panic}")));
    Ok(())
}

enum Entry {
    Line(String),
    /// Answered when all that came before is written.
    Flush(Sender<()>),
}

struct Logger {
    options: Options,
    lines: Sender<Entry>,
    /// Lines that were lost since the log last told of it.
    untold: Arc<AtomicU64>,
}

impl Logger {
    fn new(options: Options) -> (Self, Receiver<Entry>) {
        let (sender, lines) = bounded(QUEUE);
        (Self { options, lines: sender, untold: Arc::default() }, lines)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.options.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args();
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let line =
            self.options.format.line(SystemTime::now(), record.level(), record.target(), message);
        if self.lines.try_send(Entry::Line(line)).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
        // An error may be the last word of the process.
        if record.level() == Level::Error {
            self.flush();
        }
    }

    fn flush(&self) {
        let deadline = Instant::now() + FLUSH;
        let (sender, written) = bounded(1);
        if self.lines.send_deadline(Entry::Flush(sender), deadline).is_ok() {
            let _ = written.recv_deadline(deadline);
        }
    }
}

/// The thread that writes.
struct Writer {
    lines: Receiver<Entry>,
    untold: Arc<AtomicU64>,
    format: Format,
}

impl Writer {
    fn run(self, out: &mut impl Write) {
        for entry in &self.lines {
            match entry {
                Entry::Line(line) => write(out, &line),
                // Nobody waits any more if the time was up.
                Entry::Flush(written) => drop(written.try_send(())),
            }
            if self.lines.is_empty() {
                self.tell_lost(out);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it is shown")]
    fn tell_lost(&self, out: &mut impl Write) {
        let lost = self.untold.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let lines = if lost == 1 { "line" } else { "lines" };
            let message = format!("{lost} {lines} lost: standard error did not take them in time");
            write(out, &self.format.line(SystemTime::now(), Level::Warn, module_path!(), &message));
        }
    }
}

/// A line that cannot be written is lost, and no reason to stop granting locks.
fn write(out: &mut impl Write, line: &str) {
    if out.write_all(line.as_bytes()).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

impl Format {
    /// One line, with its end.
    fn line(self, time: SystemTime, level: Level, target: &str, message: &impl Display) -> String {
        let time = format_rfc3339_millis(time);
        let message = message.to_string();
        let message = cut(&message);
        match self {
            Self::Text => format!("{time} {level:<5} [{target}] {}\n", in_one_line(message)),
            Self::Json => {
                #[derive(Serialize)]
                struct Line<'a> {
                    time: String,
                    level: &'a str,
                    target: &'a str,
                    message: &'a str,
                }
                let level = level.as_str().to_ascii_lowercase();
                let line = Line { time: time.to_string(), level: &level, target, message };
                // Serializing strings cannot fail.
                serde_json::to_string(&line).unwrap_or_default() + "\n"
            }
        }
    }
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_LINE)]
}

/// A message that has several lines or moves the cursor of a terminal could pass for another
/// event.
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

    const OPTIONS: Options = Options { level: LevelFilter::Info, format: Format::Text };

    fn log(logger: &Logger, message: &str) {
        let args = format_args!("{message}");
        logger.log(&Record::builder().level(Level::Info).target("t").args(args).build());
    }

    #[test]
    fn what_does_not_fit_is_lost_and_told_of() {
        let (logger, lines) = Logger::new(OPTIONS);
        let writer = Writer { lines, untold: Arc::clone(&logger.untold), format: Format::Text };
        let lost_before = lost_lines();
        for n in 0..QUEUE + 12 {
            log(&logger, &n.to_string());
        }
        assert!(lost_lines() >= lost_before + 12);
        drop(logger);
        let mut out = Vec::new();
        writer.run(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), QUEUE + 1);
        assert!(text.lines().last().unwrap().contains("12 lines lost"), "{text}");
    }

    #[test]
    fn a_flush_returns_also_when_nobody_writes() {
        let (logger, _lines) = Logger::new(OPTIONS);
        logger.flush();
        for _ in 0..QUEUE {
            log(&logger, "");
        }
        logger.flush();
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let time = SystemTime::UNIX_EPOCH;
        let text = Format::Text.line(time, Level::Warn, "t", &"a\nb\u{1b}[2J\"é");
        assert_eq!(text, "1970-01-01T00:00:00.000Z WARN  [t] a\\nb\\u{1b}[2J\"é\n");
        let json = Format::Json.line(time, Level::Warn, "t", &"a\nb\"é");
        let expected = r#"{"time":"1970-01-01T00:00:00.000Z","level":"warn","target":"t","message":"a\nb\"é"}"#;
        assert_eq!(json, format!("{expected}\n"));
        let long = Format::Text.line(time, Level::Warn, "t", &"é".repeat(MAX_LINE));
        assert!(long.len() < MAX_LINE + 64);
    }
}
