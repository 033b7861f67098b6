//! The process: a configuration becomes running upstreams and workers that accept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::process::{Resource, getrlimit};
use tokio::sync::watch;

use crate::config::{self, Config};
use crate::connection::Ids;
use crate::control;
use crate::crew::Crew;
use crate::limits::{DoesNotFit, Limits, Plan};
use crate::listener;
use crate::observe::access_log::AccessLog;
use crate::routing::UpstreamId;
use crate::upstream::certificate::RouteNames;
use crate::upstream::{Keeper, Running};
use crate::worker::{self, Equipment};

/// A running gate.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<(Arc<str>, SocketAddr)>,
    plan: Plan,
    threads: Vec<JoinHandle<()>>,
    /// Kept up to date for as long as they are here.
    _upstreams: Vec<Running>,
    /// The threads run for as long as it is there.
    running: watch::Sender<()>,
    log: AccessLog,
}

/// Why a gate could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be bound.
    #[error("listener {listener}: cannot listen on {address}{}", remedy(source))]
    Bind {
        /// The listener's name.
        listener: Arc<str>,
        /// The address as configured.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no room for so many connections.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// A thread or its runtime cannot be made.
    #[error("cannot start a thread")]
    Worker(#[from] io::Error),
}

fn cannot_bind(listener: &config::Listener) -> impl FnOnce(io::Error) -> StartError {
    let (listener, address) = (Arc::clone(&listener.name), listener.address.socket_addr());
    move |source| StartError::Bind { listener, address, source }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: `ss -tlnp` names it)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE: `setcap cap_net_bind_service=+ep` on the binary, or root)"
        }
        io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        _ => "",
    }
}

impl Server {
    /// Binds every listener for every worker, then starts the workers; returns when all of them accept.
    ///
    /// # Errors
    /// When there is no room for the connections, an address cannot be bound, or a worker cannot start; nothing runs then.
    pub fn start(config: &Config, log: AccessLog) -> Result<Self, StartError> {
        let workers = config.workers.get();
        let (running, keepers): (Vec<_>, Vec<_>) = config
            .upstreams
            .iter()
            .enumerate()
            .map(|(place, upstream)| Keeper::of(upstream, RouteNames::of(&config.routes, UpstreamId(place))))
            .unzip();
        let plan = Plan::of(config, getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))?;
        let limits = Arc::new(Limits::new(config, &plan));
        let mut addresses = Vec::new();
        let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        config.listeners.iter().try_for_each(|listener| listener::probe(listener).map_err(cannot_bind(listener)))?;
        for listener in &config.listeners {
            let (address, group) = listener::bind(listener, workers).map_err(cannot_bind(listener))?;
            addresses.push((Arc::clone(&listener.name), address));
            sockets.iter_mut().zip(group).for_each(|(own, socket)| own.push(socket));
        }
        let listeners: Vec<_> = config.listeners.iter().cloned().map(Arc::new).collect();
        let mut server =
            Self { addresses, plan, threads: Vec::new(), _upstreams: running, running: watch::Sender::new(()), log };
        server.threads.push(control::start(keepers, &config.dns, server.running.subscribe())?);
        for (number, (sockets, crew)) in sockets.into_iter().zip(Crew::of(workers)).enumerate() {
            let equipment = Equipment {
                listeners: listeners.clone(),
                sockets,
                crew,
                upstreams: server._upstreams.iter().map(|running: &Running| Arc::clone(running.upstream())).collect(),
                limits: (Arc::clone(&limits), server.plan.share()),
                max_connections: server.plan.connections(),
                log: server.log.clone(),
                ids: Ids::of_worker(number),
            };
            server.threads.push(worker::start(number, equipment, server.running.subscribe())?);
        }
        Ok(server)
    }

    /// Each listener's name and the address it really has: with port 0, the port that the kernel chose.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// How many connections there may be, and what that takes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Stops accepting, ends what is open with the reason `drained`, and returns when all of it is closed and logged.
    pub fn stop(self) {
        drop(self.running);
        for thread in self.threads {
            let name = thread.thread().name().map(str::to_owned);
            if thread.join().is_err() {
                tracing::error!(name, "a thread ended by a panic");
            }
        }
        self.log.flush();
    }
}
