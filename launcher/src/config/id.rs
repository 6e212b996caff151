//! Container ids: names of directories and cgroups, so the alphabet is small.

use super::error::quote;

/// Longest container id, in bytes: it becomes a file name (NAME_MAX).
pub const MAX_ID_BYTES: usize = 255;

/// What is wrong with a container id, beginning with the words that runc uses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("container id cannot be empty")]
    Empty,
    /// Too long for a file name.
    #[error("invalid container ID format: {}: {bytes} bytes long, at most {MAX_ID_BYTES} are allowed", quote(id))]
    TooLong {
        /// The id.
        id: String,
        /// Its length.
        bytes: usize,
    },
    /// `.`, `..`, and names that directory listings hide.
    #[error("invalid container ID format: {}: must not begin with a dot", quote(id))]
    LeadingDot {
        /// The id.
        id: String,
    },
    /// A character outside of the alphabet.
    #[error(
        "invalid container ID format: {}: {character:?} is not allowed (allowed are A-Z a-z 0-9 _ + . -)",
        quote(id)
    )]
    Character {
        /// The id.
        id: String,
        /// The first one that does not fit.
        character: char,
    },
}

/// Checks a container id: 1 to 255 bytes of `[A-Za-z0-9_+.-]`, no dot in front.
///
/// # Errors
/// Says what is wrong with which id.
pub fn check_id(id: &str) -> Result<(), IdError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+.-".contains(c);
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { id: id.to_owned(), bytes: id.len() });
    }
    if id.starts_with('.') {
        return Err(IdError::LeadingDot { id: id.to_owned() });
    }
    match id.chars().find(|&c| !allowed(c)) {
        Some(character) => Err(IdError::Character { id: id.to_owned(), character }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_file_names_pass() {
        for id in ["a", "redis", "Redis-1.2_x+y", "0", "-x", "a.", &"x".repeat(255)] {
            assert_eq!(check_id(id), Ok(()), "{id}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_with_which_id() {
        for (id, expected) in [
            ("", "container id cannot be empty"),
            (".", "invalid container ID format: \".\": must not begin with a dot"),
            ("..", "invalid container ID format: \"..\": must not begin with a dot"),
            (".hidden", "invalid container ID format: \".hidden\": must not begin with a dot"),
            ("a/b", "invalid container ID format: \"a/b\": '/' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
            ("a b", "invalid container ID format: \"a b\": ' ' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
            ("a\nb", "invalid container ID format: \"a\\nb\": '\\n' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
            (
                "h\u{e4}",
                "invalid container ID format: \"h\u{e4}\": '\u{e4}' is not allowed (allowed are A-Z a-z 0-9 _ + . -)",
            ),
        ] {
            assert_eq!(check_id(id).unwrap_err().to_string(), expected);
        }
        let long = check_id(&"x".repeat(256)).unwrap_err().to_string();
        assert!(long.contains("256 bytes long, at most 255"), "{long}");
        assert!(long.len() < 150, "{long}");
    }
}
