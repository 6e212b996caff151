//! Errors in one line, for both binaries.

use crate::report::plain_text;

/// An error and its causes, each only if it says something that was not said.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = plain_text(cause.to_string().trim());
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) && !cause.contains(&text) {
            text = format!("{text}: {cause}");
        }
    }
    text.split('\n').map(str::trim).collect::<Vec<_>>().join("; ")
}

/// A wrong command line: clap's first line names the option or value, and the rest is what `--help` says better.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    // Missing arguments are listed, and possible values given, on the lines that follow.
    let more: Vec<&str> = lines.take_while(|line| line.starts_with('<') || line.starts_with("[possible")).collect();
    if more.is_empty() { first } else { format!("{first} {}", more.join(" ")) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cause_that_says_nothing_new_is_left_out() {
        let io = std::io::Error::from_raw_os_error(2);
        let error = anyhow::Error::from(io).context("/x: no such file or directory").context("--root");
        assert_eq!(super::chain(&error), "--root: /x: no such file or directory");
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        let command = clap::Command::new("x").arg(clap::Arg::new("ID").required(true));
        let missing = command.clone().try_get_matches_from(["x"]).unwrap_err();
        assert_eq!(super::one_line(&missing), "the following required arguments were not provided: <ID>");
        let unknown = command.try_get_matches_from(["x", "--flag"]).unwrap_err();
        assert_eq!(super::one_line(&unknown), "unexpected argument '--flag' found");
    }
}
