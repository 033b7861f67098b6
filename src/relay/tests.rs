//! A relay between two pairs of loopback sockets.

mod traps;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::timeout;

use super::*;
use crate::limits::SCARCE_READ;
use crate::observe::live::LiveTable;
use crate::observe::live::tests::enter;

/// Enough to fill every buffer on the way several times.
const MUCH: usize = 8 * 1024 * 1024;

/// The far ends of a relay that runs beside the test.
struct Stage {
    client: TcpStream,
    upstream: TcpStream,
    live: Rc<Live>,
    pipes: Rc<Pipes>,
    /// How often the relay was polled.
    polls: Rc<Cell<usize>>,
    relay: JoinHandle<End>,
}

/// A pool of so many, and memory for whatever is held.
fn pipes(limit: usize) -> Pipes {
    Pipes::new(limit, usize::MAX)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let far = listener.accept().await.unwrap().0;
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
        // Every Linux has this one, and it does not pace what it sends.
        rustix::net::sockopt::set_tcp_congestion(socket, "reno").unwrap();
    }
    (near, far)
}

async fn stage(pipes: Rc<Pipes>) -> Stage {
    let ((client_near, client), (upstream_near, upstream)) = (pair().await, pair().await);
    let entry = enter(&Rc::default());
    let (live, polls) = (entry.share(), Rc::new(Cell::new(0)));
    let (lent, counter) = (Rc::clone(&pipes), Rc::clone(&polls));
    let relay = spawn_local(async move {
        let mut relay = Relay::new(client_near, upstream_near, Duration::ZERO.into(), Bytes::new(), &lent);
        let scratch = Scratch::new();
        let end = {
            let mut run = pin!(relay.run(&entry, &scratch, &lent));
            poll_fn(|cx| {
                counter.set(counter.get() + 1);
                run.as_mut().poll(cx)
            })
            .await
        };
        relay.finish().await;
        end
    });
    Stage { client, upstream, live, pipes, polls, relay }
}

/// Runs a test with relays beside it, within a time that only a stuck one reaches.
fn play<F: Future<Output = ()>>(test: impl FnOnce(Stage) -> F, pipes: Pipes) {
    run(async { test(stage(Rc::new(pipes)).await).await });
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        timeout(Duration::from_secs(60), test).await.expect("nothing is stuck");
    }));
}

/// Bytes that show where they belong: every 64 of them begin with their place.
fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![b'.'; length];
    for (place, piece) in bytes.chunks_exact_mut(64).enumerate() {
        piece[..8].copy_from_slice(&place.to_le_bytes());
    }
    bytes
}

async fn send(socket: &mut TcpStream, bytes: &[u8]) {
    socket.write_all(bytes).await.unwrap();
}

async fn expect(socket: &mut TcpStream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    socket.read_exact(&mut received).await.unwrap();
    assert!(received == bytes, "other bytes than were sent");
}

#[test]
fn bulk_is_spliced_and_gives_its_pipe_back_and_small_talk_is_copied() {
    play(
        |mut stage| async move {
            for _ in 0..100 {
                send(&mut stage.client, b"question").await;
                expect(&mut stage.upstream, b"question").await;
                send(&mut stage.upstream, b"answer").await;
                expect(&mut stage.client, b"answer").await;
            }
            assert_eq!(stage.live.spliced(), 0);
            let much = pattern(MUCH);
            tokio::join!(send(&mut stage.upstream, &much), expect(&mut stage.client, &much));
            let spliced = stage.live.spliced();
            assert!(spliced > MUCH as u64 / 2, "only {spliced} bytes were spliced");
            while stage.pipes.lent() > 0 {
                yield_now().await;
            }
            send(&mut stage.client, b"question").await;
            expect(&mut stage.upstream, b"question").await;
            assert_eq!((stage.live.spliced(), stage.pipes.lent()), (spliced, 0));
        },
        pipes(128),
    );
}

#[test]
fn bulk_both_ways_at_once_is_spliced_and_whole() {
    play(
        |stage| async move {
            let much = pattern(MUCH);
            let (mut client_in, mut client_out) = stage.client.into_split();
            let (mut upstream_in, mut upstream_out) = stage.upstream.into_split();
            let (mut down, mut up) = (vec![0; MUCH], vec![0; MUCH]);
            let (a, b, c, d) = tokio::join!(
                client_out.write_all(&much),
                upstream_out.write_all(&much),
                client_in.read_exact(&mut down),
                upstream_in.read_exact(&mut up),
            );
            a.unwrap();
            b.unwrap();
            c.unwrap();
            d.unwrap();
            assert!(down == much && up == much);
            assert!(stage.live.spliced() > MUCH as u64);
        },
        pipes(128),
    );
}

#[test]
fn without_pipes_bulk_is_copied() {
    play(
        |mut stage| async move {
            let much = pattern(MUCH);
            tokio::join!(send(&mut stage.client, &much), expect(&mut stage.upstream, &much));
            assert_eq!((stage.live.spliced(), stage.live.sent()), (0, MUCH as u64));
        },
        pipes(0),
    );
}

