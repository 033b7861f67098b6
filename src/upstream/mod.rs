//! Upstreams as they run: their endpoints, how each stands, the choice among them, and reaching the chosen one.
//!
//! Workers read an upstream's `Choice` and tell what became of their connects; its [`Keeper`], on the control
//! thread, hears that and what names and probes say, and publishes a new choice when one is due.

pub mod balance;
pub mod certificate;
mod choice;
mod connect;
mod ejection;
mod endpoint;
pub mod health;
mod keeper;
pub mod names;
pub mod probe;
mod roster;
mod sources;
mod watching;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::proxy_protocol::Version;
use choice::Choice;
pub use choice::Placed;
pub use connect::{ConnectError, Connection, UserTimeout, connect, keep_alive, limit_silence};
pub use endpoint::{Endpoint, Lease};
pub use keeper::{Keeper, Running};
use roster::News;
use sources::Sources;

use crate::config;

/// Clients that may wait for their turn to connect, for each that may connect at once.
const WAITING_FOR_EACH: usize = 1;

/// A named set of endpoints and how to reach them. Workers share it.
#[derive(Debug)]
pub struct Upstream {
    /// The name in the configuration.
    pub name: Arc<str>,
    choice: ArcSwap<Choice>,
    /// Wakes clients that wait for somebody to choose.
    changed: Notify,
    news: UnboundedSender<News>,
    /// Turns to connect.
    turns: Semaphore,
    max_connecting: usize,
    waiting: AtomicUsize,
    max_waiting: usize,
    sources: Sources,
    connect_timeout: Duration,
    attempts: usize,
    user_timeout: UserTimeout,
    /// The PROXY header that its endpoints expect before a client's first words.
    pub proxy_protocol: Option<Version>,
}

impl Upstream {
    fn new(config: &config::Upstream, choice: Choice, news: UnboundedSender<News>) -> Self {
        Self {
            name: Arc::clone(&config.name),
            choice: ArcSwap::from_pointee(choice),
            changed: Notify::new(),
            news,
            turns: Semaphore::new(config.max_connecting.get()),
            max_connecting: config.max_connecting.get(),
            waiting: AtomicUsize::new(0),
            max_waiting: config.max_connecting.get() * WAITING_FOR_EACH,
            sources: Sources::new(&config.source_addresses),
            connect_timeout: config.connect_timeout,
            attempts: config.attempts.get(),
            user_timeout: config.user_timeout.into(),
            proxy_protocol: config.proxy_protocol,
        }
    }

    /// Its endpoints, as they stand now.
    pub fn endpoints(&self) -> Vec<Placed> {
        self.choice.load().placed().to_vec()
    }

    /// Turns to connect that are taken, and clients that wait for one.
    pub fn connecting(&self) -> (usize, usize) {
        (self.max_connecting - self.turns.available_permits(), self.waiting.load(Ordering::Relaxed))
    }

    fn publish(&self, choice: Choice) {
        self.choice.store(Arc::new(choice));
        self.changed.notify_waiters();
    }

    /// The endpoint for the next attempt. Waits until `end`, if there is one, while names are being resolved or
    /// endpoints asked for proof for the first time.
    async fn pick(&self, source: IpAddr, tried: &[SocketAddr], end: Option<Instant>) -> Option<Arc<Endpoint>> {
        loop {
            // Asked for before the look, so that no change between the two is missed.
            let changed = self.changed.notified();
            let is_young = {
                let choice = self.choice.load();
                if let Some(endpoint) = choice.pick(source, tried) {
                    return Some(Arc::clone(endpoint));
                }
                choice.is_young
            };
            timeout_at(end.filter(|_| is_young)?, changed).await.ok()?;
        }
    }

    fn sibling(&self, of: &Endpoint, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        self.choice.load().sibling(of, tried).cloned()
    }

    /// A turn to connect. `None`: too many wait already, or it did not come before `end`.
    async fn turn(&self, end: Instant) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Some(turn);
        }
        let _place = Place::take(&self.waiting, self.max_waiting)?;
        timeout_at(end, self.turns.acquire()).await.ok()?.ok()
    }

    fn note_success(&self, endpoint: &Endpoint) {
        if endpoint.note_success() {
            self.tell(News::Reached { address: endpoint.address });
        }
    }

    fn note_failure(&self, endpoint: &Endpoint) {
        endpoint.note_failure();
        self.tell(News::Failed { address: endpoint.address });
    }

    /// Without a keeper, news are of no use to anybody.
    fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }
}

/// A place among those who wait.
struct Place<'u>(&'u AtomicUsize);

impl<'u> Place<'u> {
    fn take(waiting: &'u AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
