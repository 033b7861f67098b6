//! `routes`: the table, with what became of connections.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::observe::metrics::Lane;
use crate::outcome::{Reason, Side};
use crate::routing::Route;
use crate::server::View;

pub(super) fn routes(view: &View) -> Value {
    let mut lanes: HashMap<Arc<str>, Vec<Arc<Lane>>> = HashMap::new();
    for lane in view.workers.iter().flat_map(|worker| worker.tally.lanes()) {
        if let Some((route, _)) = &lane.route {
            lanes.entry(Arc::clone(route)).or_default().push(lane);
        }
    }
    let config = &view.current.load().config;
    let taken = |route: &Arc<Route>| one(route, lanes.get(&route.name).map(Vec::as_slice).unwrap_or_default());
    json!({ "routes": config.routes.iter().map(taken).collect::<Vec<_>>() })
}

fn one(route: &Route, lanes: &[Arc<Lane>]) -> Value {
    let sum = |of: &dyn Fn(&Lane) -> u64| lanes.iter().map(|lane| of(lane)).sum::<u64>();
    let ended = |reason: &Reason| Some((*reason, sum(&|lane| lane.ended(*reason)))).filter(|(_, count)| *count > 0);
    let ended: Map<String, Value> =
        Reason::ALL.iter().filter_map(ended).map(|(reason, count)| (reason.label().to_owned(), json!(count))).collect();
    json!({
        "name": *route.name,
        "server_names": route.server_names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "no_server_name": route.no_server_name,
        "listeners": route.listeners.as_ref().map(|names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>()),
        "alpn": route.alpn.iter().map(|one| String::from_utf8_lossy(one.as_bytes()).into_owned()).collect::<Vec<_>>(),
        "upstream": *route.upstream_name,
        // Counted by each worker by itself, and read one after the other.
        "open": sum(&|lane| lane.begun()).saturating_sub(sum(&|lane| lane.ended_in_all())),
        "ended": ended,
        "sent": sum(&|lane| lane.bytes(Side::Client)),
        "received": sum(&|lane| lane.bytes(Side::Upstream)),
    })
}
