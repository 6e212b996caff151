//! IDs of containers and execs: names of directories and cgroups, so the alphabet is small.

use super::error::quote;

/// Longest id, in bytes: it becomes a file name (NAME_MAX).
pub const MAX_ID_BYTES: usize = 255;

/// What is wrong with an id; the text begins with "id".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("id: must not be empty")]
    Empty,
    /// Too long for a file name.
    #[error("id {}: {bytes} bytes long, at most {MAX_ID_BYTES} are allowed", quote(id))]
    TooLong {
        /// The id.
        id: String,
        /// Its length.
        bytes: usize,
    },
    /// `.`, `..`, and names that directory listings hide.
    #[error("id {}: must not begin with a dot", quote(id))]
    LeadingDot {
        /// The id.
        id: String,
    },
    /// A character outside of the alphabet.
    #[error("id {}: {character:?} is not allowed (allowed are A-Z a-z 0-9 _ + . -)", quote(id))]
    Character {
        /// The id.
        id: String,
        /// The first one that does not fit.
        character: char,
    },
}

/// Checks the id of a container or exec: 1 to 255 bytes of `[A-Za-z0-9_+.-]`, no dot in front.
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
            ("", "id: must not be empty"),
            (".", "id \".\": must not begin with a dot"),
            ("..", "id \"..\": must not begin with a dot"),
            (".hidden", "id \".hidden\": must not begin with a dot"),
            ("a/b", "id \"a/b\": '/' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
            ("a b", "id \"a b\": ' ' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
            ("a\nb", "id \"a\\nb\": '\\n' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
            ("h\u{e4}", "id \"h\u{e4}\": '\u{e4}' is not allowed (allowed are A-Z a-z 0-9 _ + . -)"),
        ] {
            assert_eq!(check_id(id).unwrap_err().to_string(), expected);
        }
        let long = check_id(&"x".repeat(256)).unwrap_err().to_string();
        assert!(long.contains("256 bytes long, at most 255"), "{long}");
        assert!(long.len() < 150, "{long}");
    }
}
