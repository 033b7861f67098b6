//! Which upstream a client is led to: [`RouteTable::decide`] on its server name, its ALPN protocols and its source
//! address. Pure: no I/O, and no allocation on the way of a decision.
//!
//! One table belongs to one listener. A decision has two steps:
//!
//! 1. **The pattern.** The exact name, else the wildcard with most labels, else `*`; a client without a name is taken
//!    only by routes that say so. Only the routes of that one pattern are asked: when all of them refuse, the
//!    connection is refused, however welcome it were to a wider pattern.
//! 2. **The route.** A route refuses a source that its networks do not admit, and a client that offers none of its ALPN
//!    protocols. Among the others the longest matching `allow` prefix wins (an absent `allow` is shortest), then the
//!    protocol that comes first in the client's own order (a route that lists none comes last).
//!
//! The order of routes in the file never decides: two routes that one client could match equally are an [`Ambiguity`],
//! and then there is no table. [`RouteTable::explain`] shows the way to a decision,
//! [`RouteTable::unreached`] finds the routes that no client can reach.

mod ambiguity;
mod explain;
mod limits;
mod reach;
mod sources;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use ambiguity::Ambiguity;
pub use explain::Explanation;
pub use limits::{Rate, RouteLimits};
pub use reach::{Unreached, WhyUnreached};
pub use sources::{SourceList, SourceVerdict};
pub use table::RouteTable;

use crate::hello::AlpnProtocol;
use crate::hello::alert::AlertDescription;
use crate::outcome::Reason;
use crate::server_name::ServerNamePattern;

/// Who is led to which upstream, and how their connection is kept.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in log, metrics and messages.
    pub name: Arc<str>,
    /// The server names it takes.
    pub server_names: Vec<ServerNamePattern>,
    /// Whether it takes clients that send no server name.
    pub no_server_name: bool,
    /// The listeners it belongs to; none given means all.
    pub listeners: Option<Vec<Arc<str>>>,
    /// The source addresses it admits.
    pub sources: SourceList,
    /// The protocols it takes; empty means any, also a client that offers none.
    pub alpn: Vec<AlpnProtocol>,
    /// Where its connections go.
    pub upstream: UpstreamId,
    /// What that is called.
    pub upstream_name: Arc<str>,
    /// Without a byte in either direction for this long a connection ends.
    pub idle_timeout: Duration,
    /// After one side's FIN, without a byte from the other for this long, a connection ends.
    pub half_close_timeout: Duration,
    /// Whether an `idle_timeout` below a minute is meant.
    pub allow_short_idle: bool,
    /// What becomes of its connections when another configuration refuses them; without it, what is said for all routes.
    pub on_route_change: Option<Established>,
    /// How many connections it takes, and how fast.
    pub limits: RouteLimits,
}

/// What becomes of established connections when new ones would go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Established {
    /// They stay.
    Keep,
    /// They are closed, spread over some seconds.
    Close,
}

/// An upstream's place in the list of configured and of running upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub usize);

/// What a route takes: the server names of one pattern, or clients that send none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// Clients whose server name matches.
    Pattern(ServerNamePattern),
    /// Clients without a server name.
    NoServerName,
}

impl Route {
    /// Everything the route takes.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        let named = self.server_names.iter().map(|pattern| Claim::Pattern(pattern.clone()));
        named.chain(self.no_server_name.then_some(Claim::NoServerName))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => write!(f, "{pattern}"),
            Self::NoServerName => f.write_str("clients without a server name"),
        }
    }
}

/// What the table says of one client.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// It goes this way.
    Route(&'t Arc<Route>),
    /// It goes nowhere.
    Refuse(Refusal),
}

impl<'t> Decision<'t> {
    /// The way, if there is one.
    pub fn route(self) -> Option<&'t Route> {
        match self {
            Self::Route(route) => Some(route),
            Self::Refuse(_) => None,
        }
    }
}

/// Why the table has no way for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It sent no server name, and no route takes such clients.
    NoServerName,
    /// What it sent as its server name is none.
    ServerNameInvalid,
    /// No pattern matches its server name.
    UnknownServerName,
    /// No route of the pattern admits its source address.
    SourceDenied,
    /// Some route of the pattern admits its source address, but none of those takes one of its protocols.
    AlpnDenied,
}

impl Refusal {
    /// How the end of the connection is recorded.
    pub fn reason(self) -> Reason {
        match self {
            Self::NoServerName => Reason::NoServerName,
            Self::ServerNameInvalid => Reason::ServerNameInvalid,
            Self::UnknownServerName => Reason::UnknownServerName,
            Self::SourceDenied => Reason::SourceDenied,
            Self::AlpnDenied => Reason::AlpnDenied,
        }
    }

    /// What the client is told. A refused source hears the same as one that asked for an unknown name, so that nobody
    /// learns which names exist.
    pub fn alert(self) -> AlertDescription {
        match self {
            Self::NoServerName | Self::ServerNameInvalid | Self::UnknownServerName | Self::SourceDenied => {
                AlertDescription::UnrecognizedName
            }
            Self::AlpnDenied => AlertDescription::NoApplicationProtocol,
        }
    }
}
