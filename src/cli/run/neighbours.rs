//! Who is around the process: the service manager that started it, the process before it and the one that comes after.

use std::future::pending;
use std::sync::Arc;

use anyhow::Context;

use crate::admin::Socket;
use crate::config::{Admin, Config};
use crate::given::{Given, Held};
use crate::server::Server;
use crate::supervisor::{Supervisor, watchdog_interval};
use crate::upgrade::{Next, Upgrade};

/// What there is to be had from them, and how they are told.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    supervisor: Arc<Supervisor>,
    /// Why the service manager hears nothing.
    unheard: Option<String>,
    given: Given,
    upgrade: Option<Upgrade>,
    next: Option<Next>,
}

impl Neighbours {
    /// Finds them. To be called before power is given up: afterwards they are out of reach.
    ///
    /// # Errors
    /// When there is one that has listening sockets for this process, and they are not to be had.
    pub(super) fn meet(config: &Config) -> anyhow::Result<Self> {
        let mut neighbours = Self { given: Given::by_service_manager()?, ..Self::default() };
        match Supervisor::of_environment() {
            Ok(supervisor) => neighbours.supervisor = Arc::new(supervisor),
            Err(error) => neighbours.unheard = Some(error.to_string()),
        }
        if let Some(path) = &config.upgrade_socket {
            let of_no_use = || format!("upgrade_socket: {} is of no use", path.display());
            let (upgrade, taken) = Upgrade::begin(path).with_context(of_no_use)?;
            neighbours.given.add(taken, config).with_context(of_no_use)?;
            neighbours.upgrade = Some(upgrade);
        }
        Ok(neighbours)
    }

    /// The socket at which the process before answers questions, if this one is to answer there.
    pub(super) fn take_admin_socket(&mut self, admin: &Admin) -> Option<Socket> {
        Socket::given(self.given.take_admin(&admin.address)?, admin)
    }

    /// The listening sockets that they gave.
    pub(super) fn take_sockets(&mut self) -> Given {
        std::mem::take(&mut self.given)
    }

    /// Tells everybody that the server accepts: the process before goes, the one after may come, which gets the `admin`
    /// socket too, and whoever supervises this one hears that it is alive for as long as all of its threads are.
    ///
    /// # Errors
    /// When there is no thread for it to be had.
    pub(super) fn server_accepts(&mut self, server: &mut Server, admin: Option<Held>) -> anyhow::Result<()> {
        if let Some(error) = self.unheard.take() {
            tracing::warn!(error, "NOTIFY_SOCKET: the service manager cannot be told anything");
        }
        if let Some(mut upgrade) = self.upgrade.take() {
            match upgrade.replace() {
                Ok(None) => {}
                Ok(Some(version)) => tracing::info!(version, "took the place of a running process, which goes"),
                // Whether it is gone already or does not want to: both accept, and nobody is lost.
                Err(error) => {
                    tracing::warn!(%error, "the process before did not say that it goes: stop it if it is there");
                }
            }
            let sockets = server.sockets();
            let with_admin = move || sockets().into_iter().chain(admin.clone()).collect();
            self.next = Some(upgrade.wait_for_next(with_admin)?);
        }
        if let Some(interval) = watchdog_interval() {
            let supervisor = Arc::clone(&self.supervisor);
            server.watch(interval, move || supervisor.say_alive())?;
        }
        self.supervisor.say_ready("serving");
        Ok(())
    }

    /// Waits until a newer process accepts in the place of this one; returns its version.
    pub(super) async fn replaced(&mut self) -> String {
        match &mut self.next {
            Some(next) => next.accepts().await,
            None => pending().await,
        }
    }

    /// Whether a newer process is about to: then this one changes nothing any more.
    pub(super) fn is_being_replaced(&self) -> bool {
        self.next.as_ref().is_some_and(Next::is_starting)
    }

    /// Another configuration is being read.
    pub(super) fn reload_begins(&self) {
        self.supervisor.say_reloading();
    }

    /// It is in force, or it is not.
    pub(super) fn reload_ends(&self, in_force: bool) {
        self.supervisor.say_ready(match in_force {
            true => "serving",
            false => "serving by the configuration from before: the new one was not taken over, see the log",
        });
    }

    /// The process is on its way out.
    pub(super) fn stop_begins(&self, cause: &str) {
        self.supervisor.say_stopping(&format!("stopping: {cause}"));
    }
}
