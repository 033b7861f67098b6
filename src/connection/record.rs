//! What is remembered of a connection while it lives, and written down when it has ended.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Tools;
use crate::hello::{ClientHello, ja4};
use crate::limits::Permits;
use crate::observe::access_log::{AccessLog, Line};
use crate::observe::live::LiveEntry;
use crate::observe::metrics::Lane;
use crate::observe::story::Story;
use crate::outcome::{ClosedBy, Fault, Phase, Reason, Side};
use crate::relay::End;
use crate::routing::Route;
use crate::snapshot::Entrance;
use crate::upstream::Connection;

/// One connection's entry in the table of live ones and its line-to-be in the access log. Whatever becomes of the
/// connection, a panic included, the line is written and the entry is given back.
pub(super) struct Record {
    tools: Rc<Tools>,
    live: LiveEntry,
    permits: Permits,
    end: Option<End>,
}

impl Record {
    pub(super) fn open(source: SocketAddr, Entrance { plate, listener, .. }: &Entrance, tools: Rc<Tools>) -> Self {
        let lanes = &tools.lanes;
        lanes.count(lanes.of_listener(&plate.listener), Lane::begin);
        let phase = if listener.proxy_protocol.is_some() { Phase::ProxyHeader } else { Phase::Hello };
        let live = tools.live.enter(source, Arc::clone(plate), phase);
        Self { live, permits: Permits::default(), end: None, tools }
    }

    pub(super) fn tools(&self) -> &Rc<Tools> {
        &self.tools
    }

    pub(super) fn live(&self) -> &LiveEntry {
        &self.live
    }

    pub(super) fn story(&self) -> &Story {
        self.live.story()
    }

    /// What the connection is counted in, to the end.
    pub(super) fn permits(&mut self) -> &mut Permits {
        &mut self.permits
    }

    pub(super) fn source(&self) -> SocketAddr {
        self.story().source()
    }

    pub(super) fn accepted(&self) -> Instant {
        self.story().accepted()
    }

    pub(super) fn heard(&self, hello: &ClientHello, raw: &[u8], route: Option<&Route>) {
        let tally = self.tools.lanes.tally();
        tally.hello_bytes.note(hello.len as u64);
        tally.hello_records.note(hello.records as u64);
        tally.hello_time.note(microseconds(self.accepted().elapsed()));
        let ja4 = self.tools.show_all().then(|| ja4(raw)).flatten();
        self.story().hear(hello, route, ja4.as_deref());
    }

    pub(super) fn decided(&self, route: &Arc<Route>) {
        let (story, lanes) = (self.story(), &self.tools.lanes);
        story.decide(route);
        let lane = lanes.of_route(&story.plate().listener, &route.name, &route.upstream_name);
        lanes.count(lane, Lane::begin);
        self.live.take(lane);
    }

    pub(super) fn connected(&self, connection: &Connection, route: &Route) {
        self.live.count(Side::Client, connection.sent);
        let local = self.tools.show_all().then(|| connection.socket.local_addr().ok()).flatten();
        self.story().arrive(local.map(|local| local.port()));
        if let (Some(lane), Some(time)) = (self.live.lane(), self.story().connecting()) {
            self.tools.lanes.count(lane, |lane| lane.connected(microseconds(time)));
        }
        self.live.heed(connection.lease.notice());
        self.live.limit_silence(route.idle_timeout, route.half_close_timeout);
    }

    pub(super) fn close(mut self, end: End) {
        self.end = Some(end);
    }

    fn write_line(&self, log: &AccessLog, end: End) {
        let story = self.story();
        let (hello, route) = (story.hello(), story.route());
        let server_name = hello.and_then(|hello| hello.said.server_name_text());
        let alpn = hello.and_then(|hello| hello.said.protocols_text());
        log.write(&Line {
            time: SystemTime::now(),
            id: &self.live.id(),
            source: story.source(),
            balancer: story.balancer(),
            listener: &story.plate().listener,
            server_name: server_name.as_deref(),
            alpn: alpn.as_deref(),
            ja4: hello.and_then(|hello| hello.said.ja4()),
            ech: hello.map(|hello| hello.ech),
            hello_bytes: hello.map(|hello| hello.bytes),
            hello_records: hello.map(|hello| hello.records),
            route: route.map(|route| &*route.name),
            upstream: route.map(|route| &*route.upstream_name),
            endpoint: self.live.endpoint(),
            local_port: story.local_port(),
            connect: story.connecting(),
            duration: story.accepted().elapsed(),
            sent: self.live.sent(),
            received: self.live.received(),
            spliced: self.live.spliced(),
            phase: story.phase().label(),
            reason: end.reason.label(),
            closed_by: end.closed_by.label(),
            hint: hint(end.reason),
        });
    }

    fn count(&self, end: End) {
        let (lanes, live) = (&self.tools.lanes, &self.live);
        let lane = live.lane().unwrap_or_else(|| lanes.of_listener(&self.story().plate().listener));
        lanes.count(lane, |lane| lane.end(end.reason, live.sent(), live.received()));
        lanes.tally().duration.note(microseconds(self.accepted().elapsed()));
    }

