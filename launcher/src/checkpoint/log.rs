//! Why CRIU failed, from its log.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::config::one_line;

/// Most of a log's end that is read, in bytes.
const LOG_BYTES_MAX: u64 = 64 << 10;
/// Most lines that a message quotes.
const LINES_MAX: usize = 3;
/// Most characters of a line that a message quotes.
const LINE_CHARS_MAX: usize = 300;

/// The last complaints in a log file, each after `: `; empty when there are none, or no log.
pub(super) fn last_errors_of(file: &Path) -> String {
    last_errors(&end_of(file).unwrap_or_default())
}

/// The same of a text.
pub(super) fn last_errors(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| line.contains("Error") || line.contains("rror:"));
    let lines: Vec<&str> = lines.collect();
    // Without any, the end is the next best.
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let chosen = if lines.is_empty() { last.into_iter().collect() } else { lines };
    let quoted = chosen.iter().skip(chosen.len().saturating_sub(LINES_MAX));
    quoted.map(|line| format!(": {}", one_line(&line.chars().take(LINE_CHARS_MAX).collect::<String>()))).collect()
}

fn end_of(path: &Path) -> std::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaints_are_quoted_in_one_line() {
        let log = "(00.1) fine\n(00.2) Error (criu/a.c:1): one\n(00.3) Error (b.c:2): t\u{1b}wo\n(00.4) also fine\n";
        assert_eq!(last_errors(log), ": (00.2) Error (criu/a.c:1): one: (00.3) Error (b.c:2): t\\u{1b}wo");
        assert_eq!(last_errors("a\nb\n\n"), ": b");
        assert_eq!(last_errors(""), "");
        let many = (0..9).map(|n| format!("Error {n}\n")).collect::<String>();
        assert_eq!(last_errors(&many), ": Error 6: Error 7: Error 8");
        assert!(last_errors(&format!("Error {}", "x".repeat(9999))).len() < 400);
    }
}
