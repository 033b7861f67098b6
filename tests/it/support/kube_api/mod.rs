//! A small Kubernetes API for kubectl: discovery, pods, watch and logs over TLS with client certificates.
//!
//! The test holds the strings: pods appear when it says [`KubeApi::add_pod`], log lines when it says
//! [`KubeApi::write_log`], and [`KubeApi::stop`] takes the server down while its port stays reserved.

mod answers;
mod serving;

use super::certs::{Authority, Identity};
use super::tls::classic;
use super::wait_for;
use hyper::Version;
use hyper::body::Bytes;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serving::Serving;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::UnboundedSender;

/// The stand-in and the port it listens on.
pub struct KubeApi {
    address: SocketAddr,
    /// Bound and never listening: connects are refused while the server is down, and nobody else gets the port.
    _reservation: Socket,
    tls: Arc<ServerConfig>,
    state: Arc<Mutex<State>>,
    serving: Option<Serving>,
}

/// One request as the API saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRequest {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Common name of the client certificate: the user, to Kubernetes.
    pub user: String,
    pub version: Version,
}

/// What the API serves, and what was asked of it.
#[derive(Default)]
struct State {
    /// In order of creation: a pod's resource version is its place, from 1.
    pods: Vec<String>,
    watchers: Vec<UnboundedSender<Bytes>>,
    log: Vec<String>,
    followers: Vec<UnboundedSender<Bytes>>,
    requests: Vec<SeenRequest>,
    /// It is about to go: `/readyz` says so, and everything else is served.
    leaving: bool,
}

impl KubeApi {
    /// Starts on a free port of 127.0.0.1; clients need a certificate of `authority`.
    pub fn start(identity: &Identity, authority: &Authority) -> Self {
        let clients = WebPkiClientVerifier::builder_with_provider(authority.roots(), classic()).build().unwrap();
        let mut tls = ServerConfig::builder_with_provider(classic())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(identity.chain(), identity.key())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let reservation = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = reservation.local_addr().unwrap().as_socket().unwrap();
        let mut api =
            Self { address, _reservation: reservation, tls: Arc::new(tls), state: Arc::default(), serving: None };
        api.start_again();
        api
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection: from now on connects are refused.
    pub fn stop(&mut self) {
        self.serving = None;
    }

    /// Listens again, on the same port.
    pub fn start_again(&mut self) {
        let listener = bind(self.address);
        listener.listen(128).unwrap();
        self.serving = Some(Serving::start(listener.into(), self.tls.clone(), self.state.clone()));
    }

    /// Whether `/readyz` says that new connections are welcome; all else is served in either case.
    pub fn be_ready(&self, ready: bool) {
        self.state.lock().unwrap().leaving = !ready;
    }

    /// Creates a running pod and tells every watch about it.
    pub fn add_pod(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.pods.push(name.to_owned());
        let event = answers::watch_event(&state.pods, state.pods.len());
        state.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    /// Writes a line to the log that all pods share.
    pub fn write_log(&self, text: &str) {
        let mut state = self.state.lock().unwrap();
        state.log.push(text.to_owned());
        state.followers.retain(|follower| follower.send(answers::line(text)).is_ok());
    }

    /// Ends every `logs -f`, as the end of a container does.
    pub fn end_logs(&self) {
        self.state.lock().unwrap().followers.clear();
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Waits until a request was seen whose path with query contains `part`.
    pub fn wait_for_request(&self, part: &str) -> SeenRequest {
        wait_for(&format!("a request for {part}"), || {
            self.state.lock().unwrap().requests.iter().find(|request| request.path.contains(part)).cloned()
        })
    }
}

/// A socket bound with SO_REUSEADDR, so that the reservation and a listener can have one port.
fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}
