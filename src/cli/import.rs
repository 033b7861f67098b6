//! `snigate import`: a routing table from the configuration of another proxy.
//!
//! Read top to bottom: `words` and `sections` take the text apart; `conditions` (with `criteria`, `names` and `sources`),
//! `rules`, `doors` and `servers` give its lines types; `decisions` asks HAProxy's rules in HAProxy's order for every region
//! of names that they tell apart, `routes` makes routes of the answers, `upstreams`, `checks` and `settings` the rest;
//! `print` writes it. All of that is pure. `notes` sees to it that no line is lost without a word.

mod checks;
mod conditions;
mod criteria;
mod decisions;
mod doors;
mod names;
mod notes;
mod print;
mod reasons;
mod routes;
mod rules;
mod sections;
mod servers;
mod settings;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod translate;
mod upstreams;
mod words;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
pub use criteria::Files;
pub use notes::Note;
pub use sections::Mistake;
pub use table::Table;
pub use translate::{Source, files_named, translate};

use super::BAD_CONFIGURATION;
use crate::config::{Config, counted};

/// Make a routing table from the configuration of another proxy
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum From {
    Haproxy(HaproxyArgs),
}

/// Make one from the configuration of an HAProxy
///
/// Clients go where they went; whatever cannot be told for sure is left out, as a comment that says why. Each line that was
/// not carried over is named at the top. The exit code is 78 if the result does not pass `check` yet; the reasons are on
/// standard error.
#[derive(Clone, Debug, clap::Args)]
struct HaproxyArgs {
    /// The configuration of the HAProxy; maps that it names are looked for where it names them, and beside it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the routing table goes, a file that is not there yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Imports.
///
/// # Errors
/// When the source or a file that it names cannot be read, or the result not be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let From::Haproxy(args) = &args.from;
    let text = fs::read_to_string(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let folder = std::path::absolute(&args.file)?.parent().map(Path::to_owned).unwrap_or_default();
    let environment = |name: &str| std::env::var(name).ok();
    let table = read_files(&text, &folder, &environment).and_then(|files| {
        translate(&Source {
            name: &args.file.display().to_string(),
            text: &text,
            folder: &folder.display().to_string(),
            files: &files,
            environment: &environment,
        })
    });
    let table = match table {
        Ok(table) => table,
        Err(mistakes) => {
            eprintln!("snigate: {} has {}:", args.file.display(), counted(mistakes.len(), "mistake"));
            mistakes.iter().for_each(|mistake| eprintln!("line {}: {}", mistake.line, mistake.message));
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
    };
    let yaml = table.to_string();
    match &args.output {
        Some(path) => write_new(path, &yaml).with_context(|| format!("cannot write {}", path.display()))?,
        None => io::stdout().write_all(yaml.as_bytes())?,
    }
    Ok(report(&table, &yaml))
}

/// The files that the configuration names. One that is not where it says may be beside it, as in a copy.
fn read_files(text: &str, folder: &Path, environment: &words::Environment<'_>) -> Result<Files, Vec<Mistake>> {
    let (mut files, mut mistakes) = (Files::new(), Vec::new());
    for (line, name) in files_named(text, environment)? {
        let path = folder.join(&name);
        let beside = path.file_name().map(|file| folder.join(file));
        let read = fs::read_to_string(&path).or_else(|error| match &beside {
            Some(beside) if error.kind() == io::ErrorKind::NotFound => fs::read_to_string(beside).map_err(|_| error),
            _ => Err(error),
        });
        match read {
            Ok(text) => _ = files.insert(name, text),
            Err(error) => {
                let message = format!("cannot read {}: {error}; copy it beside the configuration", path.display());
                mistakes.push(Mistake { line, message });
            }
        }
    }
    if mistakes.is_empty() { Ok(files) } else { Err(mistakes) }
}

/// Writes a file that is not there yet: an old one may be in force.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    fs::File::create_new(path)?.write_all(text.as_bytes())
}

/// Says in words what came of it, and what the result lacks.
fn report(table: &Table, yaml: &str) -> ExitCode {
    let ((listeners, upstreams), (routes, left_out)) = (table.parts(), table.routes());
    eprintln!(
        "{}: {}, {}, {}; {} left out, {} at the top",
        table.source,
        counted(listeners, "listener"),
        counted(routes, "route"),
        counted(upstreams, "upstream"),
        counted(left_out, "route"),
        counted(table.notes.len(), "remark"),
    );
    match Config::parse(yaml) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            eprintln!("before `snigate check` accepts it, look at:\n{mistakes}");
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}
