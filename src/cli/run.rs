//! `snigate run`: the gate itself, until it is told to stop.

mod changes;
mod leave;
mod neighbours;
mod signals;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::AbortHandle;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::admin::{self, Guard, Known, Socket};
use crate::config::files::FileWatch;
use crate::config::{Config, Log, LogFormat};
use crate::observe::access_log::AccessLog;
use crate::observe::lines::Lines;
use crate::power;
use crate::server::{ConfigFile, Server};
use changes::{Changes, News};
use neighbours::Neighbours;
use signals::{Signals, Told};

/// Run the gate until SIGTERM or SIGINT
///
/// Each connection leaves a line in the access log on standard output when it ends; messages go to standard error. All
/// listeners are bound before the first connection is accepted. SIGTERM or SIGINT stops accepting, gives what is open time to
/// end, and closes the rest with a FIN to both sides, as `drain` has it; another stops at once. SIGHUP, or another content of
/// the file, puts the new configuration in force without touching a connection; one with a mistake changes nothing.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration is wrong, an address cannot be bound, or the process lacks what it needs to start.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // From before it is read: what is written to it while this process starts is another one.
    let watch = FileWatch::new(&args.config);
    let config = Config::load(&args.config)?;
    let mut neighbours = Neighbours::meet(&config)?;
    let socket = match config.admin.as_ref().and_then(|admin| neighbours.take_admin_socket(admin)) {
        // A local one cannot be made later, when that power is given up.
        None => Socket::local(config.admin.as_ref())?,
        taken => taken,
    };
    // Before the first thread, that of the log included: threads that are there already would keep their power.
    let given_up = power::give_up(&config, &args.config)?;
    if given_up.anything() {
        // Its files are read again while it runs: what can be read no more must show now.
        Config::load(&args.config)
            .context("what a running gate reads again must be readable with the power that it keeps")?;
    }
    let messages = start_messages(&config.log)?;
    given_up.log();
    let file = ConfigFile::new(&args.config, given_up);
    let code = serve(&config, socket, file, watch, &messages, neighbours);
    messages.flush();
    code
}

fn serve(
    config: &Config,
    socket: Option<Socket>,
    file: ConfigFile,
    watch: FileWatch,
    messages: &Lines,
    mut neighbours: Neighbours,
) -> anyhow::Result<ExitCode> {
    let path = file.path();
    for warning in &config.warnings {
        tracing::warn!(config = %path.display(), "{warning}");
    }
    raise_descriptor_limit();
    let log = match config.log.access {
        true => AccessLog::new(config.log.format, io::stdout()).context("cannot start the access log")?,
        false => AccessLog::off(),
    };
    let guard = config.admin.as_ref().map(Guard::of).transpose()?;
    let control = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let signals = control.block_on(async { Signals::install() })?;
    let mut server = Server::start_with(neighbours.take_sockets(), config, log)?;
    let plan = server.plan();
    tracing::info!(
        max_connections = plan.connections(),
        open_files = plan.sum(),
        memory = plan.memory(),
        "limits, computed from the configuration and the limit of open files"
    );
    for (listener, address) in server.addresses() {
        tracing::info!(%listener, %address, "listening");
    }
    let socket = config.admin.as_ref().map(|admin| Socket::of(admin, socket)).transpose()?;
    let held = config.admin.as_ref().zip(socket.as_ref()).map(|(admin, socket)| socket.held(admin)).transpose()?;
    neighbours.server_accepts(&mut server, held)?;
    let (reloads, asked) = unbounded_channel();
    let view = Arc::clone(server.view());
    let known = Arc::new(Known { view, file, messages: messages.clone(), reloads });
    let answering = socket.zip(guard).map(|(socket, guard)| {
        tracing::info!(address = socket.address(), "admin: listening");
        control.spawn_local(answer(socket, guard, Arc::clone(&known))).abort_handle()
    });
    let path = known.file.path().display();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = config.workers, config = %path, "ready");
    let code = control.block_on(async {
        let changes = Changes::new(watch, asked);
        operate(server, &known, changes, answering, neighbours, signals).await
    });
    // Does not wait for the stop that a second signal cut short.
    control.shutdown_background();
    code
}

/// Answers questions about the gate until it ends; without an answer it goes on.
async fn answer(socket: Socket, guard: Guard, known: Arc<Known>) {
    let Err(error) = admin::serve(socket, guard, known).await;
    tracing::error!(%error, "the admin server has ended");
}

/// Takes other configurations over until it is told to stop, and takes its leave then.
async fn operate(
    server: Server,
    known: &Arc<Known>,
    mut changes: Changes,
    answering: Option<AbortHandle>,
    mut neighbours: Neighbours,
    mut signals: Signals,
) -> anyhow::Result<ExitCode> {
    let mut grace = None;
    let cause = loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop(signal) => break signal.to_owned(),
                Told::Reload => changes.want("SIGHUP"),
            },
            version = neighbours.replaced() => {
                // Who comes is served by the newer one: there is nobody to wait for who has yet to notice.
                grace = Some(Duration::ZERO);
                // And so is who asks.
                answering.iter().for_each(AbortHandle::abort);
                break format!("snigate {version} has taken its place");
            }
            news = changes.next() => match news {
                News::Wanted => {}
                News::Ended { in_force } => neighbours.reload_ends(in_force),
            },
        }
        // Where a newer process is starting it waits, and is tried again at the next look.
        if !neighbours.is_being_replaced() && changes.begin(known, server.orders()) {
            neighbours.reload_begins();
        }
    };
    // Who asks for another configuration from now on hears that it is too late.
    drop(changes);
    neighbours.stop_begins(&cause);
    let mut times = known.view.current.load().config.drain;
    times.grace = grace.unwrap_or(times.grace);
    leave::leave(server, &cause, &times, &mut signals).await
}

/// Starts the program's own log, written by a thread so that a slow standard error holds nobody up.
fn start_messages(log: &Log) -> anyhow::Result<Lines> {
    let lines = Lines::to(io::stderr()).context("cannot start the log")?;
    let subscriber = fmt().with_max_level(log.level).with_ansi(false).with_writer(lines.clone());
    let own = own(log.level);
    match log.format {
        LogFormat::Json => subscriber.json().flatten_event(true).with_target(false).finish().with(own).init(),
        LogFormat::Text => subscriber.with_target(false).finish().with(own).init(),
    }
    Ok(lines)
}

/// Without what the resolver says of every datagram, also of those that strangers send it: its troubles are told by those
/// who ask it.
fn own(level: Level) -> Targets {
    Targets::new().with_default(level).with_target("hickory", LevelFilter::OFF)
}

/// Every connection takes two descriptors, and the customary soft limit of 1024 is for programs that use select(2).
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files to its hard limit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_our_messages_and_none_of_the_resolver() {
        let wanted = own(Level::INFO);
        assert!(wanted.would_enable("snigate::upstream::names", &Level::INFO));
        assert!(!wanted.would_enable("snigate::upstream::names", &Level::DEBUG));
        let talkative = own(Level::TRACE);
        for target in ["hickory_net::udp::udp_client_stream", "hickory_resolver::name_server_pool", "hickory_proto"] {
            assert!(!talkative.would_enable(target, &Level::ERROR), "{target}");
        }
        assert!(talkative.would_enable("snigate", &Level::TRACE));
    }
}
