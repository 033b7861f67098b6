//! Every byte arrives, in order, however it is cut, however much there is, however slowly it is read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ring::digest::{Context, Digest, SHA256};

use crate::support::gate::{Gate, GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};
use crate::support::{descriptors, wait_until};

const MEBIBYTE: usize = 1024 * 1024;

/// A mebibyte unlike its neighbours, so that lost, doubled or swapped pieces show.
fn block(number: usize) -> Vec<u8> {
    let mut block = vec![0; MEBIBYTE];
    for (page, bytes) in block.chunks_mut(4096).enumerate() {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..16].copy_from_slice(&page.to_le_bytes());
    }
    block
}

/// Writes that many MiB and says what they hash to.
fn write_much(stream: &mut TcpStream, mebibytes: usize) -> Digest {
    let mut hash = Context::new(&SHA256);
    for number in 0..mebibytes {
        let block = block(number);
        hash.update(&block);
        stream.write_all(&block).unwrap();
    }
    tcp::finish(stream);
    hash.finish()
}

/// Reads to the end and says how much it was and what it hashes to.
fn read_much(stream: &mut TcpStream) -> (usize, Digest) {
    let (mut hash, mut total, mut buffer) = (Context::new(&SHA256), 0, vec![0; MEBIBYTE]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return (total, hash.finish()),
            read => {
                hash.update(&buffer[..read]);
                total += read;
            }
        }
    }
}

#[test]
fn much_arrives_both_ways_at_once() {
    const AMOUNT: usize = 256;
    let (results, result) = mpsc::channel();
    let greeting = hello("a.test").len();
    let upstream = Upstream::start(move |mut stream, visit| {
        visit.read(&mut stream, greeting);
        let mut writer = stream.try_clone().unwrap();
        let written = thread::spawn(move || write_much(&mut writer, AMOUNT));
        let read = read_much(&mut stream);
        results.send((written.join().unwrap(), read)).unwrap();
    });
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    let mut writer = client.try_clone().unwrap();
    let written = thread::spawn(move || write_much(&mut writer, AMOUNT));
    let read = read_much(&mut client);
    let written = written.join().unwrap();
    let (upstream_written, upstream_read) = result.recv().unwrap();
    let amount = AMOUNT * MEBIBYTE;
    assert_eq!((read.0, read.1.as_ref()), (amount, upstream_written.as_ref()));
    assert_eq!((upstream_read.0, upstream_read.1.as_ref()), (amount, written.as_ref()));
    let line = gate.log.line(0);
    assert_eq!(line["received"], amount);
    assert_eq!(line["sent"], amount + greeting);
    let spliced = usize::try_from(line["spliced"].as_u64().unwrap()).unwrap();
    assert!(spliced > amount && spliced <= 2 * amount, "most of what went either way: {line}");
}

#[test]
fn single_bytes_arrive_both_ways() {
    let upstream = Upstream::echo();
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    let greeting = hello("a.test");
    client.write_all(&greeting).unwrap();
    assert_eq!(tcp::read_exactly(&mut client, greeting.len()), greeting);
    for byte in 0..=255 {
        client.write_all(&[byte]).unwrap();
        assert_eq!(tcp::read_exactly(&mut client, 1), [byte]);
    }
}

/// How long the kernel may keep unacknowledged bytes, in the next test's configuration.
const USER_TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn a_reader_may_stop_for_longer_than_every_budget_and_costs_no_memory() {
    const AMOUNT: usize = 64;
    let (results, result) = mpsc::channel();
    let greeting = hello("a.test").len();
    let upstream = Upstream::start(move |mut stream, visit| {
        visit.read(&mut stream, greeting);
        results.send(write_much(&mut stream, AMOUNT)).unwrap();
        visit.read_to_end(&mut stream);
    });
    let yaml = routing([("a.test", upstream.address())]).replace("up0: {", "up0: { user_timeout: 1s,");
    let gate = GateProcess::start(&yaml);
    let at_rest = descriptors::memory(gate.pid());
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    let stopped = Instant::now();
    wait_until("the reader has stopped for thrice the budget", || stopped.elapsed() > 3 * USER_TIMEOUT);
    let held = descriptors::memory(gate.pid()).saturating_sub(at_rest);
    assert!(held < 2 * MEBIBYTE, "{held} bytes for a reader that stopped");
    let (amount, hash) = read_much(&mut client);
    assert_eq!((amount, hash.as_ref()), (AMOUNT * MEBIBYTE, result.recv().unwrap().as_ref()));
}
