//! From one process to the next, with somebody listening all the time.
//!
//! The new process is started by whoever starts processes. It finds the old one by the path `upgrade_socket`, takes its
//! listening sockets over, and says when it accepts; then the old one goes, as on SIGTERM. For a moment both accept from the
//! same queues, so nobody who connects is refused or reset. The unix socket goes over with the others: there is never a
//! moment without one at the path, and nothing needs to be bound by a process that has given its power up.

mod peer;

use std::fs::{self, File, Permissions};
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::oneshot;

use crate::given::{Held, Taken};
use peer::Peer;
pub use peer::UpgradeError;

/// The pause after the kernel could not accept for want of something.
const PAUSE: Duration = Duration::from_secs(1);

/// Whoever has the lock keeps it for microseconds.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The way to the process before this one, if there is one, and to the one that comes after.
#[derive(Debug)]
pub struct Upgrade {
    here: Socket,
    before: Option<Peer>,
}

impl Upgrade {
    /// Takes the sockets of the process that is found at `path`. Without one, this is the first: it is found there from now
    /// on. To be called before power is given up.
    ///
    /// # Errors
    /// When there is a process and it gives nothing, or the path is of no use. Nothing has changed then.
    pub fn begin(path: &Path) -> Result<(Self, Vec<Taken>), UpgradeError> {
        // Of two that are the first at the same moment one is, and the other comes after it.
        let first = alone_at(path);
        if let Some(there) = Peer::at(path)? {
            drop(first);
            let (before, taken, here) = Peer::take(there)?;
            return Ok((Self { here, before: Some(before) }, taken));
        }
        Ok((Self { here: listen(path)?, before: None }, Vec::new()))
    }

    /// Tells the process before, if there is one, that this one accepts: then that one goes. Returns its version.
    ///
    /// # Errors
    /// When it does not say that it will.
    pub fn replace(&mut self) -> Result<Option<String>, UpgradeError> {
        let Some(before) = self.before.take() else { return Ok(None) };
        before.say_ready()?;
        Ok(Some(before.version))
    }

    /// Gives `sockets` to those that come, in a thread of its own, until one of them accepts.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn wait_for_next(self, sockets: impl Fn() -> Vec<Held> + Send + 'static) -> io::Result<Next> {
        let (replaced, accepts) = oneshot::channel();
        let next = Next { accepts, is_starting: Arc::default() };
        let is_starting = Arc::clone(&next.is_starting);
        thread::Builder::new().name("upgrade".into()).spawn(move || {
            let version = loop {
                match self.give(&sockets, &is_starting) {
                    Ok(version) => break version,
                    Err(error) => tracing::warn!(%error, "a newer process did not take over: nothing has changed"),
                }
            };
            // Who would hear it is about to end for another reason.
            let _ = replaced.send(version);
        })?;
        Ok(next)
    }

    /// Waits for one that comes, and until it accepts.
    fn give(&self, sockets: &impl Fn() -> Vec<Held>, is_starting: &AtomicBool) -> Result<String, UpgradeError> {
        let (socket, _) = self.here.accept().inspect_err(|_| thread::sleep(PAUSE))?;
        let _starting = Starting::new(is_starting);
        let peer = Peer::give(socket, &sockets(), &self.here)?;
        tracing::info!(version = peer.version, "a newer process has the listening sockets too");
        peer.wait_until_ready()?;
        if let Err(error) = peer.say_leaving() {
            tracing::warn!(%error, "the newer process accepts, and went on without a word");
        }
        Ok(peer.version)
    }
}

/// The process that comes after.
#[derive(Debug)]
pub struct Next {
    accepts: oneshot::Receiver<String>,
    is_starting: Arc<AtomicBool>,
}

impl Next {
    /// Whether there is one which has the sockets and does not accept yet. It has read the configuration already, and what
    /// is bound for another one meanwhile would be in its way.
    pub fn is_starting(&self) -> bool {
        self.is_starting.load(Ordering::Relaxed)
    }

    /// Waits until it accepts, and returns its version.
    pub async fn accepts(&mut self) -> String {
        match (&mut self.accepts).await {
            Ok(version) => version,
            // Nobody waits for it any more.
            Err(_) => pending().await,
        }
    }
}

/// The time in which a newer process has the sockets and does not accept yet.
struct Starting<'f>(&'f AtomicBool);

impl<'f> Starting<'f> {
    fn new(flag: &'f AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Waits until no other process looks whether there is one at `path`, or becomes it; for as long as the lock is kept this one
/// is alone. Anybody who can see the folder could keep its lock: then it goes without.
fn alone_at(path: &Path) -> Option<OwnedFd> {
    // Of a bare name the parent is an empty path.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = OwnedFd::from(File::open(folder).ok()?);
    for _ in 0..LOCK_TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            result => return result.ok().map(|()| folder),
        }
    }
    None
}

