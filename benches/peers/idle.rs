//! What an idle connection costs in memory: many are opened, each proves that it works, and all fall silent.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

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
/// What a connection says once to prove that it is there.
const WORD: usize = 16;
/// What each connection sends and gets back in the burst; more than a proxy's buffers hold.
const BURST: usize = 64 * 1024;
/// How long silence lasts before memory is read.
const SILENCE: Duration = Duration::from_millis(1500);

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
