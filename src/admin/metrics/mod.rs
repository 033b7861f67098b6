//! `/metrics`: everything that is counted and known, in families of figures.
//!
//! README.md lists them; a test holds the list against what is written here.

mod connections;
mod families;
mod gate;
mod process;
mod upstreams;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::Known;
use families::Families;

/// The figures as they are now, as OpenMetrics. Takes some milliseconds where there are thousands of routes.
pub(super) fn render(known: &Arc<Known>) -> String {
    let mut gate = Registry::with_prefix("snigate");
    gate.register_collector(Box::new(Gate(Arc::clone(known))));
    let mut process = Registry::with_prefix("process");
    process.register_collector(Box::new(Process(Arc::clone(known))));
    let mut text = String::new();
    // A string takes everything.
    let _ = encode_registry(&mut text, &gate);
    let _ = encode_registry(&mut text, &process);
    let _ = encode_eof(&mut text);
    text
}

#[derive(Debug)]
struct Gate(Arc<Known>);

#[derive(Debug)]
struct Process(Arc<Known>);

impl Collector for Gate {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = &mut Families(encoder);
        connections::write(families, &self.0.view)?;
        upstreams::write(families, &self.0.view)?;
        gate::write(families, &self.0)
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        process::write(&mut Families(encoder), &self.0.view)
    }
}
