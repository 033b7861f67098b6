//! One question to the DNS servers in their order.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::runtime::Tokio;

/// Of a server's own time for one answer, what all of a question may take there: it may lead from alias to alias, and
/// from UDP to TCP.
const LIMIT: u32 = 3;

/// How servers are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// How long one may take. Within it the question is repeated, since datagrams get lost.
    pub(super) timeout: Duration,
    /// How often all of them are asked when none answers.
    pub(super) rounds: u32,
    /// Whether long answers may come by UDP. Not all servers take the offer well.
    pub(super) edns: bool,
    pub(super) tcp_only: bool,
}

/// The servers that answer for everybody else, in the order in which they are asked.
#[derive(Debug)]
pub(super) struct Servers {
    list: Vec<(SocketAddr, Resolver<Tokio>)>,
    manner: Manner,
}

/// What a question comes to.
pub(super) enum Reply {
    /// Records, and how long they hold.
    Records(Vec<RData>, Duration),
    /// There is none, say the servers.
    Nothing,
    /// Nobody knows.
    Failure(Failure),
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) trouble: String,
    /// Whether the last server asked did not answer at all.
    pub(super) silent: bool,
}

impl Servers {
    pub(super) fn new(addresses: Vec<SocketAddr>, manner: Manner) -> Self {
        let server = |address| match client(address, manner) {
            Ok(client) => Some((address, client)),
            Err(error) => {
                tracing::error!(server = %address, %error, "cannot be asked for names");
                None
            }
        };
        Self { list: addresses.into_iter().filter_map(server).collect(), manner }
    }

    /// Asks one server after the other for a full name. The first that says "there is" or "there is none" is believed.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Reply {
        let mut failure = Failure { trouble: "no DNS server is known".to_owned(), silent: true };
        for _ in 0..self.manner.rounds {
            let mut silent = false;
            for (address, client) in &self.list {
                let answer = timeout(self.manner.timeout * LIMIT, client.lookup(name.clone(), kind)).await;
                match answer.unwrap_or(Err(NetError::Timeout)) {
                    Ok(found) => return records(&found, kind),
                    Err(error) if says_none(&error) => return Reply::Nothing,
                    Err(error) => {
                        let answered = matches!(error, NetError::Dns(_));
                        silent |= !answered;
                        let trouble = format!("{address} about {kind} of {name}: {error}");
                        failure = Failure { trouble, silent: !answered };
                    }
                }
            }
            // Who answers, be it with an error, answers the same when asked again at once.
            if !silent {
                break;
            }
        }
        Reply::Failure(failure)
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.list.iter().map(|(address, _)| address.to_string()).collect();
        f.write_str(&addresses.join(" "))
    }
}

/// A client that asks one server, once, and remembers nothing.
fn client(address: SocketAddr, manner: Manner) -> Result<Resolver<Tokio>, NetError> {
    let kinds = if manner.tcp_only {
        vec![ConnectionConfig::tcp()]
    } else {
        vec![ConnectionConfig::udp(), ConnectionConfig::tcp()]
    };
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let server = NameServerConfig::new(address.ip(), true, kinds.into_iter().map(with_port).collect());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = Resolver::builder_with_config(config, Tokio);
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = manner.timeout;
    options.attempts = 0;
    options.edns0 = manner.edns;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

fn records(found: &Lookup, kind: RecordType) -> Reply {
    let answers = found.answers();
    let records: Vec<RData> =
        answers.iter().filter(|record| record.record_type() == kind).map(|record| record.data.clone()).collect();
    // Aliases on the way count as well: any of them may lead elsewhere next time.
    let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or_default();
    if records.is_empty() { Reply::Nothing } else { Reply::Records(records, Duration::from_secs(ttl.into())) }
}

/// Whether a server said that there is no such name or no such record of it. One that only refers to other servers says
/// nothing of the kind.
fn says_none(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, soa, ns, .. })) = error else { return false };
    match response_code {
        ResponseCode::NXDomain => true,
        ResponseCode::NoError => soa.is_some() || ns.is_none(),
        _ => false,
    }
}
