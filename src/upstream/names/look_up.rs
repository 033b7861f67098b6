//! All questions that one name takes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Resolved;
use super::servers::{Failure, Reply};
use super::system::System;

/// How long what needs no DNS holds.
const ALWAYS: Duration = Duration::MAX;
/// When one family has an answer, how long the other may take: some servers never answer for one of them, and clients
/// may be waiting.
const OTHER_FAMILY: Duration = Duration::from_secs(2);
/// How many hosts of a service are looked up at once.
const AT_ONCE: usize = 16;

/// What a look-up comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// What the name leads to, in order. What could not be learnt stands in it as it was known before.
    pub(super) addresses: Vec<Resolved>,
    /// How long it holds.
    pub(super) ttl: Duration,
    /// Why it is not all that could be known.
    pub(super) trouble: Option<String>,
}

impl Answer {
    /// What needs no look-up.
    pub(super) fn of_address(address: SocketAddr) -> Self {
        Self { addresses: vec![Resolved::of_address(address)], ttl: ALWAYS, trouble: None }
    }

    /// Nothing new.
    fn unknown(known: &[Resolved], trouble: String) -> Self {
        Self { addresses: known.to_vec(), ttl: Duration::ZERO, trouble: Some(trouble) }
    }
}

/// A host's addresses by family, or why they are not known.
#[derive(Clone)]
struct Addresses {
    v6: Result<Vec<IpAddr>, String>,
    v4: Result<Vec<IpAddr>, String>,
    ttl: Duration,
}

impl Addresses {
    fn unknown(trouble: String) -> Self {
        Self { v6: Err(trouble.clone()), v4: Err(trouble), ttl: Duration::ZERO }
    }

    fn trouble(&self) -> Option<String> {
        self.v6.as_ref().err().or(self.v4.as_ref().err()).cloned()
    }

    /// The endpoints that they make, each made by `like`: sorted, since servers shuffle them. Of a family that is not
    /// known now, those `known` so far.
    fn resolved(&self, known: &[Resolved], like: impl Fn(IpAddr) -> Resolved) -> Vec<Resolved> {
        let of_family = |addresses: &Result<Vec<IpAddr>, String>, v6: bool, target: &str| {
            let mut addresses = addresses.clone().unwrap_or_else(|_| {
                let same = known.iter().filter(|known| &*known.target == target);
                same.map(|known| known.address.ip()).filter(|address| address.is_ipv6() == v6).collect()
            });
            addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        };
        // Any address serves to learn the target's label.
        let target = like(IpAddr::from([0, 0, 0, 0])).target;
        let both = [of_family(&self.v6, true, &target), of_family(&self.v4, false, &target)];
        both.concat().into_iter().map(like).collect()
    }
}

/// Looks up a host.
pub(super) async fn host(system: &System, name: &str, port: u16, known: &[Resolved]) -> Answer {
    let addresses = addresses(system, name).await;
    let target: Arc<str> = format!("{name}:{port}").into();
    let like = |ip| Resolved { address: (ip, port).into(), target: Arc::clone(&target), weight: 1, priority: 0 };
    Answer { addresses: addresses.resolved(known, like), ttl: addresses.ttl, trouble: addresses.trouble() }
}

/// Looks up SRV records and the hosts that they name.
pub(super) async fn service(system: &Arc<System>, name: &str, known: &[Resolved]) -> Answer {
    let (records, mut ttl) = match search(system, name).await {
        Reply::Records(records, ttl) => (targets(records), ttl),
        Reply::Nothing => return Answer { addresses: Vec::new(), ttl: Duration::ZERO, trouble: None },
        Reply::Failure(Failure { trouble, .. }) => return Answer::unknown(known, trouble),
    };
    let hosts = hosts(system, &records).await;
    let (mut resolved, mut trouble) = (Vec::new(), None);
    let mut seen = HashSet::new();
    for record in records {
        let Some(addresses) = hosts.get(&record.host) else { continue };
        ttl = ttl.min(if addresses.trouble().is_none() { addresses.ttl } else { ttl });
        trouble = trouble.or_else(|| addresses.trouble());
        let target: Arc<str> = format!("{}:{}", record.host, record.port).into();
        let like = |ip| Resolved {
            address: (ip, record.port).into(),
            target: Arc::clone(&target),
            weight: record.weight,
            priority: record.priority,
        };
        // Two names may lead to one place.
        resolved.extend(addresses.resolved(known, like).into_iter().filter(|one| seen.insert(one.address)));
    }
    Answer { addresses: resolved, ttl, trouble }
}

/// One SRV record, in the order in which they are told.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    priority: u16,
    host: String,
    port: u16,
    weight: u32,
}

