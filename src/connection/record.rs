//! What is remembered of a connection while it lives, and written down when it has ended.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Tools;
use super::story::{Heard, Reached, Routed, Story, Texts};
use crate::config::Listener;
use crate::hello::{AlpnProtocol, ClientHello, Sni, ja4};
use crate::limits::Permits;
use crate::observe::access_log::{Line, TEXT_LIMIT, escaped};
use crate::observe::live::LiveEntry;
use crate::outcome::{ClosedBy, Fault, Phase, Reason, Side};
use crate::proxy_protocol::Ends;
use crate::relay::End;
use crate::routing::Route;
use crate::upstream::Connection;

/// One connection's entry in the table of live ones and its line-to-be in the access log. Whatever becomes of the
/// connection, a panic included, the line is written and the entry is given back.
pub(super) struct Record {
    tools: Rc<Tools>,
    listener: Arc<Listener>,
    live: LiveEntry,
    number: u64,
    accepted: Instant,
    /// Address and port: a `SocketAddr` is half as large again.
    source: (IpAddr, u16),
    phase: Phase,
    story: Option<Box<Story>>,
    permits: Permits,
    end: Option<End>,
}

impl Record {
    pub(super) fn open(source: SocketAddr, listener: Arc<Listener>, tools: Rc<Tools>) -> Self {
        Self {
            live: tools.live.enter(),
            number: tools.ids.next(),
            accepted: Instant::now(),
            // Dual-stack listeners see IPv4 clients as v4-mapped: lists and log mean the address itself.
            source: (source.ip().to_canonical(), source.port()),
            phase: if listener.proxy_protocol.is_some() { Phase::ProxyHeader } else { Phase::Hello },
            story: None,
            permits: Permits::default(),
            end: None,
            listener,
            tools,
        }
    }

    pub(super) fn tools(&self) -> &Rc<Tools> {
        &self.tools
    }

    pub(super) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    pub(super) fn live(&self) -> &LiveEntry {
        &self.live
    }

    /// What the connection is counted in, to the end.
    pub(super) fn permits(&mut self) -> &mut Permits {
        &mut self.permits
    }

