//! The control thread: everything that is not a connection. It keeps the upstreams up to date.

use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config;
use crate::upstream::Keeper;
use crate::upstream::names::Names;

/// Starts the thread. It ends when the sender of `stop` is gone.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(keepers: Vec<Keeper>, dns: &config::Dns, stop: watch::Receiver<()>) -> io::Result<JoinHandle<()>> {
    let (started, start) = mpsc::sync_channel(1);
    let names = Names::new(dns);
    let thread = thread::Builder::new().name("control".into()).spawn(move || {
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(control(keepers, names, stop));
                // Does not wait for what nobody waits for any more.
                runtime.shutdown_background();
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    start.recv().map_err(|_| io::Error::other("the control thread ended before it started"))??;
    Ok(thread)
}

async fn control(keepers: Vec<Keeper>, names: Names, mut stop: watch::Receiver<()>) {
    let names = Rc::new(names);
    let mut keeping = JoinSet::new();
    for keeper in keepers {
        keeping.spawn_local(keeper.keep(Rc::clone(&names)));
    }
    loop {
        tokio::select! {
            Some(ended) = keeping.join_next() => {
                if ended.is_err() {
                    tracing::error!("an upstream is not kept up to date any more");
                }
            }
            _ = stop.changed() => return,
        }
    }
}
