//! What is remembered of a connection while it lives, and written down when it has ended.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::Tools;
use crate::config::Listener;
use crate::hello::{AlpnProtocol, ClientHello, Sni, ja4};
use crate::observe::access_log::{Line, TEXT_LIMIT, escaped};
use crate::observe::live::LiveEntry;
use crate::outcome::{ClosedBy, Fault, Phase, Reason};
use crate::relay::End;
use crate::routing::Route;
use crate::upstream::{Connection, Upstream};

/// Names connections: unique on this host, also across restarts.
#[derive(Debug)]
pub struct Ids {
    /// What the names of one worker begin with: when it started, in microseconds since the epoch, and its number.
    prefix: String,
    next: Cell<u64>,
}

impl Ids {
    /// The names that one worker gives.
    pub fn of_worker(worker: usize) -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        Self { prefix: format!("{start:x}-{worker:x}-"), next: Cell::new(0) }
    }

    fn next(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    fn name(&self, number: u64) -> String {
        format!("{}{number:x}", self.prefix)
    }
}

/// One connection's entry in the table of live ones and its line-to-be in the access log. Whatever becomes of the
/// connection, a panic included, the line is written and the entry is given back.
pub(super) struct Record {
    tools: Rc<Tools>,
    listener: Arc<Listener>,
    live: LiveEntry,
    number: u64,
    accepted: Instant,
    source: SocketAddr,
    phase: Phase,
    hello: Option<Box<Heard>>,
    routed: Option<Box<Routed>>,
    end: Option<End>,
}

/// What the log keeps of a hello.
struct Heard {
    server_name: Option<Box<str>>,
    alpn: Option<Box<str>>,
    ja4: Option<Box<str>>,
    ech: bool,
    bytes: usize,
    records: usize,
}

struct Routed {
    route: Arc<str>,
    upstream: Arc<str>,
    decided: Instant,
    connected: Option<Connected>,
}

struct Connected {
    endpoint: SocketAddr,
    local_port: Option<u16>,
    took: Duration,
}

