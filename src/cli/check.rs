//! `snigate check`: is this configuration right, and what does it amount to?

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, counted};

/// Check a configuration: every mistake at once, and warnings
///
/// Mistakes go to standard error, each with its place and its remedy, and the exit code is 78. Warnings are about what
/// is allowed and probably not meant; they do not change the exit code. Nothing is bound, connected to or resolved.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print the configuration that is in effect, every default filled in
    #[arg(long)]
    print: bool,
}

/// Checks and reports.
///
/// # Errors
/// When the configuration is wrong or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let parts = [
        counted(config.listeners.len(), "listener"),
        counted(config.routes.len(), "route"),
        counted(config.upstreams.len(), "upstream"),
    ];
    let summary = format!("{}: ok, {}", args.config.display(), parts.join(", "));
    if args.print {
        // Standard output is then the configuration and nothing else, so that it can go to a file.
        eprintln!("{summary}");
        write!(io::stdout(), "{config}")?;
    } else {
        writeln!(io::stdout(), "{summary}")?;
    }
    Ok(ExitCode::SUCCESS)
}
