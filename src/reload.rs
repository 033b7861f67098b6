//! From one configuration to the next: what stays is left alone, what is new is there before the swap, and what goes is
//! closed after it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::config::{self, Config, Difference, ListenAddress};
use crate::given::{Given, Held, Listening};
use crate::limits::{Limits, Plan};
use crate::listener;
use crate::routing::UpstreamId;
use crate::snapshot::{Door, Snapshot};
use crate::upstream::certificate::RouteNames;
use crate::upstream::{Keeper, Running};
use crate::worker::{Opening, Order};

/// A listener's address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot listen on {address}{}", remedy(source))]
pub struct CannotBind {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The address as configured.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
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

/// The configuration in force, and everything that runs for it.
#[derive(Debug)]
pub struct InForce {
    config: Arc<Config>,
    plan: Plan,
    /// In the order of the configured listeners.
    bound: Vec<Bound>,
    /// In the order of the configured upstreams.
    upstreams: Vec<Running>,
    limits: Arc<Limits>,
    current: Arc<ArcSwap<Snapshot>>,
    workers: Vec<UnboundedSender<Order>>,
    next_door: usize,
}

/// A listener's sockets.
#[derive(Debug)]
struct Bound {
    name: Arc<str>,
    wanted: (ListenAddress, bool),
    door: Door,
    address: SocketAddr,
    closing: watch::Sender<Option<Arc<Snapshot>>>,
    /// For as long as workers accept from them.
    copies: Vec<Weak<OwnedFd>>,
    by_service_manager: bool,
}

/// A listener's sockets that no worker has yet.
struct NewlyBound {
    /// The address that it really has.
    address: SocketAddr,
    sockets: Vec<(TcpListener, Arc<OwnedFd>)>,
    by_service_manager: bool,
}

/// What a change came to.
#[derive(Debug)]
pub struct Changed {
    /// What is another than before.
    pub difference: Difference,
    /// Each listener's name and the address it really has.
    pub addresses: Vec<(Arc<str>, SocketAddr)>,
}

impl InForce {
    /// Binds every listener that was not given sockets, for each of these workers, and makes the upstreams, each with what
    /// keeps it up to date.
    ///
    /// # Errors
    /// When an address cannot be bound; nothing is bound then.
    pub fn start(
        config: &Config,
        plan: Plan,
        workers: Vec<UnboundedSender<Order>>,
        given: Given,
    ) -> Result<(Self, Vec<Keeper>), CannotBind> {
        let limits = Arc::new(Limits::new(config, &plan));
        let config = Arc::new(config.clone());
        let nothing = Snapshot::new(&config, [], Vec::new(), Arc::clone(&limits));
        let mut in_force = Self {
            config: Arc::clone(&config),
            plan,
            bound: Vec::new(),
            upstreams: Vec::new(),
            limits,
            current: Arc::new(ArcSwap::from_pointee(nothing)),
            workers,
            next_door: 0,
        };
        let new = in_force.bind(&config, given)?;
        let begun = config.upstreams.iter().enumerate();
        let (upstreams, keepers) =
            begun.map(|(place, upstream)| Keeper::of(upstream, route_names(&config, place))).unzip();
        in_force.upstreams = upstreams;
        in_force.swap(new);
        Ok((in_force, keepers))
    }

    /// What is in force, for those who look at it whenever they begin something.
    pub fn current(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.current
    }

    /// Each listener's name and the address it really has: with port 0, the port that the kernel chose.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.bound.iter().map(|bound| (Arc::clone(&bound.name), bound.address)).collect()
    }

    /// Puts another configuration in force. Listeners whose address is still wanted keep their sockets, and endpoints
    /// their connections and all that is known of them. Returns what keeps the new upstreams up to date.
    ///
    /// # Errors
    /// When a new address cannot be bound; nothing has changed then.
    pub async fn change(&mut self, mut config: Config) -> Result<(Changed, Vec<Keeper>), CannotBind> {
        let difference = Difference::between(&self.config, &config);
        config.keep_what_needs_a_restart(&self.config);
        let new = self.bind(&config, Given::default())?;
        let mut before = std::mem::take(&mut self.upstreams);
        let mut keepers = Vec::new();
        for (place, upstream) in config.upstreams.iter().enumerate() {
            let routes = route_names(&config, place);
            let known = before.iter().position(|running| running.upstream().name == upstream.name);
            self.upstreams.push(match known.map(|at| before.swap_remove(at)) {
                Some(mut running) => {
                    running.change(upstream.clone(), routes).await;
                    running
                }
                None => {
                    let (running, keeper) = Keeper::of(upstream, routes);
                    keepers.push(keeper);
                    running
                }
            });
        }
        self.limits = Arc::new(self.limits.changed(&config, &self.plan));
        self.config = Arc::new(config);
        self.swap(new);
        Ok((Changed { difference, addresses: self.addresses() }, keepers))
    }

    /// The sockets of every listener from which somebody accepts.
    pub fn sockets(&self) -> Vec<Held> {
        let copies = |bound: &Bound| bound.copies.iter().filter_map(Weak::upgrade).collect();
        let listeners = self.config.listeners.iter().zip(&self.bound);
        listeners.map(|(listener, bound)| (Listening::of(listener), copies(bound))).collect()
    }

