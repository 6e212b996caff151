//! Signals as users write them.

use rustix::process::Signal;

/// Not the name or number of a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}")]
pub struct UnknownSignal(String);

/// `KILL`, `SIGKILL`, `sigkill` and `9` are the same signal; `RTMIN+3` and numbers up to 64 are real-time signals.
///
/// # Errors
/// No such signal.
pub fn parse(text: &str) -> Result<Signal, UnknownSignal> {
    let unknown = || UnknownSignal(text.to_owned());
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match NAMES.iter().position(|known| *known == name) {
        Some(index) => i32::try_from(index).map_err(|_| unknown())? + 1,
        None => match name {
            "POLL" => libc::SIGIO,
            "IOT" => libc::SIGABRT,
            "CLD" => libc::SIGCHLD,
            _ => real_time(name).or_else(|| text.parse().ok()).ok_or_else(unknown)?,
        },
    };
    from_number(number).ok_or_else(unknown)
}

/// The signal of a number, 1 to 64.
#[must_use]
#[expect(unsafe_code, reason = "the safe constructor knows no real-time signals")]
pub fn from_number(number: i32) -> Option<Signal> {
    // SAFETY: 1 to 64 are the kernel's signals. The two that the C library keeps for itself (32, 33) are only sent to
    // other processes here, never caught.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.get(1..)?.parse::<i32>().ok() };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return (rest.is_empty() || rest.starts_with('+'))
            .then(|| offset(rest))
            .flatten()
            .map(|n| libc::SIGRTMIN() + n);
    }
    let rest = name.strip_prefix("RTMAX")?;
    (rest.is_empty() || rest.starts_with('-')).then(|| offset(rest)).flatten().map(|n| libc::SIGRTMAX() - n)
}

/// signal(7), x86 and ARM numbering, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same() {
        for (text, number) in [("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("9", 9), ("SYS", 31), ("RTMIN", 34)] {
            assert_eq!(parse(text).map(|signal| signal.as_raw()), Ok(number), "{text}");
        }
        assert_eq!(parse("RTMIN+3").map(|signal| signal.as_raw()), Ok(37));
        assert_eq!(parse("SIGRTMAX-1").map(|signal| signal.as_raw()), Ok(63));
        for text in ["", "0", "65", "-1", "SIG", "FOO", "RTMIN3", "9x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
