//! What attackers do.

use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::support::hello::hello;
use super::upstreams::{POURING, SILENT};

/// An attack: how many, how fast, and what each does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attack {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    /// So many at the same time.
    pub(crate) open: usize,
    /// At most so many new ones a second.
    pub(crate) rate: usize,
    pub(crate) one_source: bool,
    pub(crate) script: Script,
}

/// What one attacker does once it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Says nothing.
    Silent,
    /// A byte of a valid hello each second.
    Dribble,
    /// A hello that no route takes.
    Unknown,
    /// A hello that is routed, and a reset soon after.
    Visit,
    /// A hello, and a reset at once.
    Reset,
    /// No TLS at all, or the beginning of it.
    Garbage,
    /// A hello of 16 KB in pieces, that no route takes.
    Bomb,
    /// The same, of which the last byte never comes.
    UnendingBomb,
    /// Does not even connect: the gate's answer to its SYN is lost.
    HalfOpen,
    /// A hello that is routed, then a FIN; the server never sends its own.
    HalfClosed,
    /// Asks for much and reads nothing of it.
    Unread,
}

const fn attack(key: &'static str, title: &'static str, open: usize, rate: usize, script: Script) -> Attack {
    Attack { key, title, open, rate, one_source: false, script }
}

const fn from_one_source(attack: Attack) -> Attack {
    Attack { one_source: true, ..attack }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack("silent", "silent sockets", 10_000, 4_000, Script::Silent),
    from_one_source(attack("silent-one", "silent sockets from one source", 10_000, 4_000, Script::Silent)),
    attack("dribble", "a byte of a hello a second", 10_000, 4_000, Script::Dribble),
    from_one_source(attack("flood-one", "new connections from one source", 256, 5_000, Script::Unknown)),
    attack("flood", "new connections from many sources", 256, 5_000, Script::Unknown),
    attack("visits", "connections to an upstream, reset soon", 256, 2_000, Script::Visit),
    attack("resets", "a hello and a reset", 256, 5_000, Script::Reset),
    attack("garbage", "garbage", 256, 5_000, Script::Garbage),
    attack("bombs", "hellos of 16 KB", 256, 2_000, Script::Bomb),
    attack("unending", "hellos of 16 KB without their end", 4_000, 2_000, Script::UnendingBomb),
    attack("half-open", "half-open connections", 10_000, 4_000, Script::HalfOpen),
    attack("half-closed", "half-closed connections", 2_000, 1_000, Script::HalfClosed),
    attack("unread", "readers that stop", 500, 500, Script::Unread),
];

/// Who asks for it is refused.
static NOBODY: LazyLock<Vec<u8>> = LazyLock::new(|| hello("nobody.test"));
static TO_SILENT: LazyLock<Vec<u8>> = LazyLock::new(|| hello(SILENT));
static TO_POURING: LazyLock<Vec<u8>> = LazyLock::new(|| hello(POURING));
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| large(b"nobody.test"));
/// Of which no byte begins a TLS record, and behind a record's header no list has its length.
const NOISE: [u8; 1024] = [0xa5; 1024];

impl Script {
    /// Does it, to the end of the connection.
    pub(crate) async fn run(self, mut stream: TcpStream) {
        // Whatever fails has ended it.
        let _ = self.act(&mut stream).await;
    }

    async fn act(self, stream: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Silent | Self::HalfOpen => {}
            Self::Dribble => {
                for byte in NOBODY.iter() {
                    stream.write_all(&[*byte]).await?;
                    tokio::select! {
                        () = sleep(Duration::from_secs(1)) => {}
                        ended = to_the_end(stream) => return ended,
                    }
                }
            }
            Self::Unknown => stream.write_all(&NOBODY).await?,
            Self::Visit => {
                stream.write_all(&TO_SILENT).await?;
                sleep(Duration::from_millis(50)).await;
                return Ok(());
            }
            Self::Reset => {
                return stream.write_all(&NOBODY).await;
            }
            Self::Garbage => {
                // Ports that the kernel chooses for a connect are all even, or all odd.
                let is_tls_at_first = (stream.local_addr()?.port() / 2).is_multiple_of(2);
                let beginning: &[u8] = if is_tls_at_first { &[22, 3, 1, 4, 0, 1, 0, 3, 252, 3, 3] } else { b"" };
                stream.write_all(&[beginning, &NOISE].concat()).await?;
            }
            Self::Bomb | Self::UnendingBomb => {
                let length = if self == Self::Bomb { LARGE.len() } else { LARGE.len() - 1 };
                for piece in LARGE[..length].chunks(1400) {
                    stream.write_all(piece).await?;
                    tokio::task::yield_now().await;
                }
            }
            Self::HalfClosed => {
                stream.write_all(&TO_SILENT).await?;
                stream.shutdown().await?;
            }
            Self::Unread => {
                stream.write_all(&TO_POURING).await?;
                std::future::pending::<()>().await;
            }
        }
        to_the_end(stream).await
    }
}

async fn to_the_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 256];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// A valid hello of nearly 16 KiB, most of it padding.
fn large(name: &[u8]) -> Vec<u8> {
    const PADDING: usize = 16_000;
    let u16 = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let mut extensions = vec![0, 0]; // server_name
    extensions.extend(u16(name.len() + 5));
    extensions.extend(u16(name.len() + 3));
    extensions.push(0); // host_name
    extensions.extend(u16(name.len()));
    extensions.extend(name);
    extensions.extend([0, 21]); // padding
    extensions.extend(u16(PADDING));
    extensions.extend([0; PADDING]);
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]); // no session, one cipher suite, no compression
    body.extend(u16(extensions.len()));
    body.extend(extensions);
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1, high, middle, low], body.as_slice()].concat();
    [&[22, 3, 1], u16(message.len()).as_slice(), &message].concat()
}

/// What an attack needs beside the attackers, undone when dropped.
pub(crate) struct Preparation {
    filters: bool,
}

/// Prepares an attack; `None`, said aloud, where it cannot be made.
pub(crate) fn prepare(attack: &Attack, gate: SocketAddr) -> Option<Preparation> {
    if attack.script != Script::HalfOpen {
        return Some(Preparation { filters: false });
    }
    let rules = format!(
        "table inet attacks {{ chain arriving {{ type filter hook input priority 0; \
         ip daddr 127.67.0.0/16 tcp sport {} drop; }}; }}",
        gate.port()
    );
    match nft(&rules) {
        Ok(()) => Some(Preparation { filters: true }),
        Err(error) => {
            eprintln!("{}: it takes nft(8), and root: {error}", attack.key);
            None
        }
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        if self.filters
            && let Err(error) = nft("delete table inet attacks")
        {
            eprintln!("a filter stays: {error}");
        }
    }
}

fn nft(rules: &str) -> io::Result<()> {
    let output = Command::new("nft").arg(rules).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
