//! `snigate explain`: where would this client go, and why?

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::WrongUsage;
use crate::config::{Config, Listener, suggestion};
use crate::hello::{AlpnProtocol, Sni};
use crate::outcome::Reason;

/// A client from nowhere in particular: an address that is nobody's (RFC 5737), so that no list names it by accident.
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

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
    let explanations = explanations(&config, args)?;
    let mut output = io::stdout().lock();
    if args.source.is_none() {
        writeln!(output, "source {SOMEWHERE} is assumed: --source says another")?;
    }
    for (listeners, explanation) in explanations {
        writeln!(output, "on {}:\n{explanation}", listeners.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What each listener says, those that say the same together.
fn explanations<'c>(config: &'c Config, args: &Args) -> anyhow::Result<Vec<(Vec<&'c str>, String)>> {
    let mut explanations: Vec<(Vec<&str>, String)> = Vec::new();
    for listener in chosen(config, args.listener.as_deref())? {
        let explanation = explain(config, listener, args);
        match explanations.iter_mut().find(|(_, known)| *known == explanation) {
            Some((listeners, _)) => listeners.push(&listener.name),
            None => explanations.push((vec![&listener.name], explanation)),
        }
    }
    Ok(explanations)
}

/// The listener of this name, or all of them.
pub(super) fn chosen<'c>(config: &'c Config, wanted: Option<&str>) -> anyhow::Result<Vec<&'c Listener>> {
    let Some(wanted) = wanted else { return Ok(config.listeners.iter().collect()) };
    let Some(listener) = config.listeners.iter().find(|listener| &*listener.name == wanted) else {
        let known = config.listeners.iter().map(|listener| &*listener.name);
        return Err(WrongUsage(format!("no listener is called `{wanted}`; {}", suggestion(wanted, known))).into());
    };
    Ok(vec![listener])
}

fn explain(config: &Config, listener: &Listener, args: &Args) -> String {
    let source = args.source.unwrap_or(SOMEWHERE);
    if !listener.sources.admits(source) {
        let reason = Reason::SourceDenied.label();
        return format!("decision: refused, {reason}, by the listener's own allow and deny, before the hello is read");
    }
    let explanation = listener.table.explain(&sent_name(args), &args.alpn, source);
    match explanation.decision() {
        Err(_) => explanation.to_string(),
        Ok(route) => {
            let upstream = &config.upstreams[route.upstream.0];
            let endpoints: Vec<_> = upstream.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
            format!("{explanation}\nupstream: {}, {}", upstream.name, endpoints.join(", "))
        }
    }
}

fn sent_name(args: &Args) -> Sni {
    args.server_name.as_ref().map_or(Sni::Absent, |name| Sni::from_wire(name.as_bytes()))
}
