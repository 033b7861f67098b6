//! The `snigate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    snigate::cli::main()
}
