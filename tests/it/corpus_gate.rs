//! The ClientHello corpus through a running gate: the right upstream gets the very bytes, or no upstream gets any.

use crate::corpus::{Sample, Suggested, samples};
use crate::support::gate::{Gate, routing};
use crate::support::tcp::{self, End, Upstream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};

/// A gate with an upstream for each name that the corpus routes.
struct Stage {
    gate: Gate,
    upstreams: BTreeMap<String, Upstream>,
}

impl Stage {
    fn set(samples: &[Sample]) -> Self {
        let routed = samples
            .iter()
            .filter(|sample| sample.suggested != Suggested::Deny)
            .filter_map(|s| s.sni_normalized.clone());
        let upstreams: BTreeMap<String, Upstream> = routed.map(|name| (name, Upstream::recording())).collect();
        let gate = Gate::start(&routing(upstreams.iter().map(|(name, upstream)| (name, upstream.address()))));
        Self { gate, upstreams }
    }

    fn visits(&self) -> usize {
        self.upstreams.values().map(|upstream| upstream.visits().len()).sum()
    }

    /// Sends a sample, cut so that the gate reads the parts one by one, and a FIN; then sees where it went: the
    /// upstream's name, if any.
    fn send(&self, sample: &Sample, cuts: impl IntoIterator<Item = usize>) -> Option<String> {
        let before: BTreeMap<&str, usize> =
            self.upstreams.iter().map(|(name, upstream)| (name.as_str(), upstream.visits().len())).collect();
        let lines = self.gate.log.count();
        let mut client = tcp::connect(self.gate.address());
        match write(&mut client, &sample.bytes, cuts) {
            // A refusal may come while there is more to send.
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected) => {}
            sent => sent.unwrap(),
        }
        tcp::read_to_end(&mut client);
        let line = self.gate.log.line(lines);
        let reached: Vec<_> =
            self.upstreams.iter().filter(|(name, upstream)| upstream.visits().len() > before[name.as_str()]).collect();
        assert!(reached.len() <= 1, "{}: several upstreams", sample.file);
        let Some((name, upstream)) = reached.first() else {
            assert_eq!((&line["route"], &line["upstream"]), (&Value::Null, &Value::Null), "{}: {line}", sample.file);
            return None;
        };
        let visit = upstream.visit(before[name.as_str()]);
        assert_eq!(visit.wait_for_end(), End::Eof, "{}", sample.file);
        assert!(visit.bytes() == sample.bytes, "{}: the bytes are not the same", sample.file);
        assert_eq!(line["route"], name.as_str(), "{}: {line}", sample.file);
        assert_eq!(line["sent"], sample.bytes.len(), "{}: {line}", sample.file);
        Some((*name).clone())
    }
}

fn write(client: &mut TcpStream, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> io::Result<()> {
    let mut sent = 0;
    for cut in cuts.into_iter().filter(|cut| (1..bytes.len()).contains(cut)) {
        tcp::write_in_pieces(client, [&bytes[sent..cut]])?;
        sent = cut;
    }
    client.write_all(&bytes[sent..])?;
    client.shutdown(Shutdown::Write)
}

#[test]
fn what_is_routable_reaches_its_upstream_unchanged() {
    let Some(samples) = samples() else { return };
    let stage = Stage::set(&samples);
    let routable: Vec<&Sample> = samples.iter().filter(|sample| sample.suggested == Suggested::Route).collect();
    assert!(routable.len() > 100);
    for (number, sample) in routable.iter().enumerate() {
        let len = sample.bytes.len();
        let mut ways = vec![("whole", vec![]), ("in halves", vec![len / 2])];
        if len > 1400 {
            ways.push(("in segments", (1400..len).step_by(1400).collect()));
        }
        if number % 50 == 0 {
            // Where the lengths are; the parser's own tests go through all of it.
            ways.push(("byte by byte", (1..60).collect()));
        }
        for (way, cuts) in ways {
            assert_eq!(stage.send(sample, cuts), sample.sni_normalized, "{} {way}", sample.file);
        }
    }
    for sample in samples.iter().filter(|sample| sample.suggested == Suggested::Either) {
        let reached = stage.send(sample, []);
        assert!(reached.is_none() || reached == sample.sni_normalized, "{} reached {reached:?}", sample.file);
    }
}

#[test]
fn everything_else_reaches_nobody() {
    let Some(samples) = samples() else { return };
    let stage = Stage::set(&samples);
    let denied: Vec<&Sample> = samples.iter().filter(|sample| sample.suggested == Suggested::Deny).collect();
    assert!(denied.len() > 100);
    for sample in &denied {
        assert_eq!(stage.send(sample, []), None, "{}", sample.file);
    }
    assert_eq!(stage.gate.log.count(), denied.len());
    assert_eq!(stage.visits(), 0);
}
