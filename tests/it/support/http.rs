//! A client of the admin server that says exactly what it is told to.

use super::PATIENCE;
use super::gate::GateProcess;
use super::tcp;
use std::io::{Read, Write};
use std::net::SocketAddr;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// What is answered to this request, which asks for the connection to be closed.
pub fn ask(stream: &mut (impl Read + Write), request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A request with these headers, each with its line's end.
pub fn request(method: &str, path: &str, host: impl std::fmt::Display, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")
}

/// What is answered at `address`, asked as it should be.
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let mut stream = tcp::connect(address);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&mut stream, &request("GET", path, address, headers))
}

/// What the gate answers.
pub fn get(gate: &GateProcess, path: &str) -> Answer {
    get_with(gate.admin(), path, "")
}
