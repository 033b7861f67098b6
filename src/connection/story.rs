//! What is remembered of a connection for its line in the log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;

use crate::observe::access_log::TEXT_LIMIT;
use crate::routing::Route;

/// What is only kept to be told at the end. Many connections are idle for hours: this and the texts of its hello fit into
/// the gaps that allocators leave between their task and their sockets, see the test of its size.
#[derive(Default)]
pub(super) struct Story {
    /// The proxy that the client came through, if it was introduced by one.
    pub(super) balancer: Option<Box<(IpAddr, u16)>>,
    pub(super) hello: Option<Heard>,
    pub(super) routed: Option<Routed>,
}

/// What the log keeps of a hello.
pub(super) struct Heard {
    /// Server name, protocols and JA4.
    pub(super) texts: Texts,
    pub(super) ech: bool,
    pub(super) bytes: u32,
    pub(super) records: u16,
}

pub(super) struct Routed {
    pub(super) route: Arc<Route>,
    pub(super) reached: Reached,
}

/// How far the way to an endpoint has come.
pub(super) enum Reached {
    Nothing { decided: Instant },
    Endpoint { address: SocketAddr, local_port: Option<u16>, microseconds: u32 },
}

/// Short texts in one piece of memory, each there or not.
pub(super) struct Texts {
    joined: Box<str>,
    lengths: [Option<u16>; 3],
}

impl Texts {
    pub(super) fn join(texts: [Option<&str>; 3]) -> Self {
        let length = |text: &str| u16::try_from(text.len()).unwrap_or_else(|_| unreachable!("{TEXT_LIMIT} at most"));
        Self {
            joined: texts.map(Option::unwrap_or_default).concat().into(),
            lengths: texts.map(|text| text.map(length)),
        }
    }

    pub(super) fn split(&self) -> [Option<&str>; 3] {
        let mut rest = &*self.joined;
        self.lengths.map(|length| {
            let (text, after) = rest.split_at(length?.into());
            rest = after;
            Some(text)
        })
    }
}
