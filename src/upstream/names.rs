//! [`Names`]: names to addresses in the background, again whenever an answer has had its time.
//!
//! `system` says what the host's files say, `servers` puts one question to the DNS servers in their order, `look_up`
//! makes all questions that one name takes, and `memory` decides what of the answers is believed and when to ask again.
//! This file is the loop around them. hickory-resolver is used as a client that asks one server one question: the order
//! of servers, search domains and the hosts file are ours, because it asks servers at once (where a public one may stand
//! second), takes the last answer of a search for the answer, and looks into the hosts file for the first name only.

mod age;
mod look_up;
mod memory;
mod runtime;
mod servers;
mod system;

use std::fmt::Display;
use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::files::Stamp;
use crate::config::{self, EndpointAddress};
pub use age::Ages;
use look_up::Answer;
use memory::{Heard, Memory, Outage};
use system::{Files, System};

/// However often somebody nudges, a name is looked up no more than once in this time.
const NUDGED: Duration = Duration::from_secs(1);

/// The resolver: who is asked, and what the host's files say. For one runtime, the one that its futures run on.
#[derive(Debug)]
pub struct Names {
    files: Files,
    asked: Mutex<Asked>,
    ages: Arc<Ages>,
}

/// Who is asked.
#[derive(Debug)]
struct Asked {
    /// In place of those that the files name, unless there is none here.
    servers: Vec<SocketAddr>,
    /// What follows, with what the files said when it was last needed, and what changes when they do.
    known: Option<Known>,
}

type Known = ([Option<Stamp>; 2], Arc<System>);

/// One address that a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where to connect.
    pub address: SocketAddr,
    /// Whose address it is, as `host:port`: addresses of one host have the same.
    pub target: Arc<str>,
    /// Its share relative to others of the same priority, at least 1; 1 without SRV records.
    pub weight: u32,
    /// Lower ones come first; 0 without SRV records.
    pub priority: u16,
}

impl Resolved {
    /// What an address is without a look-up.
    pub fn of_address(address: SocketAddr) -> Self {
        Self { address, target: address.to_string().into(), weight: 1, priority: 0 }
    }
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// DNS says so.
    #[error("it has no address")]
    NoAddress,
    /// Nobody said anything of use.
    #[error("{0}")]
    Trouble(String),
}

impl Names {
    /// A resolver on `/etc/resolv.conf` and `/etc/hosts`, which are read when first needed and whenever they changed.
    pub fn new(config: &config::Dns) -> Self {
        Self::on_files(config, "/etc/resolv.conf".into(), "/etc/hosts".into())
    }

    /// The same on other files.
    pub fn on_files(config: &config::Dns, resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        let asked = Asked { servers: config.servers.clone(), known: None };
        Self { files: Files { resolv_conf, hosts }, asked: Mutex::new(asked), ages: Arc::default() }
    }

    /// How old the answers are, now and later.
    pub fn ages(&self) -> Arc<Ages> {
        Arc::clone(&self.ages)
    }

