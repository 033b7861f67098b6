//! How a connection ended: a [`Reason`] from a closed list, the [`Phase`] it was in, and who ended it.

/// The stage a connection was in when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reading the PROXY header that comes before the client's own bytes.
    ProxyHeader,
    /// Reading the ClientHello, and deciding on it.
    Hello,
    /// Reaching an endpoint.
    Connecting,
    /// Moving bytes both ways, the hello first.
    Relaying,
}

impl Phase {
    /// The stable label in log and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::Hello => "hello",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
        }
    }
}

/// One of the two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Towards the client.
    Client,
    /// Towards the upstream.
    Upstream,
}

impl Side {
    /// The opposite side.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// The client side.
    Client,
    /// The upstream side.
    Upstream,
    /// Ourselves.
    Snigate,
}

impl ClosedBy {
    /// The stable label in log and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Snigate => "snigate",
        }
    }
}

impl From<Side> for ClosedBy {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Upstream => Self::Upstream,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal by $fault:ident,)*) => {
        /// Why a connection ended: the closed list that log and metrics use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable label in log and metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Whose doing it is, and so how loudly it is logged.
            pub fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }
        }
    };
}

/// Whose doing an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody's: a normal end.
    None,
    /// The client's: logged at debug.
    Client,
    /// The upstream's: logged at warn.
    Upstream,
    /// Our own: logged at error.
    Ours,
}

reasons! {
    /// The client's FIN came first.
    ClientClosed = "client_closed" by None,
    /// The upstream's FIN came first.
    UpstreamClosed = "upstream_closed" by None,
    /// The client sent a RST.
    ClientReset = "client_reset" by Client,
    /// The upstream sent a RST.
    UpstreamReset = "upstream_reset" by Upstream,
    /// No byte in either direction for the route's `idle_timeout`.
    IdleTimeout = "idle_timeout" by Client,
    /// One side had closed its half, and the other sent no byte for the route's `half_close_timeout`.
    HalfCloseTimeout = "half_close_timeout" by Client,
    /// A peer stopped answering: keepalive or unacknowledged data ran out of time (ETIMEDOUT).
    PeerTimeout = "peer_timeout" by Client,
    /// No complete ClientHello within `client_hello_timeout`.
    HelloTimeout = "hello_timeout" by Client,
    /// The client closed before its ClientHello was complete.
    HelloIncomplete = "hello_incomplete" by Client,
    /// The ClientHello is longer than `max_client_hello`, or spread over too many raw bytes.
    HelloTooLarge = "hello_too_large" by Client,
    /// The ClientHello breaks a rule of its format.
    HelloMalformed = "hello_malformed" by Client,
    /// The first bytes are not a TLS handshake record.
    NotTls = "not_tls" by Client,
    /// The client closed, or ran out of time, without a single byte.
    NoBytes = "no_bytes" by Client,
    /// The listener requires a PROXY header, and what came is none, or not all of it.
    ProxyHeaderInvalid = "proxy_header_invalid" by Client,
    /// The PROXY header was begun and not complete within `client_hello_timeout`.
    ProxyHeaderTimeout = "proxy_header_timeout" by Client,
    /// The listener requires a PROXY header, and does not believe this address.
    ProxySourceUntrusted = "proxy_source_untrusted" by Client,
    /// The client sent no server name, and no route takes such clients.
    NoServerName = "no_server_name" by Client,
    /// The server name is not an acceptable host name.
    ServerNameInvalid = "server_name_invalid" by Client,
    /// No route has a pattern for the server name.
    UnknownServerName = "unknown_server_name" by Client,
    /// Listener or route do not accept the source address.
    SourceDenied = "source_denied" by Client,
    /// The route accepts none of the client's application protocols.
    AlpnDenied = "alpn_denied" by Client,
    /// No endpoint has proved who it is, as the upstream's `health_check` wants.
    EndpointUnverified = "endpoint_unverified" by Upstream,
    /// As many connections are open as there may be, or the kernel has nothing left for one more.
    LimitGlobal = "limit_global" by Client,
    /// Too many connections have no route yet, and this one had waited longest; or their hellos take too much memory.
    LimitUndecided = "limit_undecided" by Client,
    /// The source has as many connections as it may, in all or on this route.
    LimitSource = "limit_source" by Client,
    /// The route has as many connections as it may.
    LimitRoute = "limit_route" by Client,
    /// The source brings new connections faster than it may.
    RateSource = "rate_source" by Client,
    /// New connections of the route come faster than they may.
    RateRoute = "rate_route" by Client,
    /// Too many connects to the upstream were under way.
    UpstreamBusy = "upstream_busy" by Upstream,
    /// The endpoint answered the connect with a RST.
    ConnectRefused = "connect_refused" by Upstream,
    /// The endpoint did not answer the connect in time.
    ConnectTimeout = "connect_timeout" by Upstream,
    /// The connect failed otherwise (no route to host, for one).
    ConnectFailed = "connect_failed" by Upstream,
    /// No local port was free for the connect (EADDRNOTAVAIL).
    NoLocalPort = "no_local_port" by Ours,
    /// No endpoint's name has an address.
    DnsUnresolved = "dns_unresolved" by Upstream,
    /// The endpoint's name no longer leads to it, and `on_removed` says that its connections close then.
    EndpointRemoved = "endpoint_removed" by None,
    /// The endpoint's probes failed, and `on_unhealthy` says that its connections close then.
    EndpointUnhealthy = "endpoint_unhealthy" by Upstream,
    /// Another configuration refuses the connection, and `on_route_change` says that it closes then.
    RouteChanged = "route_changed" by None,
    /// The operator had it closed.
    ClosedByAdmin = "closed_by_admin" by None,
    /// snigate is stopping.
    Drained = "drained" by None,
    /// A defect of ours, or a shortage: no descriptor or memory for the upstream's socket.
    Internal = "internal" by Ours,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_distinct_snake_case() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        assert!(labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