fn targets(records: Vec<RData>) -> BTreeSet<Target> {
    let target = |SRV { priority, weight, port, target, .. }: SRV| Target {
        priority,
        // Zero means "hardly ever" (RFC 2782), which one in thousands is.
        weight: u32::from(weight).max(1),
        port,
        host: target.to_lowercase().to_ascii().trim_end_matches('.').to_owned(),
    };
    let services = records.into_iter().filter_map(|record| match record {
        RData::SRV(service) => Some(target(service)),
        _ => None,
    });
    // The root as a host says that the service is not there (RFC 2782).
    services.filter(|target| !target.host.is_empty() && target.port != 0).collect()
}

/// The addresses of every host among the targets.
async fn hosts(system: &Arc<System>, targets: &BTreeSet<Target>) -> HashMap<String, Addresses> {
    let names: BTreeSet<&String> = targets.iter().map(|target| &target.host).collect();
    let mut waiting = names.into_iter().cloned();
    let (mut asking, mut hosts) = (JoinSet::new(), HashMap::new());
    loop {
        for host in waiting.by_ref().take(AT_ONCE - asking.len()) {
            let system = Arc::clone(system);
            asking.spawn(async move {
                // The dot: targets are full names.
                let addresses = addresses(&system, &format!("{host}.")).await;
                (host, addresses)
            });
        }
        match asking.join_next().await {
            Some(Ok((host, addresses))) => _ = hosts.insert(host, addresses),
            Some(Err(error)) => tracing::error!(%error, "a look-up ended by a panic"),
            None => return hosts,
        }
    }
}

/// The first candidate's SRV records that there are.
async fn search(system: &System, name: &str) -> Reply {
    let mut failure = None;
    for candidate in system.candidates(name) {
        match system.servers.ask(&candidate, RecordType::SRV).await {
            Reply::Nothing => {}
            Reply::Failure(error) if !error.silent => failure = failure.or(Some(error)),
            reply => return reply,
        }
    }
    failure.map_or(Reply::Nothing, Reply::Failure)
}

/// A host's addresses: those in the hosts file, else those of the first candidate that has any. A candidate whose servers
/// are broken is passed over, as glibc does, but then "none" is no certain answer.
async fn addresses(system: &System, name: &str) -> Addresses {
    let in_hosts = system.in_hosts(name);
    if !in_hosts.is_empty() {
        let (v6, v4) = in_hosts.iter().partition(|address| address.is_ipv6());
        return Addresses { v6: Ok(v6), v4: Ok(v4), ttl: ALWAYS };
    }
    let mut failure = None;
    for candidate in system.candidates(name) {
        match both_families(system, &candidate).await {
            (Reply::Nothing, Reply::Nothing) => {}
            (Reply::Failure(error), Reply::Nothing | Reply::Failure(_)) | (Reply::Nothing, Reply::Failure(error)) => {
                if error.silent {
                    return Addresses::unknown(error.trouble);
                }
                failure = failure.or(Some(error.trouble));
            }
            (v6, v4) => {
                let ttls = [&v6, &v4].map(|reply| if let Reply::Records(_, ttl) = reply { *ttl } else { ALWAYS });
                return Addresses { v6: family(v6), v4: family(v4), ttl: ttls[0].min(ttls[1]) };
            }
        }
    }
    failure.map_or(Addresses { v6: Ok(Vec::new()), v4: Ok(Vec::new()), ttl: Duration::ZERO }, Addresses::unknown)
}

fn family(reply: Reply) -> Result<Vec<IpAddr>, String> {
    match reply {
        Reply::Records(records, _) => Ok(records.iter().filter_map(RData::ip_addr).collect()),
        Reply::Nothing => Ok(Vec::new()),
        Reply::Failure(failure) => Err(failure.trouble),
    }
}

/// AAAA and A, asked at once.
async fn both_families(system: &System, name: &Name) -> (Reply, Reply) {
    if !system.ipv6 {
        return (Reply::Nothing, system.servers.ask(name, RecordType::A).await);
    }
    let mut v6 = Box::pin(system.servers.ask(name, RecordType::AAAA));
    let mut v4 = Box::pin(system.servers.ask(name, RecordType::A));
    tokio::select! {
        first = &mut v6 => {
            let second = other_family(&first, v4, name, RecordType::A).await;
            (first, second)
        }
        first = &mut v4 => {
            let second = other_family(&first, v6, name, RecordType::AAAA).await;
            (second, first)
        }
    }
}

async fn other_family(first: &Reply, second: impl Future<Output = Reply>, name: &Name, kind: RecordType) -> Reply {
    if !matches!(first, Reply::Records(..)) {
        return second.await;
    }
    timeout(OTHER_FAMILY, second).await.unwrap_or_else(|_| {
        let trouble = format!("no answer about {kind} of {name}, only about its other addresses");
        Reply::Failure(Failure { trouble, silent: true })
    })
}
