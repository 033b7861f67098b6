//! The command line: one file a command.

pub mod check;
pub mod demo;
pub mod explain;
pub mod import;
pub mod kubeconfig;
pub mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::admin::BadToken;
use crate::config::LoadError;
use crate::power::PowerError;

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/snigate/snigate.yaml";

/// Exit code when something failed that worked before or elsewhere: an address in use, a full disk.
pub const RUNTIME_FAILURE: u8 = 1;
/// Exit code for a command line that asks for what there is not; clap uses the same one.
pub const WRONG_USAGE: u8 = 2;
/// Exit code for a stop that cut connections short.
pub const STOPPED_SHORT: u8 = 3;
/// Exit code for a configuration that is absent or wrong (`EX_CONFIG` of sysexits.h): starting again will not help.
pub const BAD_CONFIGURATION: u8 = 78;

/// Routes TLS connections by server name (SNI) without decrypting them.
#[derive(Debug, Parser)]
#[command(name = "snigate", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Explain(explain::Args),
    Kubeconfig(kubeconfig::Args),
    Demo(demo::Args),
    Import(import::Args),
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure at run time, 2 wrong usage, 3 stopped with connections cut, 78 wrong configuration";

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        // Help and version come this way too, with code 0. Nobody can be told that printing failed.
        Err(other) => {
            let _ = other.print();
            return u8::try_from(other.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let result = match &command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Kubeconfig(args) => kubeconfig::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Import(args) => import::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("snigate: {error:#}");
        ExitCode::from(exit_code(&error))
    })
}

/// A command line that clap cannot judge, since it takes the configuration to do so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<LoadError>()
        || error.is::<BadToken>()
        || matches!(error.downcast_ref(), Some(PowerError::UnknownUser(_)))
    {
        BAD_CONFIGURATION
    } else if error.is::<WrongUsage>() {
        WRONG_USAGE
    } else {
        RUNTIME_FAILURE
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
