//! Wrong command lines in one line, for both binaries: clap's first line names the option or value, and the rest is
//! what `--help` says better.

/// The error in one line.
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
    fn what_is_wrong_is_named_in_one_line() {
        let command = clap::Command::new("x").arg(clap::Arg::new("ID").required(true));
        let missing = command.clone().try_get_matches_from(["x"]).unwrap_err();
        assert_eq!(super::one_line(&missing), "the following required arguments were not provided: <ID>");
        let unknown = command.try_get_matches_from(["x", "--flag"]).unwrap_err();
        assert_eq!(super::one_line(&unknown), "unexpected argument '--flag' found");
    }
}