    /// The program's own log hears of an end by whose fault it was, and of what is not the client's not too often.
    fn tell(&self, end: End) {
        let (fault, story) = (end.reason.fault(), self.story());
        let (source, listener) = (story.source(), &story.plate().listener);
        let (reason, phase) = (end.reason.label(), story.phase().label());
        if matches!(fault, Fault::None | Fault::Client) {
            tracing::debug!(id = self.live.id(), %source, %listener, phase, reason, "connection ended");
            return;
        }
        let Some(untold) = self.tools.troubles.due(end.reason) else { return };
        // Of those there were none, mostly.
        let untold = (untold > 0).then_some(untold);
        let upstream = story.route().map(|route| &*route.upstream_name);
        if fault == Fault::Upstream {
            tracing::warn!(id = self.live.id(), %source, %listener, upstream, phase, reason, untold, "connection ended");
        } else {
            tracing::error!(id = self.live.id(), %source, %listener, upstream, phase, reason, untold, "connection ended");
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Without an end it was cut short: by a panic, or by our stop.
        let stopped = self.live.stop_reason().filter(|_| !std::thread::panicking());
        if self.end.is_none() {
            self.live.note_cut();
        }
        let reason = stopped.unwrap_or(Reason::Internal);
        let end = self.end.unwrap_or(End { reason, closed_by: ClosedBy::Snigate });
        self.tell(end);
        self.count(end);
        if self.tools.log.is_on() {
            self.write_line(&self.tools.log, end);
        }
    }
}

fn microseconds(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
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
    use crate::config::LogFormat;
    use crate::limits::tests::undecided;
    use crate::observe::lines::tests::Memory;
    use crate::observe::live::LiveTable;
    use crate::observe::metrics::{Count, Lanes};
    use crate::observe::troubles::Troubles;
    use crate::relay::{Pipes, Scratch};
    use crate::snapshot::tests::{config, entrance};
    use arc_swap::ArcSwap;
    use std::net::IpAddr;
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

    fn tools(memory: &Memory) -> Rc<Tools> {
        Rc::new(Tools {
            current: Arc::new(ArcSwap::new(entrance().snapshot)),
            scratch: Scratch::new(),
            pipes: Pipes::new(0, 0),
            live: Rc::new(LiveTable::default()),
            undecided: undecided(&config()).0,
            lanes: Lanes::default(),
            log: AccessLog::new(LogFormat::Json, memory.clone()).unwrap(),
            troubles: Troubles::default(),
        })
    }

    const SOURCE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn a_panic_costs_its_own_connection_and_leaves_its_line() {
        let memory = Memory::default();
        let (entrance, tools) = (entrance(), tools(&memory));
        let open = || Record::open(SOURCE, &entrance, Rc::clone(&tools));
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
            [["0", "internal", "snigate"], ["1", "client_closed", "client"]].map(|end| end.map(str::to_owned))
        );
    }

    #[test]
    fn a_connection_holds_neither_listener_nor_snapshot() {
        let entrance = entrance();
        let held = (Arc::downgrade(&entrance.listener), Arc::downgrade(&entrance.snapshot));
        let record = Record::open(SOURCE, &entrance, tools(&Memory::default()));
        record.story().decide(&config().routes[0]);
        drop(entrance);
        assert!(held.0.upgrade().is_none() && held.1.upgrade().is_none());
        assert_eq!(&*record.story().plate().listener, "127.0.0.1:0");
    }

    #[test]
    fn a_connection_is_counted_where_it_was_when_it_ended() {
        let (config, tools, entrance) = (config(), tools(&Memory::default()), entrance());
        let open = || Record::open(SOURCE, &entrance, Rc::clone(&tools));
        let end = |reason| End { reason, closed_by: ClosedBy::Client };
        open().close(end(Reason::NotTls));
        let routed = open();
        routed.decided(&config.routes[0]);
        routed.live().count(Side::Client, 500);
        let undecided = open();
        tools.tick();
        let lanes = tools.lanes.tally().lanes();
        let [unrouted, lane] = lanes.as_slice() else { panic!("{lanes:?}") };
        assert_eq!((unrouted.begun(), lane.begun(), lane.bytes(Side::Client)), (3, 1, 500));
        let states = || tools.lanes.tally().now.states.each_ref().map(Count::read);
        assert_eq!(states(), [1, 1, 0, 0]);
        routed.story().arrive(None);
        tools.tick();
        assert_eq!(states(), [1, 0, 1, 0]);
        routed.live().half_close();
        tools.tick();
        assert_eq!(states(), [1, 0, 0, 1]);
        routed.close(end(Reason::ClientClosed));
        drop(undecided);
        tools.tick();
        assert_eq!(states(), [0; 4]);
        assert_eq!((unrouted.ended(Reason::NotTls), unrouted.ended(Reason::Internal)), (1, 1));
        assert_eq!((lane.ended(Reason::ClientClosed), lane.ended_in_all(), lane.bytes(Side::Client)), (1, 1, 500));
    }

    #[test]
    fn a_connection_that_a_stop_cuts_short_is_drained() {
        let memory = Memory::default();
        let tools = tools(&memory);
        let record = Record::open(SOURCE, &entrance(), Rc::clone(&tools));
        tools.live.stop_all(Reason::Drained);
        drop(record);
        tools.log.flush();
        assert_eq!(ends(&memory)[0][1..], ["drained", "snigate"]);
        assert_eq!(tools.live.cut(), 1);
    }
}
