//! The name by which we were called: messages, `--help` and `--version` use it, so that a link `runc` to this binary answers as
//! scripts around that expect.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Behind our name in `argv[0]`: the sign that this process runs from a sealed copy.
const SEALED: &str = ": sealed";

/// The name, without its directories.
pub fn own() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = called.to_string_lossy();
    let name = Path::new(called.trim_end_matches(SEALED)).file_name();
    name.map_or_else(|| "brood-oci".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Whether we run from a sealed copy.
pub fn is_sealed() -> bool {
    std::env::args_os().next().is_some_and(|called| called.as_encoded_bytes().ends_with(SEALED.as_bytes()))
}

/// `argv[0]` of the process that is to run from a sealed copy.
pub fn sealed() -> String {
    own() + SEALED
}

/// The command line, with help in runc's layout: scripts look for its first two lines.
pub fn command<T: clap::CommandFactory>() -> clap::Command {
    let name = own();
    let layout =
        |title: &str| format!("NAME:\n   {title} - {{about}}\n\nUSAGE:\n   {{usage}}\n\n{{all-args}}{{after-help}}");
    let command = T::command().help_template(layout(&name)).bin_name(&name);
    command.mut_subcommands(|sub| {
        let title = format!("{name} {}", sub.get_name());
        sub.help_template(layout(&title))
    })
}

/// A wrong command line in one line; of a command that is not there in runc's words.
pub fn wrong_usage(error: &clap::Error) -> String {
    match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => format!("No help topic for '{word}'"),
        _ => brood_launcher::usage::one_line(error),
    }
}
