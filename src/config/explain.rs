//! What a configuration does with a client, and why.

use std::net::{IpAddr, Ipv4Addr};

use super::{Config, Listener, suggestion};
use crate::hello::{AlpnProtocol, Sni};
use crate::outcome::Reason;

/// A client from nowhere in particular: an address that is nobody's (RFC 5737), so that no list names it by accident.
pub const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What a client shows of itself.
#[derive(Clone, Debug)]
pub struct Client {
    /// The name that it sends.
    pub server_name: Sni,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<AlpnProtocol>,
    /// Where it comes from.
    pub source: IpAddr,
}

/// What listeners say of a client, those together that say the same.
pub type Explanations<'c> = Vec<(Vec<&'c str>, String)>;

impl Config {
    /// Where this client would go, and why: by the listener of this name, or by each of them.
    ///
    /// # Errors
    /// When there is no such listener: which may be meant.
    pub fn explain(&self, client: &Client, listener: Option<&str>) -> Result<Explanations<'_>, String> {
        let mut explanations: Explanations<'_> = Vec::new();
        for listener in self.chosen(listener)? {
            let explanation = self.explain_at(listener, client);
            match explanations.iter_mut().find(|(_, known)| *known == explanation) {
                Some((listeners, _)) => listeners.push(&listener.name),
                None => explanations.push((vec![&listener.name], explanation)),
            }
        }
        Ok(explanations)
    }

    /// The listener of this name, or all of them.
    ///
    /// # Errors
    /// When there is none: which may be meant.
    pub fn chosen(&self, wanted: Option<&str>) -> Result<Vec<&Listener>, String> {
        let Some(wanted) = wanted else { return Ok(self.listeners.iter().collect()) };
        let Some(listener) = self.listeners.iter().find(|listener| &*listener.name == wanted) else {
            let known = self.listeners.iter().map(|listener| &*listener.name);
            return Err(format!("no listener is called `{wanted}`; {}", suggestion(wanted, known)));
        };
        Ok(vec![listener])
    }

    fn explain_at(&self, listener: &Listener, client: &Client) -> String {
        if !listener.sources.admits(client.source) {
            let reason = Reason::SourceDenied.label();
            return format!(
                "decision: refused, {reason}, by the listener's own allow and deny, before the hello is read"
            );
        }
        let explanation = listener.table.explain(&client.server_name, &client.alpn, client.source);
        match explanation.decision() {
            Err(_) => explanation.to_string(),
            Ok(route) => {
                let upstream = &self.upstreams[route.upstream.0];
                let endpoints: Vec<_> = upstream.endpoints.iter().map(|one| one.address.to_string()).collect();
                format!("{explanation}\nupstream: {}, {}", upstream.name, endpoints.join(", "))
            }
        }
    }
}
