//! The files of a history, read from the oldest line to the newest.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use super::Line;
use super::files::{file_name, numbers};

/// The longest line, in bytes: a name, a title, an address, some numbers.
pub(super) const MAX_LINE: u64 = 64 * 1024;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The number of the last event.
    pub last: Option<u64>,
    /// How many lines could not be read.
    pub damaged: u64,
}

/// Calls `each` for each line. A last line without its end is being written.
///
/// # Errors
/// Those of the operating system, and of `each`.
pub fn read(dir: &Path, mut each: impl FnMut(&Line<'_>) -> io::Result<()>) -> io::Result<Read> {
    let mut result = Read::default();
    for number in numbers(dir)? {
        match File::open(file_name(dir, number)) {
            Ok(file) => read_file(&mut BufReader::new(file), &mut result, &mut each)?,
            // The writer has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(result)
}

fn read_file(
    file: &mut impl BufRead,
    result: &mut Read,
    each: &mut impl FnMut(&Line<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        file.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        let is_whole = bytes.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && (bytes.len() as u64) < MAX_LINE {
            return Ok(());
        }
        let text = str::from_utf8(&bytes).ok().filter(|_| is_whole);
        match text.and_then(Line::parse) {
            Some(line) => {
                result.last = line.id.or(result.last);
                each(&line)?;
            }
            None => result.damaged += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> (Vec<String>, Read) {
        let (mut seen, mut result) = (Vec::new(), Read::default());
        let mut each = |line: &Line<'_>| {
            seen.push(line.event.to_string());
            Ok(())
        };
        read_file(&mut &text[..], &mut result, &mut each).unwrap();
        (seen, result)
    }

    #[test]
    fn damaged_lines_are_counted_and_what_is_being_written_is_not() {
        let good = br#"{"id":7,"event":"granted","time":"t","later":{"a":[1]}}"#;
        let long = vec![b'x'; MAX_LINE as usize + 10];
        let lines = [good, &b"\0\0\xff"[..], b"{}", &long, b"", good, b"{\"id\":8,\"event"];
        let (seen, result) = read_text(&lines.join(&b'\n'));
        assert_eq!(seen, ["granted"; 2]);
        // The long one counts as two.
        assert_eq!(result, Read { last: Some(7), damaged: 5 });
    }
}