/// Listens at `path`. What a process that is gone has left there makes way.
fn listen(path: &Path) -> Result<Socket, UpgradeError> {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(UpgradeError::NoSocket);
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    let beside = path.with_file_name(format!(".{}", std::process::id()));
    socket.bind(&SockAddr::unix(&beside)?)?;
    // Nobody else could take anything, but keep others waiting.
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    socket.listen(1)?;
    // Not there before it listens.
    fs::rename(&beside, path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::Listening;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread::JoinHandle;

    /// A listener of this name, with so many sockets.
    fn held(name: &str, count: usize) -> Held {
        let listening = Listening { name: name.to_owned(), address: ":6443".to_owned(), v6_only: false };
        let bound = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        (listening, (0..count).map(|_| Arc::new(bound().into())).collect())
    }

    fn addresses(sockets: impl IntoIterator<Item = TcpListener>) -> Vec<std::net::SocketAddr> {
        sockets.into_iter().map(|socket| socket.local_addr().unwrap()).collect()
    }

    /// An old process at `path` with these sockets, until a newer one has replaced it.
    fn old(path: &Path, sockets: Vec<Held>) -> JoinHandle<Option<String>> {
        let (upgrade, taken) = Upgrade::begin(path).unwrap();
        assert!(taken.is_empty() && upgrade.before.is_none());
        let next = upgrade.wait_for_next(move || sockets.clone()).unwrap();
        thread::spawn(|| next.accepts.blocking_recv().ok())
    }

    #[test]
    fn sockets_go_over_and_serve_on_from_process_to_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        // More than one packet takes, and none.
        let sockets = vec![held("one", 2), held("many", 129), held("none", 0)];
        let before: Vec<_> = sockets.iter().flat_map(|(_, sockets)| sockets).cloned().collect();
        let before = addresses(before.into_iter().map(|copy| copy.try_clone().unwrap().into()));
        let first = old(&path, sockets);

        let (mut upgrade, taken) = Upgrade::begin(&path).unwrap();
        assert_eq!(upgrade.replace().unwrap().as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(first.join().unwrap().as_deref(), Some(env!("CARGO_PKG_VERSION")));
        let names: Vec<_> = taken.iter().map(|(listening, sockets)| (&*listening.name, sockets.len())).collect();
        assert_eq!(names, [("one", 2), ("many", 129), ("none", 0)]);
        let sockets: Vec<_> = taken.into_iter().flat_map(|(_, sockets)| sockets).collect();
        let _client = TcpStream::connect(before[0]).unwrap();
        sockets[0].accept().unwrap();
        assert_eq!(addresses(sockets), before);

        // The first is gone, and the second is found where it was.
        let second = upgrade.wait_for_next(Vec::new).unwrap();
        let (mut upgrade, taken) = Upgrade::begin(&path).unwrap();
        assert!(taken.is_empty() && upgrade.replace().unwrap().is_some());
        second.accepts.blocking_recv().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn of_those_that_start_at_the_same_moment_one_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        for _ in 0..50 {
            let begun = thread::scope(|scope| {
                let begin = || {
                    let (mut upgrade, _) = Upgrade::begin(&path).unwrap();
                    let is_first = upgrade.before.is_none();
                    upgrade.replace().unwrap();
                    (is_first, upgrade.wait_for_next(Vec::new).unwrap())
                };
                let starting = [scope.spawn(begin), scope.spawn(begin), scope.spawn(begin)];
                starting.map(|one| one.join().unwrap())
            });
            assert_eq!(begun.iter().filter(|(is_first, _)| *is_first).count(), 1);
            // What is left of them is stale.
            fs::remove_file(&path).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        // Whoever keeps the lock keeps nobody from starting.
        let folder = File::open(folder.path()).unwrap();
        flock(&folder, FlockOperation::LockExclusive).unwrap();
        assert!(Upgrade::begin(&path).unwrap().0.before.is_none());
    }

    #[test]
    fn what_a_dead_process_left_makes_way_and_a_file_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        drop(Upgrade::begin(&path).unwrap());
        let first = old(&path, Vec::new());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (mut upgrade, _) = Upgrade::begin(&path).unwrap();
        assert!(upgrade.replace().unwrap().is_some());
        first.join().unwrap();

        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        let refused = Upgrade::begin(&file).unwrap_err();
        assert!(matches!(refused, UpgradeError::NoSocket), "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(Upgrade::begin(&folder.path().join("none/upgrade.sock")).is_err());
    }

    #[test]
    fn who_goes_away_before_it_accepts_has_changed_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let (upgrade, _) = Upgrade::begin(&path).unwrap();
        let sockets = vec![held("one", 1)];
        let first = upgrade.wait_for_next(move || sockets.clone()).unwrap();
        let failing = Upgrade::begin(&path).unwrap();
        assert!(first.is_starting());
        drop(failing);
        // One that does not even know what to say.
        let stranger = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        stranger.connect(&SockAddr::unix(&path).unwrap()).unwrap();
        stranger.send(b"hello").unwrap();
        let (mut upgrade, taken) = Upgrade::begin(&path).unwrap();
        assert_eq!(taken[0].1.len(), 1);
        upgrade.replace().unwrap();
        first.accepts.blocking_recv().unwrap();
    }
}
