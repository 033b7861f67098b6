//! Keeps one upstream up to date, on the control thread: hears what names, probes and connects say, and publishes a new
//! choice when it has changed by that.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::balance::any_seed;
use super::certificate::RouteNames;
use super::health::Health;
use super::names::{Names, Resolved};
use super::roster::{Found, News, Roster};
use super::watching::Watches;
use super::{Upstream, WAITING_FOR_EACH};
use crate::config::{self, EndpointAddress};

/// What keeps an upstream up to date while [`Keeper::keep`] runs.
#[derive(Debug)]
pub struct Keeper {
    upstream: Arc<Upstream>,
    roster: Roster,
    news: UnboundedReceiver<News>,
    teller: UnboundedSender<News>,
    /// The configured endpoints that are names: their number, the endpoint, and what has it looked up again.
    names: Vec<(usize, config::Endpoint, Arc<Notify>)>,
    watches: Watches,
}

impl Keeper {
    /// An upstream as configured, and its keeper. Endpoints that are addresses are there at once; what certificates they
    /// show is compared with the names of `routes`.
    pub fn of(config: &config::Upstream, routes: RouteNames) -> (Arc<Upstream>, Self) {
        let (teller, news) = unbounded_channel();
        let unprobed = Health::new(config.health_check.as_ref()).state();
        let mut roster = Roster::new(config, unprobed, any_seed());
        let mut names = Vec::new();
        for (entry, endpoint) in config.endpoints.iter().enumerate() {
            match endpoint.address {
                EndpointAddress::Ip(address) => {
                    let resolved = Resolved { address, target: address.to_string().into(), weight: 1, priority: 0 };
                    roster.hear(News::Found { entry, addresses: found(endpoint, vec![resolved]) }, Instant::now());
                }
                EndpointAddress::Name(..) | EndpointAddress::Service(_) => {
                    names.push((entry, endpoint.clone(), Arc::default()));
                }
            }
        }
        let upstream = Arc::new(Upstream {
            name: Arc::clone(&config.name),
            choice: ArcSwap::from_pointee(roster.choice()),
            changed: Notify::new(),
            news: teller.clone(),
            turns: Semaphore::new(config.max_connecting.get()),
            waiting: AtomicUsize::new(0),
            max_waiting: config.max_connecting.get() * WAITING_FOR_EACH,
            connect_timeout: config.connect_timeout,
            attempts: config.attempts.get(),
            user_timeout: config.user_timeout.into(),
        });
        let watches = Watches::new(config, routes);
        let keeper = Self { upstream: Arc::clone(&upstream), roster, news, teller, names, watches };
        (upstream, keeper)
    }

    /// Keeps the upstream up to date until this is dropped.
    pub async fn keep(mut self, names: Rc<Names>) {
        let mut tasks = JoinSet::new();
        self.follow_names(&names, &mut tasks);
        loop {
            self.watches.follow(self.roster.endpoints(), &self.teller, &mut tasks);
            let release = self.roster.next_release();
            let ejection_is_over = async {
                match release {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let changed = tokio::select! {
                news = self.news.recv() => {
                    let Some(news) = news else { return };
                    self.hear_all(news)
                }
                () = ejection_is_over => self.roster.release(Instant::now()),
                Some(ended) = tasks.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        tracing::error!(upstream = %self.upstream.name, "an endpoint is not followed any more");
                    }
                    false
                }
            };
            if changed {
                self.upstream.choice.store(Arc::new(self.roster.choice()));
                self.upstream.changed.notify_waiters();
            }
        }
    }

    fn follow_names(&self, names: &Rc<Names>, tasks: &mut JoinSet<()>) {
        for (entry, endpoint, nudge) in self.names.clone() {
            let (names, teller) = (Rc::clone(names), self.teller.clone());
            tasks.spawn_local(async move {
                let told = |resolved| {
                    // Nobody listens any more only when this is about to be dropped.
                    let _ = teller.send(News::Found { entry, addresses: found(&endpoint, resolved) });
                };
                names.follow(&endpoint.address, &nudge, told).await;
            });
        }
    }

    /// News that came together make one new choice.
    fn hear_all(&mut self, first: News) -> bool {
        let now = Instant::now();
        let mut changed = false;
        let mut next = Some(first);
        while let Some(news) = next {
            if matches!(news, News::Failed { .. }) {
                self.names.iter().for_each(|(.., nudge)| nudge.notify_one());
            }
            changed |= self.roster.hear(news, now);
            next = self.news.try_recv().ok();
        }
        changed
    }
}

/// What a configured endpoint's addresses are as members. SRV records bring their own weights, and those of any priority
/// but the first are backups.
fn found(endpoint: &config::Endpoint, resolved: Vec<Resolved>) -> Vec<Found> {
    let first = resolved.iter().map(|one| one.priority).min();
    let is_service = matches!(endpoint.address, EndpointAddress::Service(_));
    let one = |Resolved { address, target, weight, priority }| Found {
        address,
        target,
        weight: if is_service { weight } else { endpoint.weight },
        backup: endpoint.backup || Some(priority) > first,
    };
    resolved.into_iter().map(one).collect()
}
