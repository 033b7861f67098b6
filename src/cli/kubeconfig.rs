//! `snigate kubeconfig`: what users of a route write into their kubeconfig.

mod address;
mod authority;
mod file;
mod verify;
mod way;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::RUNTIME_FAILURE;
use crate::config::Config;
use crate::config::kubeconfig::{self, Entry};
use crate::hello::AlpnProtocol;
use crate::server_name::ServerName;
use address::PublicAddress;
use authority::Trust;
use way::Way;

/// What kubectl offers by ALPN.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Print the kubeconfig that leads through a route
///
/// Prints a cluster: the gate's public address, `tls-server-name` where the address is no name that the route takes, and
/// the authorities to believe. Credentials are the users' own: with --user a context ties the cluster to them. Standard
/// output is the kubeconfig and nothing else; what there is to say about it goes to standard error.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The route that users are to take
    #[arg(value_name = "ROUTE")]
    route: String,
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Where users reach the gate [default: the route's first name, and the port of its listener]
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Option<PublicAddress>,
    /// The name that users send; needed for a route that takes wildcards only [default: the host, or the route's first name]
    #[arg(long, value_name = "NAME")]
    server_name: Option<ServerName>,
    /// The listener that users connect to, where the route has several ports
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The authorities to believe, in PEM [default: `ca_file` of the upstream's health check]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// What the cluster is called in the kubeconfig [default: the route's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Add a context, called as the cluster is, for this user of the kubeconfig
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Add it to this kubeconfig in place of printing it; all that is there stays, comments included
    ///
    /// Whatever already says the same is left alone; a cluster or context of the same name that says something else is an
    /// error. The file is replaced in one step and keeps its mode and owner. The current context stays what it is.
    #[arg(long, value_name = "FILE")]
    merge: Option<PathBuf>,
    /// First connect through the public address and say what kubectl would see; no kubeconfig if it would not get through
    ///
    /// Makes a real TLS connection, and says which certificate came and whose it is, whether it covers the name, which `tls-server-name` would work, and how
    /// a gate refused. The exit code is 1 if kubectl would not get through, and then nothing is printed or added.
    #[arg(long)]
    verify: bool,
}

/// Prints, or adds to a file.
///
/// # Errors
/// When the configuration is wrong, does not say enough, or what there is to write cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let way = Way::find(&config, args)?;
    let trust = Trust::of(&config.upstreams[way.route.upstream.0], args)?;
    for note in notes(&way).iter().chain(&trust.notes()) {
        eprintln!("note: {note}");
    }
    if args.verify {
        let findings = verify::verify(&way, &trust)?;
        eprint!("{}", findings.text);
        if !findings.well {
            return Ok(ExitCode::from(RUNTIME_FAILURE));
        }
    }
    let entries = entries(&way, &trust, args);
    match &args.merge {
        None => write!(io::stdout(), "{}", kubeconfig::print(&entries))?,
        Some(file) => merge(file, &entries)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn merge(file: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let name = file.display();
    let edit = |text: Option<&str>| match text {
        None => Ok(kubeconfig::print(entries)),
        Some(text) => Ok(kubeconfig::merge(text, entries)?),
    };
    let changed = file::update(file, edit).with_context(|| name.to_string())?;
    let entries = entries.iter().map(Entry::to_string).collect::<Vec<_>>().join(" and ");
    if changed {
        eprintln!("{name} now has {entries}");
    } else {
        eprintln!("{name} has {entries} already");
    }
    Ok(())
}

fn entries(way: &Way<'_>, trust: &Trust, args: &Args) -> Vec<Entry> {
    let name = args.name.as_deref().unwrap_or(&way.route.name);
    let tls_server_name = way.tls_server_name().map(ToString::to_string);
    let cluster = Entry::cluster(name, way.url(), tls_server_name, trust.embedded());
    // Not a user as well: one without credentials is no skeleton but somebody whom kubectl asks for a password.
    let context = args.user.as_ref().map(|user| Entry::context(name, name, user));
    [cluster].into_iter().chain(context).collect()
}

/// What a reader of the configuration may not expect.
fn notes(way: &Way<'_>) -> Vec<String> {
    let (route, listener) = (&way.route.name, &way.listener.name);
    let mut notes = Vec::new();
    if way.sent.is_none() {
        let host = &way.host;
        notes.push(format!("kubectl sends no server name to an address: the certificate must cover {host} itself"));
    }
    let rivals: Vec<&str> = way.rivals().map(|rival| &*rival.name).collect();
    if !rivals.is_empty() {
        let rivals = rivals.join(", ");
        notes.push(format!("by their source or protocols users may also be led to {rivals}, which take the same"));
    }
    let offered = |protocol: &AlpnProtocol| PROTOCOLS.contains(&protocol.as_bytes());
    if !way.route.alpn.is_empty() && !way.route.alpn.iter().any(offered) {
        notes.push(format!("route {route} takes none of the protocols that kubectl offers, h2 and http/1.1"));
    }
    if way.listener.proxy_protocol.is_some() {
        notes.push(format!(
            "listener {listener} requires PROXY headers: users come through the balancer that sends them"
        ));
    }
    notes
}
