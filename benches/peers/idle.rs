//! What an idle connection costs in memory: many are opened, each proves that it works, and all fall silent.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::cgroup::Cgroup;
use super::ends::{Protocol, connect};
use super::figures;
use super::subjects::{HELLO, Running};

/// Bytes of process memory a connection.
pub(crate) struct Idle {
    pub(crate) at_rest: f64,
    pub(crate) after_burst: f64,
}

/// Connections that are opened, or that talk, at the same time.
const WAVE: usize = 100;
/// Connections that must remain beside the idle ones.
pub(crate) const SPARE: usize = 200;
/// What a connection says once to prove that it is there.
const WORD: usize = 16;
/// What each connection sends and gets back in the burst; more than a proxy's buffers hold.
const BURST: usize = 64 * 1024;
/// How long silence lasts before memory is read.
const SILENCE: Duration = Duration::from_millis(1500);

/// Memory of the container in [`measure_contained`].
const CONTAINER: u64 = 128 * 1024 * 1024;

/// Opens this many connections to a fresh subject and reads its memory.
pub(crate) fn measure(running: &Running, connections: usize) -> io::Result<Idle> {
    let pids = running.pids();
    let mut streams = open(running, WAVE)?; // what the first connections cost once is not theirs
    thread::sleep(SILENCE);
    let before = figures::memory(&pids);
    streams.append(&mut open(running, connections)?);
    thread::sleep(SILENCE);
    let at_rest = figures::memory(&pids);
    for wave in streams.chunks(WAVE) {
        talk(wave, BURST)?;
    }
    thread::sleep(SILENCE);
    let after_burst = figures::memory(&pids);
    let share = |now: u64| (now as f64 - before as f64) / connections as f64;
    Ok(Idle { at_rest: share(at_rest), after_burst: share(after_burst) })
}

/// Bytes that this many idle connections take of a container, the kernel's share included, with what the process has at
/// rest. Where no group can be limited so, they are counted from the kernel's slabs.
pub(crate) fn measure_contained(running: &Running, connections: usize) -> io::Result<f64> {
    let pids = running.pids();
    let (at_rest, slabs) = (figures::memory(&pids), figures::slabs());
    let group = Cgroup::limited(CONTAINER.saturating_sub(at_rest)).and_then(|group| {
        pids.iter().try_for_each(|pid| group.add(*pid))?;
        Ok(group)
    });
    let streams = open(running, connections)?;
    thread::sleep(SILENCE);
    let used = match &group {
        Ok(group) => at_rest + group.usage()?,
        Err(error) => {
            eprintln!("  no control group with a memory limit: {error}; counted from slabs");
            // Each of its sockets has another end on this machine, which takes as much.
            figures::memory(&pids) + figures::slabs().saturating_sub(slabs) / 2
        }
    };
    // All of them still work, and there is room for more.
    for wave in streams.chunks(WAVE) {
        talk(wave, WORD)?;
    }
    open(running, WAVE)?;
    Ok(used as f64)
}

/// Opens connections that have talked once and fall silent.
pub(crate) fn open(running: &Running, connections: usize) -> io::Result<Vec<TcpStream>> {
    let target = running.target(Protocol::Echo, HELLO);
    let mut streams = Vec::with_capacity(connections);
    while streams.len() < connections {
        let mut wave = Vec::new();
        for turn in 0..WAVE.min(connections - streams.len()) {
            let mut stream = connect(target.address, turn)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.set_write_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(&target.hello)?;
            wave.push(stream);
        }
        talk(&wave, WORD)?;
        streams.append(&mut wave);
    }
    Ok(streams)
}

/// Sends this much on every connection, then takes it all back.
fn talk(streams: &[TcpStream], size: usize) -> io::Result<()> {
    let mut bytes = vec![7; size];
    for mut stream in streams {
        stream.write_all(&bytes)?;
    }
    for mut stream in streams {
        stream.read_exact(&mut bytes)?;
    }
    Ok(())
}
