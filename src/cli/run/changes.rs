//! Other configurations: who wants the file taken over, and the attempt that is under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval};

use crate::admin::{Asked, Known};
use crate::config::files::FileWatch;
use crate::server::Orders;

/// How often it is looked whether the configuration file has become another one; it must have stood still in between.
const LOOK: Duration = Duration::from_secs(1);

/// What has the file taken over.
pub(super) struct Changes {
    watch: FileWatch,
    looks: Interval,
    asked: UnboundedReceiver<Asked>,
    /// Why it is to be taken over, if it is.
    wanted: Option<&'static str>,
    /// Who wants to hear what comes of it.
    askers: Vec<Asked>,
    /// One attempt at most, which says whether the file is in force.
    under_way: JoinSet<bool>,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum News {
    /// There may be something to [begin](Changes::begin).
    Wanted,
    /// An attempt has ended.
    Ended {
        /// Whether what the file says is in force now.
        in_force: bool,
    },
}

impl Changes {
    /// By what `watch` sees, and by whoever asks. To be called within a runtime.
    pub(super) fn new(watch: FileWatch, asked: UnboundedReceiver<Asked>) -> Self {
        let (looks, under_way) = (interval(LOOK), JoinSet::new());
        Self { watch, looks, asked, wanted: None, askers: Vec::new(), under_way }
    }

    /// Somebody else wants it, too.
    pub(super) fn want(&mut self, cause: &'static str) {
        self.wanted = Some(cause);
    }

    /// Waits for what happens next, also while an attempt is under way.
    pub(super) async fn next(&mut self) -> News {
        tokio::select! {
            Some(asker) = self.asked.recv() => {
                self.askers.push(asker);
                self.want("asked for by the admin server");
            }
            Some(ended) = self.under_way.join_next() => return News::Ended { in_force: ended.unwrap_or(false) },
            _ = self.looks.tick() => {
                if self.watch.has_changed() {
                    self.wanted.get_or_insert("the file has changed");
                }
            }
        }
        News::Wanted
    }

    /// Begins an attempt if one is wanted. Who wants one while another is under way gets one of their own: that one may have
    /// read the file already. Whether it has begun.
    pub(super) fn begin(&mut self, known: &Arc<Known>, orders: &Orders) -> bool {
        let Some(cause) = self.wanted.take_if(|_| self.under_way.is_empty()) else { return false };
        let (known, orders, askers) = (Arc::clone(known), orders.clone(), std::mem::take(&mut self.askers));
        self.under_way.spawn_local(async move {
            let outcome = known.file.take_over(&orders, cause).await;
            // Who asked may have gone.
            askers.into_iter().for_each(|asker| drop(asker.send(outcome.clone())));
            outcome.is_ok()
        });
        true
    }
}
