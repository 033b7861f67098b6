//! Changing the configuration of a running gate, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::ReloadError;
use crate::config::Config;
use crate::control::Order;
use crate::power::GivenUp;
use crate::reload::Changed;

/// Gives orders to a running gate. Clones give them to the same.
#[derive(Clone, Debug)]
pub struct Orders(pub(super) UnboundedSender<Order>);

impl Orders {
    /// Puts another configuration in force. Nobody who is connected notices.
    ///
    /// # Errors
    /// Why it is not in force; the one from before is then, as it was.
    pub async fn reload(&self, config: Config) -> Result<Changed, ReloadError> {
        let (done, changed) = oneshot::channel();
        let order = Order::Reload { config: Box::new(config), done };
        self.0.send(order).map_err(|_| ReloadError::Stopping)?;
        Ok(changed.await.map_err(|_| ReloadError::Stopping)??)
    }
}

/// The file that a gate's configuration is in. Whoever wants what it says now in force, be it a signal, the file itself
/// or an operator, comes here, so that it is told and counted in one way.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    given_up: GivenUp,
    results: Mutex<Results>,
}

/// What came of the attempts to take the file over.
#[derive(Clone, Debug)]
pub struct Results {
    /// How many were taken over since the start.
    pub taken_over: u64,
    /// How many were not.
    pub refused: u64,
    /// When what is in force was taken over.
    pub last: SystemTime,
    /// What was wrong the last time, if it was.
    pub wrong: Option<Vec<String>>,
}

impl ConfigFile {
    /// The file at `path`, which was just loaded by a process that then gave this power up.
    pub fn new(path: &Path, given_up: GivenUp) -> Self {
        let results = Results { taken_over: 0, refused: 0, last: SystemTime::now(), wrong: None };
        Self { path: path.to_owned(), given_up, results: Mutex::new(results) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What came of the attempts so far.
    pub fn results(&self) -> Results {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts what the file says now in force, tells the log what came of it, and returns what has changed.
    ///
    /// # Errors
    /// What is wrong, in lines; the configuration from before stays in force.
    pub async fn take_over(&self, orders: &Orders, cause: &str) -> Result<String, Vec<String>> {
        let file = self.path.display();
        let outcome = self.try_to(orders).await;
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(difference) => {
                tracing::info!(config = %file, cause, difference, "configuration taken over");
                (results.taken_over, results.last, results.wrong) = (results.taken_over + 1, SystemTime::now(), None);
            }
            Err(wrong) => {
                for line in wrong {
                    tracing::error!(config = %file, "{line}");
                }
                tracing::error!(config = %file, cause, "not taken over: the configuration from before stays in force");
                (results.refused, results.wrong) = (results.refused + 1, Some(wrong.clone()));
            }
        }
        outcome
    }

    async fn try_to(&self, orders: &Orders) -> Result<String, Vec<String>> {
        let file = self.path.display();
        let path = self.path.clone();
        // Large ones take their time, and a file may lie on a slow disk.
        let loaded = spawn_blocking(move || Config::load(&path)).await;
        let loaded = loaded.map_err(|_| vec!["reading it ended by a panic".to_owned()])?;
        let beyond = self.given_up.beyond_reach(&loaded);
        let config = match loaded {
            Ok(config) if beyond.is_empty() => config,
            refused => {
                let mistakes = refused.err().map(|error| error.to_string()).unwrap_or_default();
                return Err(mistakes.lines().map(str::to_owned).chain(beyond).collect());
            }
        };
        for warning in &config.warnings {
            tracing::warn!(config = %file, "{warning}");
        }
        let changed = orders.reload(config).await;
        let Changed { difference, addresses } = changed.map_err(|error| vec![error.to_string()])?;
        for (listener, address) in addresses {
            tracing::debug!(%listener, %address, "listening");
        }
        for key in &difference.needs_restart {
            tracing::warn!(config = %file, "`{key}` changes with a restart only: what it was at the start holds");
        }
        Ok(difference.to_string())
    }
}
