//! `brood`: daemon and command line in one binary. See `brood::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    brood::cli::main()
}
