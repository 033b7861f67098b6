//! The process: a configuration becomes running upstreams and workers that accept.

mod orders;
mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use crate::config::{Config, Drain};
use crate::control::{self, Order};
use crate::crew::Crew;
use crate::drain::{Remains, Stage, Stages, take_leave};
use crate::given::{Given, Held, UnfitSocket};
use crate::limits::{DoesNotFit, Plan, Seats};
use crate::observe::access_log::AccessLog;
use crate::observe::ids::Ids;
use crate::reload::{CannotBind, Changed, InForce};
use crate::upstream::names::Names;
use crate::watchdog::Watchdog;
use crate::worker::{self, Cursor, Equipment, LiveView};
pub use orders::{ConfigFile, Orders, Results};
pub use view::{Seen, View};

/// How often it is looked whether the workers have ended, of a process that takes its leave.
const CHECK: Duration = Duration::from_millis(5);

/// A running gate.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<(Arc<str>, SocketAddr)>,
    view: Arc<View>,
    orders: Orders,
    control: JoinHandle<()>,
    workers: Vec<JoinHandle<usize>>,
    live: LiveView,
    /// The threads run for as long as it is there.
    stage: watch::Sender<Stage>,
    /// Until it is started.
    watchdog: Option<Watchdog>,
    log: AccessLog,
}

/// Why a gate could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be bound.
    #[error(transparent)]
    Bind(#[from] CannotBind),
    /// There is no room for so many connections.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// A socket that was given is of no use.
    #[error(transparent)]
    Given(#[from] UnfitSocket),
    /// A thread or its runtime cannot be made.
    #[error("cannot start a thread")]
    Worker(#[from] io::Error),
}

/// Why another configuration was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A listener's address cannot be bound.
    #[error(transparent)]
    Bind(#[from] CannotBind),
    /// The control thread is not there any more.
    #[error("the process is stopping, or its control thread has ended")]
    Stopping,
}

impl Server {
    /// Binds every listener for every worker, then starts the workers; returns when all of them run.
    ///
    /// # Errors
    /// When there is no room for the connections, an address cannot be bound, or a worker cannot start; nothing runs then.
    pub fn start(config: &Config, log: AccessLog) -> Result<Self, StartError> {
        Self::start_with(Given::default(), config, log)
    }

    /// [`Server::start`], except that listeners with sockets in `given` accept from these.
    ///
    /// # Errors
    /// Also when one of the service manager's sockets is of no use.
    pub fn start_with(given: Given, config: &Config, log: AccessLog) -> Result<Self, StartError> {
        given.check(config)?;
        let plan = Plan::of(config, getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))?;
        let (workers, received): (Vec<_>, Vec<_>) = (0..config.workers.get()).map(|_| unbounded_channel()).unzip();
        let live = LiveView::of(&workers);
        let (in_force, keepers) = InForce::start(config, plan.clone(), workers, given)?;
        let current = Arc::clone(in_force.current());
        let (orders, control) = unbounded_channel();
        let addresses = in_force.addresses();
        let (stage, mut watchdog) = (watch::Sender::new(Stage::Open), Watchdog::default());
        let watched = watchdog.watch("control");
        let (names, crews) = (Names::new(&config.dns), Crew::of(config.workers.get()));
        let seen = |(crew, _): &(Crew, _)| Seen { open: crew.counter(), tally: Arc::default() };
        let view = Arc::new(View {
            current: Arc::clone(&current),
            plan,
            workers: crews.iter().map(seen).collect(),
            ages: names.ages(),
            log: log.clone(),
            started: SystemTime::now(),
            stages: stage.subscribe(),
        });
        let control = control::start(in_force, keepers, names, control, watched, stage.subscribe())?;
        let orders = Orders(orders);
        let mut server =
            Self { addresses, view, orders, live, control, workers: Vec::new(), stage, watchdog: None, log };
        let seats = Seats::of(server.plan().connections());
        for (number, (orders, crew)) in received.into_iter().zip(crews).enumerate() {
            let equipment = Equipment {
                current: Arc::clone(&current),
                orders,
                crew,
                share: server.plan().share(),
                seats: Arc::clone(&seats),
                tally: Arc::clone(&server.view.workers[number].tally),
                log: server.log.clone(),
                ids: Ids::of_worker(number),
                watched: watchdog.watch(format!("worker-{number}")),
            };
            let thread = worker::start(number, equipment, server.stages())?;
            server.workers.push(thread);
        }
        server.watchdog = Some(watchdog);
        Ok(server)
    }

    /// Each listener's name and the address it had at the start: with port 0, the port that the kernel chose.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// How many connections there may be, and what that takes.
    pub fn plan(&self) -> &Plan {
        &self.view.plan
    }

    /// What can be seen of it from outside.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// How far the process is on its way out.
    pub fn stages(&self) -> Stages {
        self.stage.subscribe()
    }

    /// The connections that are open.
    pub fn live(&self) -> &LiveView {
        &self.live
    }

    /// Puts another configuration in force. Nobody who is connected notices.
    ///
    /// # Errors
    /// Why it is not in force; the one from before is then, as it was.
    pub async fn reload(&self, config: Config) -> Result<Changed, ReloadError> {
        self.orders.reload(config).await
    }

    /// What gives orders to it.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// From now on, does `tell` at least once in each `interval` for as long as every thread gets to its work.
    ///
    /// # Errors
    /// When there is no thread for it to be had.
    pub fn watch(&mut self, interval: Duration, tell: impl Fn() + Send + 'static) -> io::Result<()> {
        self.watchdog.take().map_or(Ok(()), |watchdog| watchdog.start(interval, tell))
    }

    /// Asks for the sockets of every listener, from any thread that may wait for the answer; there are none when it stops.
    pub fn sockets(&self) -> impl Fn() -> Vec<Held> + Send + 'static + use<> {
        let orders = self.orders.0.clone();
        move || {
            let (done, sockets) = oneshot::channel();
            // Without a control thread the answer fails to come.
            let _ = orders.send(Order::Sockets(done));
            sockets.blocking_recv().unwrap_or_default()
        }
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.view.open()
    }

    /// Takes leave of everybody, within these times. When this returns there is nobody left to wait for; what remains is to
    /// [stop](Self::stop).
    pub async fn drain(&self, times: &Drain) {
        let gone = async {
            while !self.workers.iter().all(JoinHandle::is_finished) {
                sleep(CHECK).await;
            }
        };
        take_leave(&self.stage, times, || self.open(), async || self.remaining().await, gone).await;
    }

    /// What is open still, of all workers.
    async fn remaining(&self) -> Remains {
        let (mut remains, mut next) = (Remains::default(), Some(Cursor::default()));
        while let Some(here) = next {
            let page = self.live.page(here).await;
            page.rows.iter().for_each(|row| remains.add(row));
            next = page.next;
        }
        remains
    }

    /// Stops accepting, ends what is open with the reason `drained`, and returns when all of it is closed and logged: how many
    /// connections were drained while bytes were under way, or before they could end.
    pub fn stop(self) -> usize {
        drop(self.stage);
        let mut cut = 0;
        for thread in self.workers {
            cut += join(thread).unwrap_or_default();
        }
        join(self.control);
        self.log.flush();
        cut
    }
}

fn join<T>(thread: JoinHandle<T>) -> Option<T> {
    let name = thread.thread().name().map(str::to_owned);
    let result = thread.join().ok();
    if result.is_none() {
        tracing::error!(name, "a thread ended by a panic");
    }
    result
}
