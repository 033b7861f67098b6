//! One endpoint as it runs: where it is, and the connections it has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::certificate::Certificate;
use crate::observe::notice::Notice;
use crate::outcome::Reason;

/// One address of an upstream. Workers share it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Connections open or being opened.
    open: AtomicUsize,
    /// The last connect failed: the next that does not is news.
    failing: AtomicBool,
    /// For the connections it has.
    notice: ArcSwap<Notice>,
    /// Connects that went well, and those that did not.
    connected: AtomicU64,
    failed: AtomicU64,
    /// The certificate that it showed last.
    certificate: ArcSwapOption<Certificate>,
}

impl Endpoint {
    /// An endpoint without connections.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            open: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            notice: ArcSwap::from_pointee(Notice::at(address)),
            connected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            certificate: ArcSwapOption::empty(),
        }
    }

    /// Connections open or being opened.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Has its connections closed, one after another, those that are being opened included: it is gone for good.
    pub(super) fn retire(&self, reason: Reason) {
        self.notice.load().give(reason);
    }

    /// Has the connections closed that it has now, one after another; those it gets later stay.
    pub(super) fn dismiss(&self, reason: Reason) {
        self.notice.swap(Arc::new(Notice::at(self.address))).give(reason);
    }

    /// Where a connection that begins now learns that it is to close.
    pub fn notice(&self) -> Arc<Notice> {
        self.notice.load_full()
    }

    /// Connects that went well so far.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Connects that did not.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The certificate that it showed last, if it was asked for one.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.load_full()
    }

    pub(super) fn show(&self, certificate: &Arc<Certificate>) {
        self.certificate.store(Some(Arc::clone(certificate)));
    }

    pub(super) fn note_failure(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether the connect before this one had failed. A plain read, but for the first success after a failure; the count
    /// lies beside that of open connections, which has just been changed.
    pub(super) fn note_success(&self) -> bool {
        self.connected.fetch_add(1, Ordering::Relaxed);
        self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed)
    }
}

/// A connection's share of an endpoint, counted for as long as this lives.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    pub(super) fn take(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl std::ops::Deref for Lease {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::new("192.0.2.1:1".parse().unwrap()))
    }

    #[test]
    fn a_connection_counts_for_as_long_as_its_lease_lives() {
        let endpoint = endpoint();
        let leases = [Lease::take(&endpoint), Lease::take(&endpoint)];
        assert_eq!(endpoint.open(), 2);
        drop(leases);
        assert_eq!(endpoint.open(), 0);
    }

    #[test]
    fn only_the_first_success_after_a_failure_is_news() {
        let endpoint = endpoint();
        assert!(!endpoint.note_success());
        endpoint.note_failure();
        endpoint.note_failure();
        assert!(endpoint.note_success());
        assert!(!endpoint.note_success());
        assert_eq!((endpoint.connected(), endpoint.failed()), (3, 2));
    }

    #[test]
    fn connections_are_dismissed_as_of_now_or_for_good() {
        let endpoint = endpoint();
        let before = endpoint.notice();
        endpoint.dismiss(Reason::EndpointUnhealthy);
        let after = endpoint.notice();
        assert_eq!((before.reason(), after.reason()), (Some(Reason::EndpointUnhealthy), None));
        endpoint.retire(Reason::EndpointRemoved);
        assert_eq!([&after, &endpoint.notice()].map(|notice| notice.reason()), [Some(Reason::EndpointRemoved); 2]);
        assert_eq!(before.reason(), Some(Reason::EndpointUnhealthy));
    }
}
