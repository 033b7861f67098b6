//! [`Explanation`]: the way to a decision in words, for whoever asks why a client ends where it does.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::table::{Fit, Objection, judge};
use super::{Claim, Decision, Refusal, Route, RouteTable, SourceVerdict};
use crate::hello::{AlpnProtocol, Sni};
use crate::server_name::{ServerName, ServerNamePattern};

/// Most patterns named as similar to one that is not there.
const MOST_SIMILAR: usize = 3;

/// How the table comes to its decision on one client. Its `Display` tells it in lines.
#[derive(Clone, Debug)]
pub struct Explanation {
    server_name: Sni,
    alpn: Vec<AlpnProtocol>,
    source: IpAddr,
    /// Every claim that covers the client; the first wins.
    claims: Vec<Claim>,
    /// What each route of the first claim says, in the order of the file.
    judged: Vec<(Arc<Route>, Result<Fit, Objection>)>,
    /// For a name that nothing matches: what it may have meant.
    similar: Vec<ServerNamePattern>,
    decision: Result<Arc<Route>, Refusal>,
}

impl RouteTable {
    /// As [`decide`](Self::decide), with the way to it.
    pub fn explain(&self, name: &Sni, alpn: &[AlpnProtocol], source: IpAddr) -> Explanation {
        let covering: Vec<_> = match name {
            Sni::Name(name) => self.matching(name).collect(),
            Sni::Absent => self.nameless().into_iter().collect(),
            Sni::Invalid(_) => Vec::new(),
        };
        let routes = covering.first().map_or(&[][..], |winner| &winner.routes);
        let similar = match name {
            Sni::Name(name) if covering.is_empty() => self.similar(name),
            _ => Vec::new(),
        };
        Explanation {
            server_name: name.clone(),
            alpn: alpn.to_vec(),
            source: source.to_canonical(),
            claims: covering.iter().map(|candidates| candidates.claim.clone()).collect(),
            judged: routes.iter().map(|route| (Arc::clone(route), judge(route, alpn, source))).collect(),
            similar,
            decision: match self.decide(name, alpn, source) {
                Decision::Route(route) => Ok(Arc::clone(route)),
                Decision::Refuse(refusal) => Err(refusal),
            },
        }
    }

    /// The patterns that look most like `name`, nearest first: those that differ in a few letters, and the wildcard
    /// that takes everything below `name`.
    fn similar(&self, name: &ServerName) -> Vec<ServerNamePattern> {
        let name = name.as_str();
        let mut near: Vec<(usize, &ServerNamePattern)> = Vec::new();
        for candidates in self.candidates() {
            let Claim::Pattern(pattern) = &candidates.claim else { continue };
            let distance = match pattern {
                ServerNamePattern::Exact(other) => strsim::osa_distance(name, other.as_str()),
                ServerNamePattern::Wildcard(parent) if parent.as_str() == name => 0,
                // A wildcard leaves the labels before it open: the rest of the name is what may be mistyped.
                ServerNamePattern::Wildcard(parent) => {
                    let labels = parent.as_str().matches('.').count();
                    let rest = name.rmatch_indices('.').nth(labels).map(|(dot, _)| &name[dot + 1..]);
                    rest.map_or(usize::MAX, |rest| strsim::osa_distance(rest, parent.as_str()))
                }
                ServerNamePattern::Any => usize::MAX,
            };
            // Two letters, and fewer in a short name, are a slip; more are another name.
            if distance <= 2.min(name.len() / 3) {
                near.push((distance, pattern));
            }
        }
        near.sort();
        near.into_iter().take(MOST_SIMILAR).map(|(_, pattern)| pattern.clone()).collect()
    }
}

impl Explanation {
    /// The route that the client takes; its refusal if there is none.
    ///
    /// # Errors
    /// Why the client is refused.
    pub fn decision(&self) -> Result<&Arc<Route>, Refusal> {
        self.decision.as_ref().map_err(|refusal| *refusal)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server_name {
            Sni::Name(name) => write!(f, "server name {name}")?,
            Sni::Absent => write!(f, "no server name")?,
            Sni::Invalid(raw) => write!(f, "server name `{}`, which is no host name", raw.escape_ascii())?,
        }
        writeln!(f, ", from {}, offering {}", self.source, listed(&self.alpn, "no protocol"))?;
        self.write_claims(f)?;
        for (route, judgement) in &self.judged {
            write!(f, "  {}: ", route.name)?;
            match judgement {
                Ok(fit) => self.write_fit(f, *fit)?,
                Err(Objection::Source(verdict)) => self.write_source_refusal(f, *verdict)?,
                Err(Objection::Alpn) => write!(f, "refuses, as it takes only {}", listed(&route.alpn, ""))?,
            }
            writeln!(f)?;
        }
        self.write_decision(f)
    }
}

