//! A crowd of attackers: so many at a time, so many new ones a second, each from a source of its own or all from one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::attacks::{Attack, prepare};

/// New ones come in portions, this many a second.
const PORTIONS: usize = 200;
/// Who does not get through in this time tries anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a crowd may take to be all there.
const GROWTH: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    present: AtomicUsize,
    begun: AtomicUsize,
}

/// What a crowd brings to bear.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Connections that are open at the same time.
    held: usize,
    /// New ones a second.
    rate: usize,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} open, {}/s new", self.held, self.rate)
    }
}

/// Attackers at work; they leave when it is dropped.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    wanted: usize,
    thread: Option<JoinHandle<()>>,
    _preparation: super::attacks::Preparation,
}

impl Crowd {
    /// Lets an attack begin; `None`, said aloud, where it cannot be made.
    pub(crate) fn gather(attack: &'static Attack, gate: SocketAddr) -> Option<Self> {
        let preparation = prepare(attack, gate)?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            // On a real network they would not take the gate's processors.
            setpriority_process(Some(gettid()), 19).unwrap();
            Builder::new_current_thread()
                .enable_all()
                .build_local(Default::default())
                .unwrap()
                .block_on(attackers(attack, gate, &theirs));
        });
        Some(Self { shared, wanted: attack.open, thread: Some(thread), _preparation: preparation })
    }

    /// Waits until all are there, or no more come.
    pub(crate) fn wait_until_grown(&self) {
        let begin = Instant::now();
        let mut most = (0, begin);
        while begin.elapsed() < GROWTH && most.0 < self.wanted && most.1.elapsed() < Duration::from_secs(2) {
            let present = self.shared.present.load(Ordering::Relaxed);
            if present > most.0 {
                most = (present, Instant::now());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn begin_count(&self) {
        self.shared.begun.store(0, Ordering::Relaxed);
    }

    pub(crate) fn load(&self, time: Duration) -> Load {
        let begun = self.shared.begun.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count, rounded
        let rate = (begun as f64 / time.as_secs_f64()) as usize;
        Load { held: self.shared.present.load(Ordering::Relaxed), rate }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Brings new ones as long as there are too few, and no faster than the attack has it.
async fn attackers(attack: &'static Attack, gate: SocketAddr, shared: &Arc<Shared>) {
    let mut portions = interval(Duration::from_secs(1) / u32::try_from(PORTIONS).unwrap());
    portions.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        portions.tick().await;
        let missing = attack.open.saturating_sub(shared.present.load(Ordering::Relaxed));
        for _ in 0..missing.min(attack.rate.div_ceil(PORTIONS)) {
            number += 1;
            shared.present.fetch_add(1, Ordering::Relaxed);
            shared.begun.fetch_add(1, Ordering::Relaxed);
            let source = if attack.one_source { Ipv4Addr::new(127, 66, 0, 1) } else { source(number) };
            let place = Place(Arc::clone(shared));
            tokio::task::spawn_local(async move {
                // Who comes too late, or finds no port or descriptor left, makes room for another.
                if let Ok(Ok(stream)) = timeout(PATIENCE, connect(source.into(), gate)).await {
                    attack.script.run(stream).await;
                }
                drop(place);
            });
        }
    }
}

/// One of those who are there.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of 40,000 addresses of this host.
fn source(number: usize) -> Ipv4Addr {
    let part = |value: usize| u8::try_from(1 + value % 200).unwrap();
    Ipv4Addr::new(127, 67, part(number / 200), part(number))
}

async fn connect(source: IpAddr, gate: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The port is chosen with the destination in view, so that there are enough.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(gate).await?;
    stream.set_nodelay(true)?;
    // However it is closed, the server behind the gate hears of it at once.
    stream.set_zero_linger()?;
    Ok(stream)
}
