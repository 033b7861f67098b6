//! The live connections of all workers, as other threads ask for them: a few at a time, so that no worker is held up.

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::Order;
use crate::observe::live::Row;

/// The way to look at live connections; clones look at the same.
#[derive(Clone, Debug)]
pub struct LiveView {
    workers: Arc<[UnboundedSender<Order>]>,
}

/// Where looking goes on. The default is where it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    worker: usize,
    place: usize,
}

/// Some live connections, 256 at most.
#[derive(Debug, Default)]
pub struct Page {
    /// They; there may be none, and others all the same.
    pub rows: Vec<Row>,
    /// Where the others are, if there may be others.
    pub next: Option<Cursor>,
}

impl LiveView {
    /// Of the connections that these workers have.
    pub fn of(workers: &[UnboundedSender<Order>]) -> Self {
        Self { workers: workers.into() }
    }

    /// The connections from here on. Every one that is there all the time is in one page; of those that come and go
    /// meanwhile some are.
    pub async fn page(&self, at: Cursor) -> Page {
        let ask = |reply| Order::Page { from: at.place, reply };
        // A worker that is gone has no connections.
        let (rows, next) = self.ask(at.worker, ask).await.unwrap_or_default();
        let here = next.map(|place| Cursor { place, ..at });
        let there = Cursor { worker: at.worker + 1, place: 0 };
        Page { rows, next: here.or((there.worker < self.workers.len()).then_some(there)) }
    }

    /// Has the connection close that is called so. Whether there was one.
    pub async fn close(&self, id: &str) -> bool {
        let id: Arc<str> = id.into();
        for worker in 0..self.workers.len() {
            if self.close_at(worker, &id).await {
                return true;
            }
        }
        false
    }

    async fn close_at(&self, worker: usize, id: &Arc<str>) -> bool {
        let mut from = 0;
        loop {
            let ask = |reply| Order::Close { id: Arc::clone(id), from, reply };
            match self.ask(worker, ask).await.unwrap_or(ControlFlow::Break(false)) {
                ControlFlow::Break(found) => return found,
                ControlFlow::Continue(place) => from = place,
            }
        }
    }

    /// The worker's answer. `None`: it is gone.
    async fn ask<T>(&self, worker: usize, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.workers.get(worker)?.send(order(reply)).ok()?;
        answer.await.ok()
    }
}
