//! `snigate check`: is this configuration right, and what does it amount to?

pub(super) mod probe;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::RUNTIME_FAILURE;
use crate::config::{self, Config, Question, counted};

/// Check a configuration: every mistake at once, and warnings
///
/// Mistakes go to standard error, each with its place and its remedy, and the exit code is 78. Warnings are about what
/// is allowed and probably not meant; they do not change the exit code. Nothing is bound, and without --probe nothing is
/// connected to or resolved.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print the configuration that is in effect, every default filled in
    #[arg(long)]
    print: bool,
    /// Ask every endpoint of every upstream once, as its `health_check` says, or without one for a TLS handshake; a table
    /// says who answered and with which certificate. The exit code is 1 if one is not well
    #[arg(long, conflicts_with = "print")]
    probe: bool,
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
    let notices = notices(&config);
    if args.print {
        // Standard output is then the configuration and nothing else, so that it can go to a file.
        eprint!("{summary}\n{notices}");
        write!(io::stdout(), "{config}")?;
        return Ok(ExitCode::SUCCESS);
    }
    write!(io::stdout(), "{summary}\n{notices}")?;
    if !args.probe {
        return Ok(ExitCode::SUCCESS);
    }
    let found = probe::ask_all(&config)?;
    write!(io::stdout(), "\n{}", found.table)?;
    for warning in found.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(if found.all_well { ExitCode::SUCCESS } else { ExitCode::from(RUNTIME_FAILURE) })
}

/// How long each upstream takes to notice that an endpoint is gone, one line each.
fn notices(config: &Config) -> String {
    let checked =
        config.upstreams.iter().filter_map(|upstream| Some((&upstream.name, upstream.health_check.as_ref()?)));
    let notice = |(name, check): (_, &config::HealthCheck)| {
        let [interval, timeout, all] = [check.interval, check.timeout, check.time_to_notice()].map(config::span);
        // An API server that is told to go says so at once, and serves for this long: nobody should be sent there then.
        let hint = match check.question {
            Question::Https(..) => format!("; a kube-apiserver needs a --shutdown-delay-duration above {all}"),
            _ => String::new(),
        };
        format!(
            "{name}: an endpoint that goes is noticed within {all} ({} × {interval} + {timeout}){hint}\n",
            check.fall
        )
    };
    checked.map(notice).collect()
}
