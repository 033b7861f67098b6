//! `snigate demo`: a gate with two TLS services behind it, all in this process, without a file or a network.

mod calls;
mod certificates;
mod service;

use crate::config::{Config, LogFormat};
use crate::observe::access_log::AccessLog;
use crate::server::Server;
use anyhow::{Context as _, ensure};
use calls::Call;
use certificates::{Authority, AuthorityFile};
use rustls::crypto::{CryptoProvider, ring};
use service::Service;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long `--once` waits for the log line of a call that has ended.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Try snigate without anything: two TLS services with certificates made on the spot, and the gate in front
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Make the calls itself, over TLS 1.2 and 1.3, and exit: 0 only if all went right
    #[arg(long)]
    once: bool,
}

/// What the demo consists of.
struct Stage {
    authority: Authority,
    alpha: Service,
    beta: Service,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        let alpha = Service::start("alpha", &["alpha.demo.snigate.test"], &authority).await?;
        let beta = Service::start("beta", &["beta.demo.snigate.test", "*.beta.demo.snigate.test"], &authority).await?;
        Ok(Self { authority, alpha, beta })
    }

    /// The gate's configuration, as an operator would write it.
    fn configuration(&self) -> String {
        let Self { alpha, beta, .. } = self;
        let names =
            |service: &Service| service.names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        format!(
            "listeners:
  - address: \"127.0.0.1:0\"        # 0: any free port
    name: demo
routes:
  - server_names: [{}]
    upstream: alpha
  - server_names: [{}]
    upstream: beta
upstreams:
  alpha: {{ endpoints: [\"{}\"] }}
  beta:  {{ endpoints: [\"{}\"] }}
",
            names(alpha),
            names(beta),
            alpha.address,
            beta.address,
        )
    }
}

/// Runs the demo until a signal ends it, or once.
///
/// # Errors
/// When something could not be started; a call of `--once` that went wrong is no error but exit code 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stage = runtime.block_on(Stage::set())?;
    if args.once { once(&runtime, &stage) } else { until_stopped(&runtime, &stage) }
}

/// The provider is always named: another one may be linked too, and rustls would then not know which is meant.
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn start_gate(stage: &Stage, sink: impl Write + Send + 'static) -> anyhow::Result<(Server, SocketAddr)> {
    let config = Config::parse(&stage.configuration())?;
    let server = Server::start(&config, AccessLog::new(LogFormat::Json, sink)?)?;
    let (_, address) = *server.addresses().first().context("the gate has no listener")?;
    Ok((server, address))
}

fn introduce(out: &mut impl Write, stage: &Stage, gate: SocketAddr) -> io::Result<()> {
    writeln!(out, "snigate demo: one gate, two TLS services, all in this process\n")?;
    writeln!(out, "  gate   {gate}")?;
    for service in [&stage.alpha, &stage.beta] {
        writeln!(out, "  {:<6} {}   <- {}", service.label, service.address, service.names.join(", "))?;
    }
    writeln!(out, "\nThe gate's configuration:\n")?;
    stage.configuration().lines().try_for_each(|line| writeln!(out, "  {line}"))
}

fn until_stopped(runtime: &Runtime, stage: &Stage) -> anyhow::Result<ExitCode> {
    // Before anything is announced, so that a signal at any time ends it well.
    let mut signals = runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()
    })?;
    let authority_file = AuthorityFile::create(&stage.authority.pem).context("writing the authority's certificate")?;
    let (server, gate) = start_gate(stage, io::stdout())?;
    let mut out = io::stdout();
    introduce(&mut out, stage, gate)?;
    suggest(&mut out, gate, authority_file.path())?;
    runtime.block_on(poll_fn(|context| {
        // Each is asked, so that each wakes us.
        let caught = signals.iter_mut().map(|signal| signal.poll_recv(context)).filter(Poll::is_ready).count();
        if caught > 0 { Poll::Ready(()) } else { Poll::Pending }
    }));
    server.stop();
    writeln!(out, "\nstopped")?;
    Ok(ExitCode::SUCCESS)
}

fn suggest(out: &mut impl Write, gate: SocketAddr, authority: &Path) -> io::Result<()> {
    let curl = format!("curl --cacert {} --connect-to ::{gate}", authority.display());
    writeln!(out, "\nTry, in another terminal:\n")?;
    for name in ["alpha.demo.snigate.test", "beta.demo.snigate.test", "any.beta.demo.snigate.test"] {
        writeln!(out, "  {curl} https://{name}/")?;
    }
    let s_client = format!("openssl s_client -brief -CAfile {} -connect {gate}", authority.display());
    writeln!(out, "  {s_client} -servername beta.demo.snigate.test </dev/null")?;
    writeln!(out, "\nand, to be refused:\n")?;
    writeln!(out, "  {curl} https://nobody.demo.snigate.test/")?;
    writeln!(out, "  curl --insecure https://{gate}/        # by address: such clients send no server name")?;
    writeln!(out, "\nOne access-log line a connection follows; Ctrl-C ends the demo.\n")
}

fn once(runtime: &Runtime, stage: &Stage) -> anyhow::Result<ExitCode> {
    let (sender, mut lines) = mpsc::unbounded_channel();
    let (server, gate) = start_gate(stage, LineSink { sender, partial: Vec::new() })?;
    let mut out = io::stdout();
    introduce(&mut out, stage, gate)?;
    let calls = calls::all(&stage.alpha, &stage.beta);
    let mut wrong = 0;
    for call in &calls {
        writeln!(out, "\n{call}")?;
        let reports = runtime.block_on(async {
            let made = call.make(gate, &stage.authority).await;
            [made, logged(call, &mut lines).await]
        });
        for report in reports {
            match report {
                Ok(report) => writeln!(out, "  {report}")?,
                Err(error) => {
                    wrong += 1;
                    writeln!(out, "  WRONG: {error:#}")?;
                }
            }
        }
    }
    server.stop();
    if wrong > 0 {
        writeln!(out, "\n{} calls, {wrong} WRONG", calls.len())?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "\n{} calls, all right", calls.len())?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the access-log line of a call that has been made, and looks whether it says the same.
async fn logged(call: &Call<'_>, lines: &mut mpsc::UnboundedReceiver<String>) -> anyhow::Result<String> {
    let line = tokio::time::timeout(LOG_PATIENCE, lines.recv()).await.ok().flatten().context("no line in the log")?;
    let expected = call.log_field();
    ensure!(line.contains(&expected), "the log does not say {expected}: {line}");
    Ok(format!("log {line}"))
}

/// Hands whole lines of the access log on, to be printed beside their calls.
struct LineSink {
    sender: mpsc::UnboundedSender<String>,
    partial: Vec<u8>,
}

impl Write for LineSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                // The receiver goes last of all, when nobody looks any more.
                let _ = self.sender.send(line);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