/// Sends until nobody takes any more, which leaves the relay with a pipe full of bytes.
async fn fill(socket: &mut TcpStream, bytes: &[u8]) -> usize {
    let (mut sent, mut refusals) = (0, 0);
    // One pause may be the machine's; several in a row are the reader's.
    while refusals < 4 {
        assert!(sent < bytes.len(), "the buffers on the way hold more than that");
        match timeout(Duration::from_millis(50), socket.write(&bytes[sent..])).await {
            Ok(accepted) => (sent, refusals) = (sent + accepted.unwrap(), 0),
            Err(_) => refusals += 1,
        }
    }
    sent
}

#[test]
fn a_reader_that_stops_gets_what_the_pipe_held_and_the_rest_and_the_fin() {
    play(
        |mut stage| async move {
            let much = pattern(16 * MUCH);
            let sent = fill(&mut stage.upstream, &much).await;
            assert_eq!(stage.pipes.lent(), 1, "the bytes wait in a pipe");
            expect(&mut stage.client, &much[..sent / 2]).await;
            send(&mut stage.upstream, &much[sent..sent + 1000]).await;
            stage.upstream.shutdown().await.unwrap();
            expect(&mut stage.client, &much[sent / 2..sent + 1000]).await;
            assert_eq!(stage.client.read(&mut [0]).await.unwrap(), 0, "the FIN comes behind the last byte");
            assert_eq!(stage.pipes.lent(), 0);
            drop(stage.client);
            assert_eq!(stage.relay.await.unwrap().reason, Reason::UpstreamClosed);
        },
        pipes(128),
    );
}

#[test]
fn relays_that_nobody_reads_hold_no_more_than_they_may_and_lose_nothing() {
    const MOST: usize = 100 * 1024;
    const RELAYS: usize = 6;
    let pipes = Rc::new(Pipes::new(128, MOST));
    run(async {
        let much = pattern(16 * MUCH);
        let mut filled = Vec::new();
        for _ in 0..RELAYS {
            let mut stage = stage(Rc::clone(&pipes)).await;
            let sent = fill(&mut stage.upstream, &much).await;
            let held = pipes.memory().held();
            assert!(held <= MOST + RELAYS * SCARCE_READ, "{held} bytes are held");
            filled.push((stage, sent));
        }
        for (stage, sent) in &mut filled {
            expect(&mut stage.client, &much[..*sent]).await;
        }
        assert_eq!(pipes.memory().held(), 0);
    });
}

#[test]
fn without_memory_for_what_nobody_takes_bulk_goes_on_in_small_reads() {
    play(
        |mut stage| async move {
            let (memory, much) = (Rc::clone(stage.pipes.memory()), pattern(MUCH));
            let all = memory.room();
            memory.take(all);
            tokio::join!(send(&mut stage.upstream, &much), expect(&mut stage.client, &much));
            assert_eq!((stage.live.spliced(), memory.held()), (0, all));
            memory.give_back(all);
            tokio::join!(send(&mut stage.upstream, &much), expect(&mut stage.client, &much));
            assert!(stage.live.spliced() > 0, "with room again, bulk is spliced");
        },
        Pipes::new(128, 1 << 20),
    );
}

/// What the kernel bears of an endpoint, in seconds, after so many ticks of the worker.
fn user_timeout_after(ticks: usize, table: &LiveTable, relay: &mut Relay, live: &Live) -> u64 {
    for _ in 0..ticks {
        table.sweep();
        let polled = relay.poll(&mut Context::from_waker(Waker::noop()), live, &Scratch::new(), &Pipes::new(0, 0));
        assert_eq!(polled, Poll::Pending);
    }
    SockRef::from(&relay.upstream).tcp_user_timeout().unwrap().unwrap_or_default().as_secs()
}

#[tokio::test]
async fn a_quiet_endpoint_has_less_time_to_answer_than_one_with_bytes_under_way() {
    let ((client_near, mut client), (upstream_near, upstream)) = (pair().await, pair().await);
    let table = Rc::new(LiveTable::default());
    let entry = enter(&table);
    entry.limit_silence(Duration::from_secs(3600), Duration::from_secs(60));
    let mut relay =
        Relay::new(client_near, upstream_near, Duration::from_secs(120).into(), Bytes::new(), &Pipes::new(0, 0));
    assert_eq!(user_timeout_after(0, &table, &mut relay, &entry), 0, "most end before it costs anything");
    assert_eq!(user_timeout_after(19, &table, &mut relay, &entry), 120);
    assert_eq!(user_timeout_after(1, &table, &mut relay, &entry), 30, "after 20 s of silence");

    // Until the other side's kernel takes no more: what then is silent is under way.
    client.write_all(b"words").await.unwrap();
    relay.client.readable().await.unwrap();
    assert_eq!(user_timeout_after(1, &table, &mut relay, &entry), 30, "moved behind the sweep");
    assert_eq!(user_timeout_after(1, &table, &mut relay, &entry), 120);
    let socket = SockRef::from(&relay.upstream);
    while socket.send(&[0; 65536]).is_ok() {}
    assert_eq!(user_timeout_after(40, &table, &mut relay, &entry), 120);
    drop(upstream);
}
