//! Upstreams: how their endpoints stand and what they did, and how old the answers of DNS are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::families::{Families, Labels, float};
use crate::server::View;
use crate::upstream::balance::Standing;
use crate::upstream::{Placed, Upstream};

pub(super) fn write(families: &mut Families<'_>, view: &View) -> fmt::Result {
    let snapshot = view.current.load_full();
    let upstreams = &snapshot.upstreams;
    let endpoints: Vec<_> = upstreams.iter().flat_map(|upstream| endpoints(upstream)).collect();
    write_endpoints(families, &endpoints)?;
    let connecting = |pick: fn((usize, usize)) -> usize| {
        upstreams.iter().map(move |upstream| ([("upstream", &*upstream.name)], float(pick(upstream.connecting()))))
    };
    families.gauge("upstream_connecting", "Connects under way", connecting(|(under_way, _)| under_way))?;
    families.gauge(
        "upstream_waiting",
        "Clients that wait for their turn to connect",
        connecting(|(_, waiting)| waiting),
    )?;
    let mut ages: BTreeMap<String, f64> = BTreeMap::new();
    for (name, age) in view.ages.read() {
        // Several may follow one name; before its first answer it has no age.
        let age = age.map_or(f64::NAN, |age| age.as_secs_f64());
        ages.entry(name).and_modify(|least| *least = least.min(age)).or_insert(age);
    }
    families.gauge(
        "dns_age_seconds",
        "Time since DNS, or a file of the host, answered for a configured name; NaN before the first answer",
        ages.iter().map(|(name, age)| ([("name", name.as_str())], *age)),
    )
}

/// An endpoint with the words for it.
struct Known {
    upstream: Arc<str>,
    address: String,
    placed: Placed,
}

impl Known {
    fn labels(&self) -> Labels<'_, 2> {
        [("upstream", &self.upstream), ("endpoint", &self.address)]
    }
}

fn endpoints(upstream: &Upstream) -> Vec<Known> {
    let known = |placed: Placed| Known {
        upstream: Arc::clone(&upstream.name),
        address: placed.endpoint.address.to_string(),
        placed,
    };
    upstream.endpoints().into_iter().map(known).collect()
}

fn write_endpoints(families: &mut Families<'_>, endpoints: &[Known]) -> fmt::Result {
    let states = [Standing::Up, Standing::Down, Standing::Unverified, Standing::Draining];
    let states = states.map(|state| (state, state.to_string()));
    families.gauge(
        "endpoint_state",
        "1 for how an endpoint stands, 0 for how it does not",
        endpoints.iter().flat_map(|one| {
            let [upstream, endpoint] = one.labels();
            states.iter().map(move |(state, word)| {
                ([upstream, endpoint, ("state", word.as_str())], f64::from(u8::from(one.placed.standing == *state)))
            })
        }),
    )?;
    families.gauge(
        "endpoint_connections_open",
        "Connections open to an endpoint, or being opened",
        endpoints.iter().map(|one| (one.labels(), float(one.placed.endpoint.open()))),
    )?;
    families.counter(
        "endpoint_connects",
        "Connects that went well, since the endpoint is there",
        endpoints.iter().map(|one| (one.labels(), one.placed.endpoint.connected())),
    )?;
    families.counter(
        "endpoint_connect_failures",
        "Connects that did not, since the endpoint is there",
        endpoints.iter().map(|one| (one.labels(), one.placed.endpoint.failed())),
    )?;
    families.gauge(
        "endpoint_certificate_expiry_timestamp_seconds",
        "When the certificate that an endpoint showed last ends",
        endpoints.iter().filter_map(|one| {
            let ends = one.placed.endpoint.certificate()?.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some((one.labels(), ends.as_secs_f64()))
        }),
    )
}
