//! The ways to close a socket: with a FIN that arrives, with last bytes that arrive, with a reset.

use std::io;
use std::time::Duration;

use nix::{getsockopt_impl, sockopt_impl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a close may wait for the peer. Measured against what a reader needs, not against what it may like.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes a refused client may still send while it is told: more than the rest of any hello.
const LINGER_BYTES: u64 = 64 * 1024;
/// How often the kernel's queue is looked at while a reset waits for it.
const QUEUE_CHECK: Duration = Duration::from_millis(5);

/// Sends `bytes`, which may be none, then a FIN, and reads on a little: a close with unread input would send a reset, and
/// that makes the peer's kernel throw the last bytes away.
pub async fn send_then_close(mut socket: TcpStream, bytes: &[u8]) {
    let _ = timeout(LINGER, async {
        socket.write_all(bytes).await?;
        socket.shutdown().await?;
        discard(&mut socket, LINGER_BYTES).await
    })
    .await;
}

/// Closes with a FIN, also when the peer is still sending. Bytes that come in the meantime are thrown away.
pub async fn close_gently(mut socket: TcpStream) {
    let _ = timeout(LINGER, async {
        socket.shutdown().await?;
        discard(&mut socket, u64::MAX).await
    })
    .await;
}

/// Closes with a reset, at once. What the kernel had not yet sent is lost.
pub fn close_with_reset(socket: TcpStream) {
    // If the option cannot be set the peer gets a FIN instead: there is nobody left to tell.
    let _ = socket.set_zero_linger();
    drop(socket);
}

/// Waits until the peer's kernel has everything, then resets; all within [`LINGER`].
pub(super) async fn reset_behind_the_last_byte(socket: TcpStream) {
    let _ = timeout(LINGER, async {
        while !queue_is_empty(&socket) {
            sleep(QUEUE_CHECK).await;
        }
    })
    .await;
    close_with_reset(socket);
}

async fn discard(socket: &mut TcpStream, most: u64) -> io::Result<()> {
    let mut left = most;
    let mut unread = [0; 1024];
    while left > 0 {
        match socket.read(&mut unread).await? {
            0 => break,
            read => left = left.saturating_sub(read as u64),
        }
    }
    Ok(())
}

/// Whether the peer has acknowledged everything that was written; no, where the kernel does not tell.
pub(super) fn queue_is_empty(socket: &TcpStream) -> bool {
    nix::sys::socket::getsockopt(socket, SocketMemory).is_ok_and(|memory| memory[SK_MEMINFO_WMEM_QUEUED] == 0)
}

/// SO_MEMINFO of asm-generic/socket.h (Linux 4.12 and later), which neither libc nor rustix name.
const SO_MEMINFO: libc::c_int = 55;
/// The index of the send queue's memory in it (linux/sock_diag.h).
const SK_MEMINFO_WMEM_QUEUED: usize = 5;

sockopt_impl!(
    /// The first six of a socket's memory figures.
    SocketMemory,
    GetOnly,
    libc::SOL_SOCKET,
    SO_MEMINFO,
    [u32; 6]
);