impl Record {
    pub(super) fn open(source: SocketAddr, listener: Arc<Listener>, tools: Rc<Tools>) -> Self {
        Self {
            live: tools.live.enter(),
            number: tools.ids.next(),
            accepted: Instant::now(),
            // Dual-stack listeners see IPv4 clients as v4-mapped: lists and log mean the address itself.
            source: SocketAddr::new(source.ip().to_canonical(), source.port()),
            phase: Phase::Hello,
            hello: None,
            routed: None,
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

    pub(super) fn source(&self) -> SocketAddr {
        self.source
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    pub(super) fn heard(&mut self, hello: &ClientHello, raw: &[u8]) {
        if !self.tools.log.is_on() {
            return;
        }
        let server_name = match &hello.server_name {
            Sni::Absent => None,
            Sni::Name(name) => Some(name.as_str().into()),
            Sni::Invalid(sent) => Some(escaped(sent).into()),
        };
        // A hello has room for thousands: no more than the line will show.
        let offered = hello.alpn.iter().take(TEXT_LIMIT).map(AlpnProtocol::as_bytes).collect::<Vec<_>>();
        self.hello = Some(Box::new(Heard {
            server_name,
            alpn: (!offered.is_empty()).then(|| escaped(&offered.join(&b',')).into()),
            ja4: ja4(raw).map(Into::into),
            ech: hello.ech,
            bytes: hello.len,
            records: hello.records,
        }));
    }

    pub(super) fn routed(&mut self, route: &Route, upstream: &Upstream) {
        self.phase = Phase::Connecting;
        self.routed = Some(Box::new(Routed {
            route: Arc::clone(&route.name),
            upstream: Arc::clone(&upstream.name),
            decided: Instant::now(),
            connected: None,
        }));
    }

    pub(super) fn connected(&mut self, connection: &Connection) {
        if let Some(routed) = &mut self.routed {
            routed.connected = Some(Connected {
                endpoint: connection.address,
                local_port: connection.socket.local_addr().ok().map(|address| address.port()),
                took: routed.decided.elapsed(),
            });
        }
    }

    pub(super) fn relaying(&mut self, route: &Route) {
        self.phase = Phase::Relaying;
        self.live.limit_silence(route.idle_timeout, route.half_close_timeout);
    }

    pub(super) fn close(mut self, end: End) {
        self.end = Some(end);
    }

    fn line<'a>(&'a self, id: &'a str, end: End) -> Line<'a> {
        let hello = self.hello.as_deref();
        let routed = self.routed.as_deref();
        let connected = routed.and_then(|routed| routed.connected.as_ref());
        Line {
            time: SystemTime::now(),
            id,
            source: self.source,
            listener: &self.listener.name,
            server_name: hello.and_then(|hello| hello.server_name.as_deref()),
            alpn: hello.and_then(|hello| hello.alpn.as_deref()),
            ja4: hello.and_then(|hello| hello.ja4.as_deref()),
            ech: hello.map(|hello| hello.ech),
            hello_bytes: hello.map(|hello| hello.bytes),
            hello_records: hello.map(|hello| hello.records),
            route: routed.map(|routed| &*routed.route),
            upstream: routed.map(|routed| &*routed.upstream),
            endpoint: connected.map(|connected| connected.endpoint),
            local_port: connected.and_then(|connected| connected.local_port),
            connect: connected.map(|connected| connected.took),
            duration: self.accepted.elapsed(),
            sent: self.live.sent(),
            received: self.live.received(),
            phase: self.phase.label(),
            reason: end.reason.label(),
            closed_by: end.closed_by.label(),
            hint: hint(end.reason),
        }
    }

    /// The program's own log hears of an end by whose fault it was.
    fn tell(&self, id: &str, end: End) {
        let (source, listener) = (self.source, &self.listener.name);
        let (reason, phase) = (end.reason.label(), self.phase.label());
        match end.reason.fault() {
            Fault::None | Fault::Client => tracing::debug!(id, %source, %listener, phase, reason, "connection ended"),
            Fault::Upstream => {
                let upstream = self.routed.as_ref().map(|routed| &*routed.upstream);
                tracing::warn!(id, %source, %listener, upstream, phase, reason, "connection ended");
            }
            Fault::Ours => tracing::error!(id, %source, %listener, phase, reason, "connection ended"),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Without an end it was cut short: by a panic, or by our stop.
        let stopped = self.live.stop_reason().filter(|_| !std::thread::panicking());
        let reason = stopped.unwrap_or(Reason::Internal);
        let end = self.end.unwrap_or(End { reason, closed_by: ClosedBy::Snigate });
        let id = self.tools.ids.name(self.number);
        self.tell(&id, end);
        if self.tools.log.is_on() {
            self.tools.log.write(&self.line(&id, end));
        }
    }
}

fn hint(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::NoServerName => {
            Some("the client sent no server name: set tls-server-name in its kubeconfig, or no_server_name in a route")
        }
        Reason::NotTls => Some("the client does not speak TLS: use https:// in its URL"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LogFormat};
    use crate::observe::access_log::AccessLog;
    use crate::observe::lines::tests::Memory;
    use crate::observe::live::LiveTable;
    use crate::relay::{Pipes, Scratch};
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

    fn listener() -> Arc<Listener> {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        Arc::new(Config::parse(yaml).unwrap().listeners.remove(0))
    }

    fn tools(memory: &Memory) -> Rc<Tools> {
        Rc::new(Tools {
            upstreams: Vec::new(),
            scratch: Scratch::new(),
            pipes: Pipes::default(),
            live: Rc::new(LiveTable::default()),
            log: AccessLog::new(LogFormat::Json, memory.clone()).unwrap(),
            ids: Ids { prefix: "a-b-".into(), next: Cell::new(0) },
        })
    }

    const SOURCE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

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
