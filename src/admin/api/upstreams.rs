//! `upstreams`: endpoints, as they stand and with what they showed.

use std::sync::Arc;

use serde_json::{Value, json};

use super::status::time;
use crate::server::View;
use crate::upstream::certificate::Certificate;
use crate::upstream::{Placed, Upstream};

pub(super) fn upstreams(view: &View) -> Value {
    let snapshot = view.current.load();
    json!({ "upstreams": snapshot.upstreams.iter().map(one).collect::<Vec<_>>() })
}

fn one(upstream: &Arc<Upstream>) -> Value {
    let (connecting, waiting) = upstream.connecting();
    json!({
        "name": *upstream.name,
        "connecting": connecting,
        "waiting": waiting,
        "endpoints": upstream.endpoints().iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(placed: &Placed) -> Value {
    let endpoint = &placed.endpoint;
    json!({
        "address": endpoint.address.to_string(),
        "target": *placed.target,
        "state": placed.standing.to_string(),
        "weight": placed.weight,
        "backup": placed.backup,
        "open": endpoint.open(),
        "connects": endpoint.connected(),
        "connect_failures": endpoint.failed(),
        "certificate": endpoint.certificate().map(|shown| certificate(&shown)),
    })
}

fn certificate(shown: &Certificate) -> Value {
    json!({
        "names": shown.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "issuer": shown.issuer,
        "not_after": time(shown.not_after),
    })
}
