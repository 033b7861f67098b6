//! A DNS server of our own, written after RFC 1035 and knowing nothing of the resolver under test.

use super::wait_for;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// Types of records.
pub const A: u16 = 1;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const NS: u16 = 2;

const NO_ERROR: u16 = 0;
pub const SERVER_FAILURE: u16 = 2;
const NAME_ERROR: u16 = 3;
pub const REFUSED: u16 = 5;

const IS_RESPONSE: u16 = 0x8000;
const IS_TRUNCATED: u16 = 0x0200;
const RECURSION: u16 = 0x0180; // desired and available

/// One record's content.
#[derive(Clone)]
pub enum Record {
    Address(IpAddr),
    Alias(&'static str),
    Service { priority: u16, weight: u16, port: u16, target: &'static str },
}

/// How a question about one name and type is answered.
#[derive(Clone)]
pub enum Reply {
    /// With these records, each with this TTL.
    Records(u32, Vec<Record>),
    /// The same, but only by TCP; UDP says that there is more than fits.
    TooLong(u32, Vec<Record>),
    /// There is such a name, but no such record of it.
    NoData,
    /// Ask somebody else, whom nobody knows.
    Referral,
    /// An error.
    Error(u16),
    /// Not at all.
    Silence,
}

/// What a test may ask for: one address a text.
pub fn addresses(addresses: &[&str]) -> Reply {
    Reply::Records(600, addresses.iter().map(|text| Record::Address(text.parse().unwrap())).collect())
}

#[derive(Default)]
struct Zone {
    replies: HashMap<(String, u16), Reply>,
    /// Every question so far: name, type, and whether it came by TCP.
    asked: Vec<(String, u16, bool)>,
}

/// A server on a free port of 127.0.0.1, by UDP and TCP. Of names that it was not told about it says that there are none.
/// It runs as long as the process.
#[derive(Clone)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl DnsServer {
    pub fn start() -> Self {
        let (stream, datagram) = wait_for("a port that is free for UDP and TCP", || {
            let stream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let datagram = UdpSocket::bind(stream.local_addr().unwrap()).ok()?;
            Some((stream, datagram))
        });
        let server = Self { address: stream.local_addr().unwrap(), zone: Arc::default() };
        let (by_datagram, by_stream) = (server.clone(), server.clone());
        thread::spawn(move || by_datagram.serve_datagrams(&datagram));
        thread::spawn(move || by_stream.serve_streams(&stream));
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` (in full, with its dot) and `kind` are answered so.
    pub fn set(&self, name: &str, kind: u16, reply: Reply) {
        self.zone.lock().unwrap().replies.insert((name.to_owned(), kind), reply);
    }

    /// From now on there is no such name.
    pub fn forget(&self, name: &str) {
        self.zone.lock().unwrap().replies.retain(|(known, _), _| known != name);
    }

    /// How often `name` and `kind` were asked for.
    pub fn asked(&self, name: &str, kind: u16) -> usize {
        self.zone.lock().unwrap().asked.iter().filter(|(asked, of, _)| asked == name && *of == kind).count()
    }

    /// The names asked for so far, without repetitions in a row.
    pub fn names_asked(&self) -> Vec<String> {
        let mut names: Vec<_> = self.zone.lock().unwrap().asked.iter().map(|(name, ..)| name.clone()).collect();
        names.dedup();
        names
    }

    /// How many questions came by TCP.
    pub fn asked_by_tcp(&self) -> usize {
        self.zone.lock().unwrap().asked.iter().filter(|(.., by_tcp)| *by_tcp).count()
    }

    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; 1024];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            if let Some(answer) = self.answer(&buffer[..length], false) {
                // A client that went away meanwhile is no matter.
                let _ = socket.send_to(&answer, client);
            }
        }
    }

    fn serve_streams(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            let (mut stream, server) = (stream.unwrap(), self.clone());
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut question = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut question).unwrap();
                    if let Some(answer) = server.answer(&question, true) {
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
                    }
                }
            });
        }
    }

    fn answer(&self, message: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let (question, name, kind) = read_question(message);
        let mut zone = self.zone.lock().unwrap();
        zone.asked.push((name.clone(), kind, by_tcp));
        let known = zone.replies.keys().any(|(known, _)| *known == name);
        let reply = zone.replies.get(&(name.clone(), kind)).cloned();
        let reply = reply.unwrap_or(if known { Reply::NoData } else { Reply::Error(NAME_ERROR) });
        let (flags, answers, authority) = match reply {
            Reply::Silence => return None,
            Reply::TooLong(..) if !by_tcp => (IS_TRUNCATED, Vec::new(), None),
            Reply::Records(ttl, records) | Reply::TooLong(ttl, records) => {
                (NO_ERROR, chain(&name, ttl, &records), None)
            }
            Reply::NoData => (NO_ERROR, Vec::new(), Some(start_of_authority())),
            Reply::Referral => (NO_ERROR, Vec::new(), Some(entry("test.", NS, 600, &encoded("elsewhere.test.")))),
            Reply::Error(NAME_ERROR) => (NAME_ERROR, Vec::new(), Some(start_of_authority())),
            Reply::Error(code) => (code, Vec::new(), None),
        };
        let counts = [1, u16::try_from(answers.len()).unwrap(), u16::from(authority.is_some()), 0];
        let mut answer = message[..2].to_vec();
        answer.extend((IS_RESPONSE | RECURSION | flags).to_be_bytes());
        answer.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        answer.extend(question);
        answer.extend(answers.concat());
        answer.extend(authority.unwrap_or_default());
        Some(answer)
    }
}

/// The bytes of a message's question, its name in lower case with a dot at the end, and its type.
fn read_question(message: &[u8]) -> (&[u8], String, u16) {
    const HEADER: usize = 12;
    let (mut at, mut name) = (HEADER, String::new());
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        name.push_str(std::str::from_utf8(&message[at + 1..end]).unwrap());
        name.push('.');
        at = end;
    }
    let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
    (&message[HEADER..at + 5], name.to_ascii_lowercase(), kind)
}

/// The records, each owned by the name that the alias before it leads to.
fn chain(name: &str, ttl: u32, records: &[Record]) -> Vec<Vec<u8>> {
    let mut owner = name;
    let entries = records.iter().map(|record| match record {
        Record::Address(IpAddr::V4(address)) => entry(owner, A, ttl, &address.octets()),
        Record::Address(IpAddr::V6(address)) => entry(owner, AAAA, ttl, &address.octets()),
        Record::Alias(target) => {
            let alias = entry(owner, CNAME, ttl, &encoded(target));
            owner = target;
            alias
        }
        Record::Service { priority, weight, port, target } => {
            let mut content: Vec<u8> =
                [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
            content.extend(encoded(target));
            entry(owner, SRV, ttl, &content)
        }
    });
    entries.collect()
}

/// What comes along with "there is none", with an hour as the time for which that holds.
fn start_of_authority() -> Vec<u8> {
    let mut content = [encoded("ns.test."), encoded("admin.test.")].concat();
    content.extend([1u32, 3_600, 600, 86_400, 3_600].iter().flat_map(|number| number.to_be_bytes()));
    entry("test.", SOA, 3_600, &content)
}

fn entry(name: &str, kind: u16, ttl: u32, content: &[u8]) -> Vec<u8> {
    const INTERNET: u16 = 1;
    let mut entry = encoded(name);
    entry.extend(kind.to_be_bytes());
    entry.extend(INTERNET.to_be_bytes());
    entry.extend(ttl.to_be_bytes());
    entry.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
    entry.extend(content);
    entry
}

fn encoded(name: &str) -> Vec<u8> {
    let labels = name.trim_end_matches('.').split('.').filter(|label| !label.is_empty());
    let mut encoded: Vec<u8> =
        labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
    encoded.push(0);
    encoded
}
