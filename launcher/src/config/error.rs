//! What can be wrong with a config.json, in one line each.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use super::FILE_NAME;

/// Longest value that a message shows, in characters.
const MAX_SHOWN_CHARS: usize = 64;

/// Longest field path or reason, in characters: serde quotes values in full.
const MAX_LINE_CHARS: usize = 1024;

/// Words for which callers look in a message about these fields: runc's.
const FAMILIAR: [(&str, &str); 3] = [
    ("linux.memoryPolicy.mode", "invalid memory policy mode"),
    ("linux.memoryPolicy.flags", "invalid memory policy flag"),
    ("linux.memoryPolicy.nodes", "invalid memory policy node"),
];

/// Why a config.json was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The bundle is not a directory that can be entered.
    #[error("bundle {}: {reason}", shown(path))]
    Bundle {
        /// The bundle.
        path: PathBuf,
        /// The source in words, so that this line is complete on its own.
        reason: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be read.
    #[error("{}: {reason}", shown(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// The source in words, so that this line is complete on its own.
        reason: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not JSON.
    #[error("{}: line {line}, column {column}: {reason}", shown(file))]
    Syntax {
        /// The file, as far as known; else `config.json`.
        file: PathBuf,
        /// Line of the first byte that does not fit, from 1.
        line: usize,
        /// Column, from 1; 0 is the end of the line before.
        column: usize,
        /// What was expected.
        reason: String,
    },
    /// A field is missing, of the wrong type, or has a value that is not allowed.
    #[error("{}: {field}: {reason}", shown(file))]
    Field {
        /// The file, as far as known; else `config.json`.
        file: PathBuf,
        /// The field's path, e.g. `process.args[1]`.
        field: String,
        /// What is wrong, with line and column when the fault is one of the text.
        reason: String,
    },
    /// A field asks for something that does not exist here, or not yet.
    #[error("{}: {field}: {reason} (use --ignore-unsupported to go on without it)", shown(file))]
    Unsupported {
        /// The file, as far as known; else `config.json`.
        file: PathBuf,
        /// The field's path.
        field: String,
        /// Why there is none.
        reason: &'static str,
    },
}

impl ConfigError {
    pub(super) fn bundle(path: &Path, source: io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::NotFound => "no such directory".to_owned(),
            io::ErrorKind::NotADirectory => "not a directory".to_owned(),
            _ => reason(&source),
        };
        Self::Bundle { path: path.into(), reason, source }
    }

    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            _ => reason(&source),
        };
        Self::Read { path: path.into(), reason, source }
    }

    pub(super) fn syntax(line: usize, column: usize, reason: &str) -> Self {
        Self::Syntax { file: FILE_NAME.into(), line, column, reason: limited(reason) }
    }

    pub(super) fn field(field: impl Display, reason: impl Display) -> Self {
        let (field, mut reason) = (field.to_string(), reason.to_string());
        if let Some((_, words)) = FAMILIAR.iter().find(|(start, _)| field.starts_with(start)) {
            reason = format!("{reason} ({words})");
        }
        Self::Field { file: FILE_NAME.into(), field: limited(&field), reason: limited(&reason) }
    }

    pub(super) fn unsupported(field: impl Display, reason: &'static str) -> Self {
        Self::Unsupported { file: FILE_NAME.into(), field: limited(&field.to_string()), reason }
    }

    /// The same error, now that the file's path is known.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        match &mut self {
            Self::Syntax { file, .. } | Self::Field { file, .. } | Self::Unsupported { file, .. } => {
                *file = path.into()
            }
            Self::Bundle { .. } | Self::Read { .. } => {}
        }
        self
    }
}

/// A value as messages show it: quoted, escaped, and cut when it is long.
pub(crate) fn quote(value: &str) -> String {
    match value.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None => format!("{value:?}"),
    }
}

/// The text without control characters: a message is one line whatever the file holds.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// One line of bounded length.
fn limited(text: &str) -> String {
    match text.char_indices().nth(MAX_LINE_CHARS) {
        Some((end, _)) => format!("{}...", one_line(&text[..end])),
        None => one_line(text).into_owned(),
    }
}

fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy()).into_owned()
}

/// The system's words without the number that `io::Error` appends.
fn reason(error: &io::Error) -> String {
    crate::report::plain_text(&error.to_string())
}
