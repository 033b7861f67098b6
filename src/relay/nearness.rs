//! Short queues for bulk between near ends.
//!
//! Over a path with hardly any delay, deep socket queues buy no throughput: what several streams have in them only lies
//! there until it has left the processor's caches, and fills the kernel's memory. Eight streams over loopback are a third
//! faster with short ones; a single stream is not, and its queues are left alone.

use std::sync::LazyLock;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use rustix::system::uname;
use socket2::SockRef;
use tokio::net::TcpStream;

/// Round trips below this, in microseconds, are of the same host or its neighbour.
const NEAR: u32 = 50;
/// What a near socket's kernel may hold for us to read (the kernel doubles it for its own overhead): at [`NEAR`] still
/// more than 20 Gbit/s.
const RECEIVE_QUEUE: usize = 128 * 1024;
/// What the near sockets of a worker may hold together of what we wrote, in KiB: half of a processor's own cache or less.
const SEND_QUEUES: u16 = 1024;
/// Less than this each, in KiB, costs more wake-ups than it spares.
const LEAST_SEND_QUEUE: u16 = 128;

/// What is known of the queues on a direction's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queues {
    /// Nobody has looked.
    Unknown,
    /// What is sent goes far: its queue is not ours to bound.
    Far,
    /// What is sent goes to a near end, and its queue is bounded to so many KiB.
    Near { send: u16 },
}

impl Queues {
    /// Bounds the queues on the way of a direction that proved to be bulk, one of `sharing` on its worker, as far as its
    /// ends are near. Other sockets keep the kernel's own sizing, which follows the path.
    pub(super) fn bound(&mut self, from: &TcpStream, to: &TcpStream, sharing: usize) {
        if sharing < 2 {
            return;
        }
        if *self == Self::Unknown {
            bound_receiving(from);
            *self = if is_near(to) { Self::Near { send: u16::MAX } } else { Self::Far };
        }
        if let Self::Near { send } = self {
            let share = (SEND_QUEUES / u16::try_from(sharing).unwrap_or(u16::MAX)).max(LEAST_SEND_QUEUE);
            if share < *send {
                *send = share;
                let _ = SockRef::from(to).set_send_buffer_size(usize::from(share) * 1024);
            }
        }
    }
}

fn bound_receiving(from: &TcpStream) {
    let socket = SockRef::from(from);
    // A window once offered cannot be taken back: what then comes would be dropped.
    if is_near(from) && socket.recv_buffer_size().is_ok_and(|size| size <= 2 * RECEIVE_QUEUE) {
        let _ = socket.set_recv_buffer_size(RECEIVE_QUEUE);
    }
}

fn is_near(socket: &TcpStream) -> bool {
    // An older kernel's shorter answer would make getsockopt panic.
    *TELLS_MIN_RTT && getsockopt(socket, TcpInfo).is_ok_and(|info| info[MIN_RTT] < NEAR)
}

static TELLS_MIN_RTT: LazyLock<bool> =
    LazyLock::new(|| uname().release().to_str().is_ok_and(|release| version(release) >= Some(FIRST_WITH_MIN_RTT)));

/// Major and minor number of a release such as `4.18.0-553.el8.x86_64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The index of tcpi_min_rtt in struct tcp_info (linux/tcp.h), counted in words.
const MIN_RTT: usize = 37;
/// The first Linux that has it.
const FIRST_WITH_MIN_RTT: (u32, u32) = (4, 6);

sockopt_impl!(
    /// The first words of struct tcp_info.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; MIN_RTT + 1]
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;

    /// Two ends that found each other near: a busy machine may interrupt even a loopback handshake for so long that they
    /// do not.
    async fn near_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        for _ in 0..100 {
            let connecting = TcpStream::connect(listener.local_addr().unwrap());
            let (one, other) = tokio::join!(connecting, listener.accept());
            let (one, (other, _)) = (one.unwrap(), other.unwrap());
            if is_near(&one) && is_near(&other) {
                return (one, other);
            }
        }
        panic!("no two ends of a loopback connection are near each other");
    }

    /// Bytes for reading from the one and for writing to the other, as the kernel counts them.
    fn sizes(from: &TcpStream, to: &TcpStream) -> (usize, usize) {
        (SockRef::from(from).recv_buffer_size().unwrap(), SockRef::from(to).send_buffer_size().unwrap())
    }

    #[tokio::test]
    async fn a_stream_alone_keeps_its_queues_and_several_share() {
        let (from, to) = near_pair().await;
        let untouched = sizes(&from, &to);
        let mut queues = Queues::Unknown;
        queues.bound(&from, &to, 1);
        assert_eq!((queues, sizes(&from, &to)), (Queues::Unknown, untouched));

        queues.bound(&from, &to, 4);
        assert_eq!(queues, Queues::Near { send: 256 });
        // The kernel doubles what it is told, and its administrator may allow less.
        let (receive, send) = sizes(&from, &to);
        assert!(receive <= 2 * RECEIVE_QUEUE && send <= 512 * 1024, "{receive} {send}");
        assert_ne!((receive, send), untouched);

        queues.bound(&from, &to, 1000);
        let least = sizes(&from, &to);
        assert_eq!(
            (queues, least.1),
            (Queues::Near { send: LEAST_SEND_QUEUE }, 2 * 1024 * usize::from(LEAST_SEND_QUEUE))
        );
        queues.bound(&from, &to, 2);
        assert_eq!(sizes(&from, &to), least, "what was shortened stays so");
    }

    #[tokio::test]
    async fn a_window_that_was_offered_is_not_taken_back() {
        let (from, to) = near_pair().await;
        SockRef::from(&from).set_recv_buffer_size(2 * RECEIVE_QUEUE).unwrap();
        let offered = sizes(&from, &to).0;
        Queues::Unknown.bound(&from, &to, 2);
        assert_eq!(sizes(&from, &to).0, offered);
    }
    #[test]
    fn only_kernels_that_have_it_are_asked_for_the_round_trip() {
        let tells = |release| version(release) >= Some(FIRST_WITH_MIN_RTT);
        assert!(["4.6.0", "4.18.0-553.el8.x86_64", "6.1-rc2", "10.0.1"].into_iter().all(tells));
        assert!(!["3.10.0-1160.el7.x86_64", "4.5.7", "4", "", "unknown"].into_iter().any(tells));
    }
}
