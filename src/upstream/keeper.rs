//! Keeps one upstream up to date, on the control thread: hears what names, probes and connects say, and publishes a new
//! choice when it has changed by that.

use std::collections::HashMap;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Upstream;
use super::balance::any_seed;
use super::certificate::RouteNames;
use super::names::Names;
use super::roster::{News, Roster};
use super::watching::Watches;
use crate::config::{self, EndpointAddress};

/// What keeps an upstream up to date while [`Keeper::keep`] runs.
#[derive(Debug)]
pub struct Keeper {
    upstream: Arc<Upstream>,
    roster: Roster,
    news: UnboundedReceiver<News>,
    teller: UnboundedSender<News>,
    orders: UnboundedReceiver<Order>,
    config: config::Upstream,
    /// The configured endpoints that are names, each with what looks it up and what has it looked up again.
    names: HashMap<EndpointAddress, (AbortHandle, Arc<Notify>)>,
    watches: Watches,
}

/// A running upstream, from where it is configured. Once this is dropped it is not kept up to date any more.
#[derive(Debug)]
pub struct Running {
    upstream: Arc<Upstream>,
    orders: UnboundedSender<Order>,
}

/// The upstream is to be configured anew.
#[derive(Debug)]
struct Order {
    config: config::Upstream,
    routes: RouteNames,
    done: oneshot::Sender<Arc<Upstream>>,
}

impl Running {
    /// What workers use.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Configures it anew. Endpoints that are still there keep their connections, health and ejection. Whoever uses the
    /// [`Running::upstream`] from before finds it as it was, and not kept up to date any more.
    pub async fn change(&mut self, config: config::Upstream, routes: RouteNames) {
        let (done, changed) = oneshot::channel();
        // Its keeper is there for as long as this is, unless it panicked, which was told then.
        if self.orders.send(Order { config, routes, done }).is_ok()
            && let Ok(upstream) = changed.await
        {
            self.upstream = upstream;
        }
    }
}

impl Keeper {
    /// An upstream as configured, and its keeper. Endpoints that are addresses are there at once; what certificates they
    /// show is compared with the names of `routes`.
    pub fn of(config: &config::Upstream, routes: RouteNames) -> (Running, Self) {
        let (teller, news) = unbounded_channel();
        let (sender, orders) = unbounded_channel();
        let roster = Roster::new(config, any_seed());
        let upstream = Arc::new(Upstream::new(config, roster.choice(), teller.clone()));
        let watches = Watches::new(config, routes);
        let running = Running { upstream: Arc::clone(&upstream), orders: sender };
        let (config, names) = (config.clone(), HashMap::new());
        (running, Self { upstream, roster, news, teller, orders, config, names, watches })
    }

    /// Keeps the upstream up to date until its [`Running`] is dropped.
    pub async fn keep(mut self, names: Rc<Names>) {
        let mut tasks = JoinSet::new();
        loop {
            self.follow_names(&names, &mut tasks);
            self.watches.follow(self.roster.probed(), &self.teller, &mut tasks);
            let release = self.roster.next_release();
            let ejection_is_over = async {
                match release {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let changed = tokio::select! {
                biased;
                order = self.orders.recv() => {
                    let Some(Order { config, routes, done }) = order else { return };
                    self.change(config, routes);
                    // Who gave the order may have gone.
                    let _ = done.send(Arc::clone(&self.upstream));
                    false
                }
                Some(news) = self.news.recv() => self.hear_all(news),
                () = ejection_is_over => self.roster.release(Instant::now()),
                Some(ended) = tasks.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        tracing::error!(upstream = %self.upstream.name, "an endpoint is not followed any more");
                    }
                    false
                }
            };
            if changed {
                self.upstream.publish(self.roster.choice());
            }
        }
    }

    fn change(&mut self, config: config::Upstream, routes: RouteNames) {
        // What was told of the endpoints as they were asked until now must not count as told of them from now on.
        while let Ok(news) = self.news.try_recv() {
            self.roster.hear(news, Instant::now());
        }
        self.watches.change(&config, routes);
        if self.config == config {
            self.upstream.publish(self.roster.choice());
            return;
        }
        // Nobody publishes a choice there any more: who waits for one is to come again.
        self.upstream.publish(self.roster.choice().grown_old());
        self.roster.change(&config, Instant::now());
        self.upstream = Arc::new(Upstream::new(&config, self.roster.choice(), self.teller.clone()));
        self.config = config;
    }

    /// Looks up the names that are configured, and no others.
    fn follow_names(&mut self, names: &Rc<Names>, tasks: &mut JoinSet<()>) {
        let mut before = std::mem::take(&mut self.names);
        for endpoint in
            self.config.endpoints.iter().filter(|endpoint| !matches!(endpoint.address, EndpointAddress::Ip(_)))
        {
            let what = &endpoint.address;
            let followed = before.remove(what).unwrap_or_else(|| {
                let (names, teller, nudge) = (Rc::clone(names), self.teller.clone(), Arc::<Notify>::default());
                let (name, nudged) = (what.clone(), Arc::clone(&nudge));
                let task = tasks.spawn_local(async move {
                    let told = |addresses| {
                        // Nobody listens any more only when this is about to be dropped.
                        let _ = teller.send(News::Resolved { of: name.clone(), addresses });
                    };
                    names.follow(&name, &nudged, told).await;
                });
                (task, nudge)
            });
            self.names.insert(what.clone(), followed);
        }
        before.into_values().for_each(|(gone, _)| gone.abort());
    }

    /// News that came together make one new choice.
    fn hear_all(&mut self, first: News) -> bool {
        let now = Instant::now();
        let mut changed = false;
        let mut next = Some(first);
        while let Some(news) = next {
            if matches!(news, News::Failed { .. }) {
                self.names.values().for_each(|(_, nudge)| nudge.notify_one());
            }
            changed |= self.roster.hear(news, now);
            next = self.news.try_recv().ok();
        }
        changed
    }
}