impl Explanation {
    fn write_claims(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.server_name, self.claims.split_first()) {
            (Sni::Invalid(_), _) => Ok(()),
            (Sni::Absent, None) => writeln!(f, "no route takes clients without a server name"),
            (Sni::Absent, Some(_)) => writeln!(f, "routes for clients without a server name:"),
            (Sni::Name(name), None) => {
                let wildcards = name.parents().map(|parent| format!(", *.{parent}")).collect::<String>();
                writeln!(f, "no pattern matches; looked for {name}{wildcards} and *")?;
                self.similar.iter().try_for_each(|pattern| match pattern {
                    ServerNamePattern::Wildcard(parent) if parent == name => {
                        writeln!(f, "  there is {pattern}, which takes names below {name} and not {name} itself")
                    }
                    _ => writeln!(f, "  there is {pattern}, which looks similar"),
                })
            }
            (Sni::Name(_), Some((winner, wider))) => {
                writeln!(f, "patterns that match, best first:")?;
                let why = match winner {
                    Claim::Pattern(ServerNamePattern::Exact(_)) => "the exact name",
                    Claim::Pattern(ServerNamePattern::Wildcard(_)) => "the wildcard with most labels",
                    Claim::Pattern(ServerNamePattern::Any) | Claim::NoServerName => "there is no better one",
                };
                writeln!(f, "  {winner}: wins, {why}")?;
                wider.iter().try_for_each(|claim| writeln!(f, "  {claim}: not tried"))?;
                writeln!(f, "routes of {winner}:")
            }
        }
    }

    fn write_fit(&self, f: &mut fmt::Formatter<'_>, fit: Fit) -> fmt::Result {
        match fit.specificity {
            Some(prefix) => write!(f, "admits the source by allow {}, ", self.network(prefix))?,
            None => write!(f, "admits the source without allow, ")?,
        }
        match self.alpn.get(fit.protocol.0) {
            Some(protocol) => write!(f, "takes {protocol}"),
            None => write!(f, "takes any protocol"),
        }
    }

    fn write_source_refusal(&self, f: &mut fmt::Formatter<'_>, verdict: SourceVerdict) -> fmt::Result {
        match verdict {
            SourceVerdict::Denied { deny, allow } => {
                write!(f, "refuses the source by deny {}", self.network(deny))?;
                match allow {
                    Some(allow) if allow == deny => write!(f, ", which wins over the same allow"),
                    Some(allow) => write!(f, ", which wins over the shorter allow {}", self.network(allow)),
                    None => Ok(()),
                }
            }
            SourceVerdict::NotAllowed | SourceVerdict::Allowed { .. } => {
                write!(f, "refuses the source, which no network of its allow holds")
            }
        }
    }

    fn write_decision(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = match &self.decision {
            Ok(route) => return write!(f, "decision: route {}{}", route.name, self.why_this_route(route)),
            Err(refusal) => *refusal,
        };
        let remedy = match refusal {
            Refusal::NoServerName => "; remedy: tls-server-name in the kubeconfig, or no_server_name: true in a route",
            Refusal::SourceDenied | Refusal::AlpnDenied if self.claims.len() > 1 => "; wider patterns are not tried",
            _ => "",
        };
        write!(f, "decision: refused, {}{remedy}", refusal.reason().label())
    }

    /// What sets the winner apart from the best of the others that admit the client.
    fn why_this_route(&self, winner: &Arc<Route>) -> &'static str {
        let fit_of = |wanted: bool| {
            let theirs = self.judged.iter().filter(move |(route, _)| Arc::ptr_eq(route, winner) == wanted);
            theirs.filter_map(|(_, judgement)| judgement.ok()).max()
        };
        match (fit_of(true), fit_of(false)) {
            (Some(own), Some(other)) if own.specificity > other.specificity => ", for its longer allow prefix",
            (Some(_), Some(other)) if other.protocol == Fit::ANY_PROTOCOL => ", which names the protocol",
            (Some(_), Some(_)) => ", for the protocol that the client prefers",
            _ if self.judged.len() > 1 => ", the only one that does not refuse",
            _ => "",
        }
    }

    /// The network of this prefix length that holds the source.
    fn network(&self, prefix: u8) -> IpNet {
        IpNet::new(self.source, prefix).map_or_else(|_| self.source.into(), |network| network.trunc())
    }
}

fn listed(protocols: &[AlpnProtocol], none: &str) -> String {
    let names: Vec<_> = protocols.iter().map(AlpnProtocol::to_string).collect();
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}