    /// The sockets of each configured listener that has none yet: those it was given, or one for each worker.
    fn bind(&self, config: &Config, mut given: Given) -> Result<Vec<Option<NewlyBound>>, CannotBind> {
        let has = |listener: &config::Listener| self.bound.iter().any(|bound| bound.is_for(listener));
        let is_new = config.listeners.iter().map(|listener| (!has(listener)).then_some(listener));
        let wanted: Vec<_> = is_new.map(|new| new.map(|listener| (listener, given.take_for(listener)))).collect();
        // All of them first: nothing is to be bound in vain.
        for (listener, (sockets, _)) in wanted.iter().flatten() {
            let port = listener.address.socket_addr().port();
            // Where a listener of ours still has the port, nobody else can have it.
            if sockets.is_empty() && !self.bound.iter().any(|bound| bound.address.port() == port) {
                listener::probe(listener).map_err(cannot_bind(listener))?;
            }
        }
        let bind = |(listener, (sockets, by_service_manager))| {
            NewlyBound::of(listener, sockets, by_service_manager, self.workers.len()).map_err(cannot_bind(listener))
        };
        wanted.into_iter().map(|wanted| wanted.map(bind).transpose()).collect()
    }

    /// Puts what is configured now in force: opens the doors that are `new`, and closes those that nobody has any more.
    fn swap(&mut self, new: Vec<Option<NewlyBound>>) {
        let mut before = std::mem::take(&mut self.bound);
        let mut openings = Vec::new();
        for (listener, new) in self.config.listeners.iter().zip(new) {
            let known = before.iter().position(|bound| bound.is_for(listener)).map(|at| before.swap_remove(at));
            let mut bound = match (known, new) {
                (Some(known), _) => known,
                (None, new) => {
                    let new = new.unwrap_or_else(|| NewlyBound::nothing(listener));
                    let bound = Bound::new(listener, Door(self.next_door), &new);
                    self.next_door += 1;
                    openings.push((bound.door, bound.closing.subscribe(), new.sockets));
                    bound
                }
            };
            bound.name = Arc::clone(&listener.name);
            self.bound.push(bound);
        }
        let snapshot = Snapshot::new(
            &self.config,
            self.bound.iter().map(|bound| bound.door),
            self.upstreams.iter().map(|running| Arc::clone(running.upstream())).collect(),
            Arc::clone(&self.limits),
        );
        let last = self.current.swap(Arc::new(snapshot));
        for (door, closing, sockets) in openings {
            // Those that were given may be one alone for each listener: not all of them to the same worker.
            let workers = self.workers.iter().cycle().skip(door.0 % self.workers.len());
            for (worker, (socket, copy)) in workers.zip(sockets) {
                // A worker that is gone has told why, and the others accept.
                let _ = worker.send(Order::Open(Opening { door, socket, copy, closing: closing.clone() }));
            }
        }
        for worker in &self.workers {
            let _ = worker.send(Order::DecideAgain);
        }
        for gone in before {
            if gone.by_service_manager {
                let (listener, address) = (&gone.name, gone.address);
                tracing::warn!(%listener, %address, "the service manager still listens there: stop its socket too");
            }
            gone.closing.send_replace(Some(Arc::clone(&last)));
        }
    }
}

impl Bound {
    fn new(listener: &config::Listener, door: Door, new: &NewlyBound) -> Self {
        Self {
            name: Arc::clone(&listener.name),
            wanted: (listener.address, listener.v6_only),
            door,
            address: new.address,
            closing: watch::Sender::new(None),
            copies: new.sockets.iter().map(|(_, copy)| Arc::downgrade(copy)).collect(),
            by_service_manager: new.by_service_manager,
        }
    }

    /// Whether these are the sockets that the listener wants. With port 0 any will do, so that the name decides.
    fn is_for(&self, listener: &config::Listener) -> bool {
        let any_port = listener.address.socket_addr().port() == 0;
        self.wanted == (listener.address, listener.v6_only) && (!any_port || self.name == listener.name)
    }
}

impl NewlyBound {
    /// With the sockets that were given, or if there are none, one of its own for each worker.
    fn of(
        listener: &config::Listener,
        given: Vec<TcpListener>,
        by_service_manager: bool,
        workers: usize,
    ) -> io::Result<Self> {
        let (address, sockets) = match given.first() {
            None => listener::bind(listener, workers)?,
            Some(first) => {
                given.iter().try_for_each(listener::adopt)?;
                (first.local_addr()?, given)
            }
        };
        let with_copy = |socket: TcpListener| {
            let copy = socket.as_fd().try_clone_to_owned()?;
            Ok((socket, Arc::new(copy)))
        };
        let sockets = sockets.into_iter().map(with_copy).collect::<io::Result<_>>()?;
        Ok(Self { address, sockets, by_service_manager })
    }

    fn nothing(listener: &config::Listener) -> Self {
        Self { address: listener.address.socket_addr(), sockets: Vec::new(), by_service_manager: false }
    }
}

fn cannot_bind(listener: &config::Listener) -> impl FnOnce(io::Error) -> CannotBind {
    let (listener, address) = (Arc::clone(&listener.name), listener.address.socket_addr());
    move |source| CannotBind { listener, address, source }
}

fn route_names(config: &Config, place: usize) -> RouteNames {
    RouteNames::of(&config.routes, UpstreamId(place))
}
