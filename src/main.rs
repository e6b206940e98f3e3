//! The `hawser` program; [`hawser::cli`] has the commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    hawser::cli::main(std::env::args_os())
}