    /// From now on those are asked.
    pub fn ask(&self, config: &config::Dns) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.servers != config.servers {
            *asked = Asked { servers: config.servers.clone(), known: None };
        }
    }

    /// Resolves `what` for as long as it is polled, and tells its addresses first when the first look-up is over (none,
    /// if it failed), then whenever they changed. Hosts come in a fixed order, by priority and name, the addresses of
    /// each together, IPv6 first. A notice to `nudge` brings the next look-up forward: for when an address did not answer.
    pub async fn follow(&self, what: &EndpointAddress, nudge: &Notify, mut told: impl FnMut(Vec<Resolved>)) -> ! {
        if let EndpointAddress::Ip(address) = what {
            told(Answer::of_address(*address).addresses);
            loop {
                pending::<()>().await;
            }
        }
        let age = self.ages.enter(what.to_string());
        let ask = |known: Vec<Resolved>| {
            let age = &age;
            async move {
                let answer = self.look_up(what, &known).await;
                if answer.trouble.is_none() {
                    age.answered();
                }
                answer
            }
        };
        follow_answers(what, ask, nudge, told).await
    }

    /// Resolves `what` once.
    ///
    /// # Errors
    /// Why there is no address.
    pub async fn resolve(&self, what: &EndpointAddress) -> Result<Vec<Resolved>, Unresolved> {
        let answer = self.look_up(what, &[]).await;
        match (answer.addresses.is_empty(), answer.trouble) {
            (false, _) => Ok(answer.addresses),
            (true, None) => Err(Unresolved::NoAddress),
            (true, Some(trouble)) => Err(Unresolved::Trouble(trouble)),
        }
    }

    async fn look_up(&self, what: &EndpointAddress, known: &[Resolved]) -> Answer {
        let system = self.system();
        // On the heap: the resolver's futures are large, and one runs a name.
        match what {
            EndpointAddress::Ip(address) => Answer::of_address(*address),
            EndpointAddress::Name(name, port) => Box::pin(look_up::host(&system, name, *port, known)).await,
            EndpointAddress::Service(name) => Box::pin(look_up::service(&system, name, known)).await,
        }
    }

    /// What the files say now, or said when they could be read.
    fn system(&self) -> Arc<System> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at first: a file that changes while it is read is read again.
        let stamps = self.files.stamps();
        let before = match asked.known.take() {
            Some((before, system)) if before == stamps => return Arc::clone(&asked.known.insert((before, system)).1),
            before => before.map(|(_, system)| system),
        };
        let system = match (System::read(&self.files, &asked.servers), before) {
            (Ok(read), before) => {
                if let Some(before) = before.filter(|before| before.asks() != read.asks()) {
                    tracing::info!(old = before.asks(), new = read.asks(), "other DNS servers in resolv.conf");
                }
                Arc::new(read)
            }
            // In the sandbox, a file that took the other's place: at its beginning there was no rule for it.
            (Err(error), Some(before)) => {
                tracing::warn!(%error, "was replaced and cannot be read any more; what it said stays, until a restart");
                before
            }
            (Err(error), None) => {
                tracing::warn!(%error, "cannot be read, and counts as empty");
                Arc::new(System::of(b"", b"", &asked.servers))
            }
        };
        Arc::clone(&asked.known.insert((stamps, system)).1)
    }
}

/// [`Names::follow`], whoever answers.
async fn follow_answers<A: Future<Output = Answer>>(
    name: impl Display,
    ask: impl Fn(Vec<Resolved>) -> A,
    nudge: &Notify,
    mut told: impl FnMut(Vec<Resolved>),
) -> ! {
    let mut memory = Memory::default();
    loop {
        let answer = ask(memory.known().to_vec()).await;
        let asked = Instant::now();
        let Heard { replaced, outage, wait } = memory.hear(answer, asked);
        match &outage {
            Some(Outage::Begins(trouble)) => {
                tracing::warn!(%name, trouble, "cannot be resolved; what is known of it stays");
            }
            Some(Outage::Ends) => tracing::info!(%name, "can be resolved again"),
            None => {}
        }
        if let Some(old) = replaced {
            log_change(&name, &old, memory.known());
            told(memory.known().to_vec());
        }
        let nudged = async {
            nudge.notified().await;
            sleep_until(asked + NUDGED).await;
        };
        tokio::select! {
            () = sleep_until(asked + jittered(wait)) => {}
            () = nudged => {}
        }
    }
}

fn log_change(name: &impl Display, old: &[Resolved], new: &[Resolved]) {
    match (listed(old), listed(new)) {
        (old, new) if old.is_empty() && new.is_empty() => tracing::warn!(%name, "has no address"),
        (old, new) if new.is_empty() => tracing::warn!(%name, old, "has no address any more"),
        (old, new) if old.is_empty() => tracing::info!(%name, new, "resolved"),
        (old, new) => tracing::info!(%name, old, new, "resolves otherwise"),
    }
}

fn listed(addresses: &[Resolved]) -> String {
    addresses.iter().map(|resolved| resolved.address.to_string()).collect::<Vec<_>>().join(" ")
}

/// Up to a tenth longer, so that names and instances do not all ask at once.
fn jittered(wait: Duration) -> Duration {
    // The hasher's keys are random, and randomness good enough for this.
    let tenth = RandomState::new().hash_one(()) % 1_000;
    wait + wait.mul_f64(f64::from(u32::try_from(tenth).unwrap_or_default()) / 10_000.0)
}

#[cfg(test)]
mod tests;
