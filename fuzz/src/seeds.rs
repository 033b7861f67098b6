//! Inputs to begin with: hellos of a TLS library and the project's own documents; and, where it is there, the collection of
//! hellos beside the project (`SNIGATE_CORPUS` names another folder).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use crate::{connection, proxy_header};

const NAMES: [&str; 6] = ["a.test", "deep.wild.test", "denied.test", "h2.test", "elsewhere.example", "127.0.0.1"];

/// Writes the seeds of a target into the folder that `SNIGATE_SEEDS` names, if it does.
pub fn write(target: &str) {
    let Some(folder) = env::var_os("SNIGATE_SEEDS").map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).expect("the folder for seeds can be made");
    for (number, seed) in of(target).into_iter().enumerate() {
        fs::write(folder.join(format!("{number:04}")), seed).expect("seeds can be written");
    }
}

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "hello" | "differential" => hellos(),
        "connection" => hellos().into_iter().flat_map(|hello| connection::scripts(&hello)).collect(),
        "names" => names(),
        "config" => configurations(),
        "proxy_header" => proxy_header::seeds(),
        _ => Vec::new(),
    }
}

fn hellos() -> Vec<Vec<u8>> {
    let mut hellos = Vec::new();
    for name in NAMES {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13], rustls::ALL_VERSIONS] {
            hellos.push(hello(name, versions, &[]));
            hellos.push(hello(name, versions, &["h2", "http/1.1"]));
        }
    }
    // From behind the fixed fields of a hello on: extension blocks, for streams that get the rest anew.
    let blocks: Vec<Vec<u8>> = hellos.iter().filter_map(|hello| extensions(hello)).collect();
    hellos.extend(blocks);
    hellos.extend(corpus());
    hellos
}

/// A hello as rustls writes it; an address as the name is not sent.
fn hello(name: &str, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut raw = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut raw).unwrap();
    }
    raw
}

/// The extension block of a hello in one record.
fn extensions(raw: &[u8]) -> Option<Vec<u8>> {
    // Record and message header, version and random.
    let session_id = raw.get(5 + 4 + 2 + 32..)?;
    let ciphers = session_id.get(1 + usize::from(*session_id.first()?)..)?;
    let length = usize::from(u16::from_be_bytes([*ciphers.first()?, *ciphers.get(1)?]));
    // One byte of compression methods behind their number, then the length of the block.
    Some(ciphers.get(2 + length + 2 + 2..)?.to_vec())
}

fn names() -> Vec<Vec<u8>> {
    let patterns = ["a.test", "*.wild.test", "*", "*.xn--bcher-kva.example", "_srv.example."];
    patterns.iter().flat_map(|pattern| NAMES.map(|name| format!("{pattern}\n{name}").into_bytes())).collect()
}

/// The example and the fenced blocks of the README.
fn configurations() -> Vec<Vec<u8>> {
    let package = package();
    let example = fs::read_to_string(package.join("deploy/snigate.example.yaml")).unwrap();
    let readme = fs::read_to_string(package.join("README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut texts: Vec<Vec<u8>> = blocks.map(|block| block.as_bytes().to_vec()).collect();
    // Every key, also those that the example shows as comments.
    texts.push(example.replace("# ", "").into_bytes());
    texts.push(example.into_bytes());
    texts
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = env::var_os("SNIGATE_CORPUS").map_or_else(|| package().join("../shared/clienthello"), PathBuf::from);
    let Ok(files) = fs::read_dir(folder.join("bin")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.sort_unstable();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

/// The package under test.
fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