    pub(super) fn source(&self) -> SocketAddr {
        self.source.into()
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Whom a proxy speaks for; nobody but itself if there are no ends.
    pub(super) fn introduced(&mut self, ends: Option<Ends>) {
        self.phase = Phase::Hello;
        self.story().balancer = Some(Box::new(self.source));
        if let Some(Ends { source, .. }) = ends {
            self.source = (source.ip(), source.port());
        }
    }

    pub(super) fn heard(&mut self, hello: &ClientHello, raw: &[u8]) {
        if !self.tools.log.is_on() {
            return;
        }
        let invalid = match &hello.server_name {
            Sni::Invalid(sent) => Some(escaped(sent)),
            Sni::Absent | Sni::Name(_) => None,
        };
        let server_name = match &hello.server_name {
            Sni::Name(name) => Some(name.as_str()),
            Sni::Absent | Sni::Invalid(_) => invalid.as_deref(),
        };
        // A hello has room for thousands: no more than the line will show.
        let offered = hello.alpn.iter().take(TEXT_LIMIT).map(AlpnProtocol::as_bytes).collect::<Vec<_>>();
        let alpn = (!offered.is_empty()).then(|| escaped(&offered.join(&b',')));
        self.story().hello = Some(Heard {
            texts: Texts::join([server_name, alpn.as_deref(), ja4(raw).as_deref()]),
            ech: hello.ech,
            bytes: hello.len.try_into().unwrap_or(u32::MAX),
            records: hello.records.try_into().unwrap_or(u16::MAX),
        });
    }

    pub(super) fn routed(&mut self, route: &Arc<Route>) {
        self.phase = Phase::Connecting;
        let reached = Reached::Nothing { decided: Instant::now() };
        self.story().routed = Some(Routed { route: Arc::clone(route), reached });
    }

    pub(super) fn connected(&mut self, connection: &Connection) {
        self.live.count(Side::Client, connection.sent);
        let local = self.tools.log.is_on().then(|| connection.socket.local_addr().ok()).flatten();
        if let Some(Routed { reached, .. }) = &mut self.story().routed
            && let Reached::Nothing { decided } = reached
        {
            let microseconds = decided.elapsed().as_micros().try_into().unwrap_or(u32::MAX);
            let local_port = local.map(|local| local.port());
            *reached = Reached::Endpoint { address: connection.address, local_port, microseconds };
        }
    }

    fn story(&mut self) -> &mut Story {
        self.story.get_or_insert_default()
    }

    pub(super) fn relaying(&mut self, route: &Route) {
        self.phase = Phase::Relaying;
        self.live.limit_silence(route.idle_timeout, route.half_close_timeout);
    }

    pub(super) fn close(mut self, end: End) {
        self.end = Some(end);
    }

    fn line<'a>(&'a self, id: &'a str, end: End) -> Line<'a> {
        let hello = self.story.as_ref().and_then(|story| story.hello.as_ref());
        let [server_name, alpn, ja4] = hello.map(|hello| hello.texts.split()).unwrap_or_default();
        let (endpoint, local_port, connect) = match self.route_and_reached() {
            Some((_, &Reached::Endpoint { address, local_port, microseconds })) => {
                (Some(address), local_port, Some(Duration::from_micros(microseconds.into())))
            }
            _ => (None, None, None),
        };
        Line {
            time: SystemTime::now(),
            id,
            source: self.source(),
            balancer: self.story.as_ref().and_then(|story| story.balancer.as_deref().copied()).map(SocketAddr::from),
            listener: &self.listener.name,
            server_name,
            alpn,
            ja4,
            ech: hello.map(|hello| hello.ech),
            hello_bytes: hello.map(|hello| hello.bytes),
            hello_records: hello.map(|hello| hello.records),
            route: self.route_and_reached().map(|(route, _)| &*route.name),
            upstream: self.upstream(),
            endpoint,
            local_port,
            connect,
            duration: self.accepted.elapsed(),
            sent: self.live.sent(),
            received: self.live.received(),
            spliced: self.live.spliced(),
            phase: self.phase.label(),
            reason: end.reason.label(),
            closed_by: end.closed_by.label(),
            hint: hint(end.reason),
        }
    }

    fn route_and_reached(&self) -> Option<(&Route, &Reached)> {
        self.story.as_ref()?.routed.as_ref().map(|routed| (&*routed.route, &routed.reached))
    }

    fn upstream(&self) -> Option<&str> {
        self.route_and_reached().map(|(route, _)| &*route.upstream_name)
    }

    pub(super) fn id(&self) -> String {
        self.tools.ids.name(self.number)
    }

    /// The program's own log hears of an end by whose fault it was.
    fn tell(&self, end: End) {
        let (source, listener) = (self.source(), &self.listener.name);
        let (reason, phase) = (end.reason.label(), self.phase.label());
        match end.reason.fault() {
            Fault::None | Fault::Client => {
                tracing::debug!(id = self.id(), %source, %listener, phase, reason, "connection ended");
            }
            Fault::Upstream => {
                let upstream = self.upstream();
                tracing::warn!(id = self.id(), %source, %listener, upstream, phase, reason, "connection ended");
            }
            Fault::Ours => {
                tracing::error!(id = self.id(), %source, %listener, phase, reason, "connection ended");
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Without an end it was cut short: by a panic, or by our stop.
        let stopped = self.live.stop_reason().filter(|_| !std::thread::panicking());
        let reason = stopped.unwrap_or(Reason::Internal);
        let end = self.end.unwrap_or(End { reason, closed_by: ClosedBy::Snigate });
        self.tell(end);
        if self.tools.log.is_on() {
            self.tools.log.write(&self.line(&self.id(), end));
        }
    }
}

fn hint(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::NoServerName => {
            Some("the client sent no server name: set tls-server-name in its kubeconfig, or no_server_name in a route")
        }
        Reason::ProxyHeaderInvalid => {
            Some("a PROXY header must come first here: have the balancer send one, or leave proxy_protocol out")
        }
        Reason::ProxySourceUntrusted => {
            Some("only trusted proxies may connect here: if this is one, add it to proxy_protocol.trusted")
        }
        Reason::NotTls => Some(
            "the client does not speak TLS: use https:// in its URL; a balancer that sends PROXY headers needs \
             proxy_protocol in the listener",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LogFormat};
    use crate::connection::Ids;
    use crate::limits::tests::undecided;
    use crate::observe::access_log::AccessLog;
    use crate::observe::lines::tests::Memory;
    use crate::observe::live::LiveTable;
    use crate::relay::{Pipes, Scratch};
    use std::cell::Cell;
    use tokio::runtime::{Builder, LocalOptions};

    /// The id, reason and closer of every line.
    fn ends(memory: &Memory) -> Vec<[String; 3]> {
        let text = memory.0.lock().unwrap();
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        let line = |line| serde_json::from_slice::<serde_json::Value>(line).unwrap();
        let end = |line: serde_json::Value| {
            ["id", "reason", "closed_by"].map(|field| line[field].as_str().unwrap().to_owned())
        };
        lines.map(line).map(end).collect()
    }

    fn config() -> Config {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        Config::parse(yaml).unwrap()
    }

    fn listener() -> Arc<Listener> {
        Arc::new(config().listeners.remove(0))
    }

    fn tools(memory: &Memory) -> Rc<Tools> {
        Rc::new(Tools {
            scratch: Scratch::new(),
            pipes: Pipes::new(0, 0),
            live: Rc::new(LiveTable::default()),
            undecided: undecided(&config()).0,
            log: AccessLog::new(LogFormat::Json, memory.clone()).unwrap(),
            ids: Ids { prefix: "a-b-".into(), next: Cell::new(0) },
        })
    }

    const SOURCE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn what_is_only_told_at_the_end_fits_into_a_gap() {
        // Sockets and task are aligned to 128 bytes, and with glibc's bookkeeping of 16 a gap of 112 follows, of which 104
        // can be used. The live entry and the texts take the other two.
        let size = size_of::<Story>();
        assert!(size <= 104, "{size}");
    }

    #[test]
    fn texts_come_out_as_they_went_in() {
        for texts in
            [[None; 3], [Some(""), None, Some("")], [Some("a.test"), Some("h2…"), None], [None, None, Some("c")]]
        {
            assert_eq!(Texts::join(texts).split(), texts);
        }
    }

    #[test]
    fn a_panic_costs_its_own_connection_and_leaves_its_line() {
        let memory = Memory::default();
        let (listener, tools) = (listener(), tools(&memory));
        let open = || Record::open(SOURCE, Arc::clone(&listener), Rc::clone(&tools));
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (unlucky, other) = (open(), open());
            let unlucky = tokio::task::spawn_local(async move {
                let _record = unlucky;
                panic!("a defect, for the test of it");
            });
            assert!(unlucky.await.unwrap_err().is_panic());
            assert_eq!(tools.live.len(), 1);
            let other = tokio::task::spawn_local(async move {
                other.close(End { reason: Reason::ClientClosed, closed_by: ClosedBy::Client });
            });
            other.await.unwrap();
        });
        assert!(tools.live.is_empty());
        tools.log.flush();
        assert_eq!(
            ends(&memory),
            [["a-b-0", "internal", "snigate"], ["a-b-1", "client_closed", "client"]].map(|end| end.map(str::to_owned))
        );
    }

    #[test]
    fn a_connection_that_a_stop_cuts_short_is_drained() {
        let memory = Memory::default();
        let tools = tools(&memory);
        let record = Record::open(SOURCE, listener(), Rc::clone(&tools));
        tools.live.stop_all(Reason::Drained);
        drop(record);
        tools.log.flush();
        assert_eq!(ends(&memory)[0][1..], ["drained", "snigate"]);
    }
}
