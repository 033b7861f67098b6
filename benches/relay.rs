//! The gate against a direct connection, over loopback: new connections, echo round trips, bulk.
//!
//! Both subjects talk to the same upstream from the same client, so their ratio is what the gate costs. Absolute times
//! say more of the machine than of the gate.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use snigate::config::Config;
use snigate::observe::access_log::AccessLog;
use snigate::server::Server;

/// Bytes of one echo: a small request.
const ECHO: usize = 1024;
/// Bytes of one bulk transfer.
const BULK: usize = 64 * 1024 * 1024;

/// What a TLS client of this name sends first.
fn hello(name: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name).expect("a valid name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a valid configuration");
    let mut raw = Vec::new();
    client.write_tls(&mut raw).expect("memory takes every write");
    raw
}

/// A server that reads a hello, then serves each connection by `serve` on a thread of its own.
fn upstream(greeting: usize, serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                if stream.read_exact(&mut vec![0; greeting]).is_ok() {
                    serve(stream);
                }
            });
        }
    });
    address
}

fn answer_once(mut stream: TcpStream) {
    let _ = stream.write_all(b"!");
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; ECHO];
    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
}

/// Sends [`BULK`] bytes for each byte that it is asked with.
fn pour(mut stream: TcpStream) {
    let bytes = vec![0; 256 * 1024];
    while stream.read_exact(&mut [0]).is_ok() {
        for _ in 0..BULK / bytes.len() {
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

fn gate_before(upstream: SocketAddr) -> Server {
    let yaml = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
routes: [{{ server_names: [bench.test], upstream: up }}]
upstreams: {{ up: {{ endpoints: ["{upstream}"] }} }}
workers: 1
"#
    );
    let config = Config::parse(&yaml).expect("a valid configuration");
    Server::start(&config, AccessLog::off()).expect("a gate")
}

fn connect(address: SocketAddr, hello: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.write_all(hello).expect("room for a hello");
    stream
}

/// Runs a load against an upstream directly and through a gate before it.
fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    upstream: SocketAddr,
    mut load: impl FnMut(SocketAddr) -> Box<dyn FnMut()>,
) {
    let gate = gate_before(upstream);
    for (subject, address) in [("direct", upstream), ("gate", gate.addresses()[0].1)] {
        let mut turn = load(address);
        group.bench_function(subject, |bencher| bencher.iter(&mut turn));
    }
    gate.stop();
}

fn benches(criterion: &mut Criterion) {
    let hello: &'static [u8] = hello("bench.test").leak();

    let mut group = criterion.benchmark_group("new connection");
    group.throughput(Throughput::Elements(1));
    compare(&mut group, upstream(hello.len(), answer_once), |address| {
        Box::new(move || {
            let mut stream = connect(address, hello);
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer");
            assert_eq!(black_box(answer), b"!");
        })
    });
    group.finish();

    let mut group = criterion.benchmark_group("echo 1 KiB");
    group.throughput(Throughput::Elements(1));
    compare(&mut group, upstream(hello.len(), echo), |address| {
        let mut stream = connect(address, hello);
        let (question, mut answer) = ([7; ECHO], [0; ECHO]);
        Box::new(move || {
            stream.write_all(&question).expect("room for a question");
            stream.read_exact(&mut answer).expect("an answer");
        })
    });
    group.finish();

    let mut group = criterion.benchmark_group("bulk 64 MiB");
    group.throughput(Throughput::Bytes(BULK as u64));
    compare(&mut group, upstream(hello.len(), pour), |address| {
        let mut stream = connect(address, hello);
        let mut bytes = vec![0; 256 * 1024];
        Box::new(move || {
            stream.write_all(b"?").expect("room for a byte");
            for _ in 0..BULK / bytes.len() {
                stream.read_exact(&mut bytes).expect("bytes");
            }
        })
    });
    group.finish();
}

criterion_group! {
    name = relay;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = benches
}
criterion_main!(relay);
