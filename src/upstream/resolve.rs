//! Names to addresses, when a connection needs them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::config::EndpointAddress;

/// How long an answer serves further connections: long enough for a burst, far below any TTL that matters.
const FRESH: Duration = Duration::from_secs(1);

/// The addresses of one endpoint. One look-up at a time: a name whose servers hang takes one thread, not all.
#[derive(Debug)]
pub(super) struct Resolver {
    latest: Arc<Mutex<Option<Answer>>>,
}

#[derive(Debug)]
struct Answer {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Resolver {
    pub(super) fn new() -> Self {
        Self { latest: Arc::new(Mutex::new(None)) }
    }

    /// The endpoint's addresses in the order of the system's resolver.
    ///
    /// # Errors
    /// When there is none, or none was found until `end`.
    pub(super) async fn addresses(&self, endpoint: &EndpointAddress, end: Instant) -> io::Result<Vec<SocketAddr>> {
        let (name, port) = match endpoint {
            EndpointAddress::Ip(address) => return Ok(vec![*address]),
            EndpointAddress::Name(name, port) => (name, *port),
            EndpointAddress::Service(_) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "the system's resolver has no SRV records"));
            }
        };
        let latest = timeout_at(end, Arc::clone(&self.latest).lock_owned()).await?;
        if let Some(answer) = latest.as_ref().filter(|answer| answer.at.elapsed() < FRESH) {
            return Ok(answer.addresses.clone());
        }
        // A task of its own: when the client gives up, the look-up goes on and still keeps others from starting one.
        let name = name.clone();
        let look_up = tokio::spawn(async move {
            let mut latest = latest;
            let addresses: Vec<_> = lookup_host((&*name, port)).await?.collect();
            *latest = Some(Answer { at: Instant::now(), addresses: addresses.clone() });
            Ok(addresses)
        });
        timeout_at(end, look_up).await??.and_then(|addresses: Vec<_>| match addresses.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
            false => Ok(addresses),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn an_address_needs_no_look_up_and_a_name_gives_its_port() {
        let resolver = Resolver::new();
        let address = EndpointAddress::Ip(([192, 0, 2, 1], 6443).into());
        assert_eq!(resolver.addresses(&address, soon()).await.unwrap(), ["192.0.2.1:6443".parse().unwrap()]);
        assert!(resolver.latest.lock().await.is_none());

        let name = EndpointAddress::Name("localhost".into(), 6443);
        let addresses = resolver.addresses(&name, soon()).await.unwrap();
        assert!(!addresses.is_empty() && addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 6443));
    }

    #[tokio::test]
    async fn while_one_looks_up_others_wait_for_its_answer_or_their_own_deadline() {
        let resolver = Resolver::new();
        let name = EndpointAddress::Name("nowhere.invalid".into(), 1);
        let mut looking_up = resolver.latest.lock().await;
        let late = resolver.addresses(&name, Instant::now()).await;
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let found: SocketAddr = "192.0.2.7:1".parse().unwrap();
        *looking_up = Some(Answer { at: Instant::now(), addresses: vec![found] });
        drop(looking_up);
        assert_eq!(resolver.addresses(&name, soon()).await.unwrap(), [found]);
    }
}
