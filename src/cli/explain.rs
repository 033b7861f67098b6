//! `snigate explain`: where would this client go, and why?

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::WrongUsage;
use crate::config::explain::{Client, SOMEWHERE};
use crate::config::{Config, Listener};
use crate::hello::{AlpnProtocol, Sni};

/// Explain where a client would go, and why
///
/// Takes the client's server name, source and protocols, and tells which patterns match, which one wins, what each of
/// its routes says and what comes of it. Nothing is connected to. The exit code is 0 for refused clients too.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// The server name that the client sends, taken as it comes from the wire
    #[arg(long, value_name = "NAME", required_unless_present = "no_server_name")]
    server_name: Option<OsString>,
    /// The client sends no server name
    #[arg(long, conflicts_with = "server_name")]
    no_server_name: bool,
    /// The client's address [default: 192.0.2.1, for one that no list names]
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// A protocol that the client offers, such as h2; repeat it in the client's order
    #[arg(long, value_name = "PROTOCOL")]
    alpn: Vec<AlpnProtocol>,
    /// The listener that the client connects to [default: each of them]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
}

/// Explains.
///
/// # Errors
/// When the configuration is wrong, the listener unknown or standard output closed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let server_name = args.server_name.as_ref().map_or(Sni::Absent, |name| Sni::from_wire(name.as_bytes()));
    let client = Client { server_name, alpn: args.alpn.clone(), source: args.source.unwrap_or(SOMEWHERE) };
    let explanations = config.explain(&client, args.listener.as_deref()).map_err(WrongUsage)?;
    let mut output = io::stdout().lock();
    if args.source.is_none() {
        writeln!(output, "source {SOMEWHERE} is assumed: --source says another")?;
    }
    for (listeners, explanation) in explanations {
        writeln!(output, "on {}:\n{explanation}", listeners.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The listener of this name, or all of them.
pub(super) fn chosen<'c>(config: &'c Config, wanted: Option<&str>) -> anyhow::Result<Vec<&'c Listener>> {
    Ok(config.chosen(wanted).map_err(WrongUsage)?)
}
