//! Reading hellos: how long the parser keeps a connection's first bytes.
//!
//! The corpus of captured hellos is measured where it is there (`SNIGATE_CORPUS` names its folder); the hellos of a TLS
//! library always are.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use snigate::hello::{ClientHello, HelloReader, ja4};
use snigate::server_name::ServerName as Name;

const MAX_CLIENT_HELLO: usize = 16 * 1024;
/// What one TCP segment carries on most paths.
const SEGMENT: usize = 1400;

fn read_whole(raw: &[u8]) -> Option<ClientHello> {
    HelloReader::new(MAX_CLIENT_HELLO).advance(raw).ok()?
}

/// In reads of `size` bytes each.
fn read_split(raw: &[u8], size: usize) -> Option<ClientHello> {
    let mut reader = HelloReader::new(MAX_CLIENT_HELLO);
    for end in (size..raw.len()).step_by(size).chain([raw.len()]) {
        match reader.advance(&raw[..end]) {
            Ok(None) => {}
            answer => return answer.ok()?,
        }
    }
    None
}

fn client_bytes(provider: CryptoProvider) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("api.cluster.example").expect("a name");
    let mut raw = Vec::new();
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    client.write_tls(&mut raw).expect("writing to memory");
    raw
}

/// The same handshake message in records of `size` bytes.
fn in_records(raw: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for payload in raw[5..].chunks(size) {
        let length = u16::try_from(payload.len()).expect("fits a record").to_be_bytes();
        records.extend([22, 3, 1, length[0], length[1]]);
        records.extend(payload);
    }
    records
}

/// Every file of the corpus, each with its name; empty where there is none.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = std::env::var_os("SNIGATE_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/clienthello"), PathBuf::from);
    let Ok(files) = std::fs::read_dir(folder.join("bin")) else { return Vec::new() };
    let mut samples: Vec<_> = files
        .flatten()
        .filter_map(|file| Some((file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).ok()?)))
        .collect();
    samples.sort();
    samples
}

fn one_hello(criterion: &mut Criterion, label: &str, raw: &[u8]) {
    assert!(read_whole(raw).is_some(), "{label} is a complete hello");
    let mut group = criterion.benchmark_group(format!("hello/{label} ({} bytes)", raw.len()));
    group.bench_function("whole", |bencher| bencher.iter(|| read_whole(black_box(raw))));
    group.bench_function("in segments", |bencher| bencher.iter(|| read_split(black_box(raw), SEGMENT)));
    group.bench_function("byte by byte", |bencher| bencher.iter(|| read_split(black_box(raw), 1)));
    let records = in_records(raw, 100);
    group.bench_function("in records of 100", |bencher| bencher.iter(|| read_whole(black_box(&records))));
    group.bench_function("ja4", |bencher| bencher.iter(|| ja4(black_box(raw))));
    // For scale: what of it is spent outside this module.
    group.bench_function("tls-parser alone", |bencher| {
        bencher.iter(|| tls_parser::parse_tls_handshake_client_hello(black_box(&raw[9..])).is_ok());
    });
    group.finish();
}

fn hellos(criterion: &mut Criterion) {
    one_hello(criterion, "rustls", &client_bytes(ring::default_provider()));
    let mut post_quantum = aws_lc_rs::default_provider();
    post_quantum.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    one_hello(criterion, "rustls, post-quantum", &client_bytes(post_quantum));
    criterion.bench_function("server name alone", |bencher| {
        bencher.iter(|| Name::from_wire(black_box(b"api.cluster.example")));
    });
    let samples = corpus();
    if let Some((_, browser)) = samples.iter().find(|(file, raw)| file.starts_with("ja4-") && raw.len() == 517) {
        one_hello(criterion, "browser", browser);
    }
    if samples.is_empty() {
        eprintln!("skipped: the corpus is not there");
        return;
    }
    let mut group = criterion.benchmark_group(format!("corpus ({} files)", samples.len()));
    group.throughput(Throughput::Elements(samples.len() as u64));
    group.bench_function("whole", |bencher| {
        bencher.iter(|| samples.iter().filter(|(_, raw)| read_whole(raw).is_some()).count());
    });
    group.bench_function("in segments", |bencher| {
        bencher.iter(|| samples.iter().filter(|(_, raw)| read_split(raw, SEGMENT).is_some()).count());
    });
    group.bench_function("ja4", |bencher| {
        bencher.iter(|| samples.iter().filter(|(_, raw)| ja4(raw).is_some()).count());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(30);
    targets = hellos
}
criterion_main!(benches);
