//! The traps of splice(2), each in both directions where a direction has any part in it.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::{fs, thread};

use nix::{getsockopt_impl, sockopt_impl};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};
use rustix::process::{Resource, Uid, getrlimit, getuid, setrlimit};
use rustix::thread::set_thread_res_uid;

use super::*;

/// One direction of a [`Stage`]: what `near` sends, `far` reads.
struct Way {
    from: Side,
    near: TcpStream,
    far: TcpStream,
    live: Rc<Live>,
    pipes: Rc<Pipes>,
    polls: Rc<Cell<usize>>,
    relay: JoinHandle<End>,
}

impl Way {
    async fn new(from: Side, pipes: Rc<Pipes>) -> Self {
        let Stage { client, upstream, live, pipes, polls, relay } = stage(pipes).await;
        let (near, far) = match from {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        Self { from, near, far, live, pipes, polls, relay }
    }

    /// How it ends when the near side does this.
    fn near_ends(&self, by_client: Reason, by_upstream: Reason) -> End {
        let reason = match self.from {
            Side::Client => by_client,
            Side::Upstream => by_upstream,
        };
        End { reason, closed_by: self.from.into() }
    }

    /// Waits until the relay sleeps: it is not polled, however often the runtime looks for events.
    async fn sleeps(&self) {
        loop {
            let before = self.polls.get();
            for _ in 0..1000 {
                yield_now().await;
            }
            if self.polls.get() == before {
                return;
            }
        }
    }
}

fn play_both_ways(test: impl AsyncFn(Way)) {
    for from in [Side::Client, Side::Upstream] {
        run(async { test(Way::new(from, Rc::new(pipes(128))).await).await });
    }
}

/// More than the buffers on the way hold, pipes included.
fn too_much() -> Vec<u8> {
    pattern(16 * MUCH)
}

/// Reads until nothing more comes: how much that was, all of it the beginning of `bytes`, and how it ended.
async fn read_to_end(socket: &mut TcpStream, bytes: &[u8]) -> (usize, io::Result<()>) {
    let (mut place, mut buffer) = (0, vec![0; 256 * 1024]);
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) => return (place, Ok(())),
            Ok(read) => {
                assert!(buffer[..read] == bytes[place..place + read], "other bytes than were sent, after {place}");
                place += read;
            }
            Err(error) => return (place, Err(error)),
        }
    }
}

fn reset(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
    drop(socket);
}

#[test]
fn bulk_is_really_spliced_and_no_error_falls_back_to_buffers() {
    play_both_ways(async |mut way| {
        let much = pattern(MUCH);
        tokio::join!(send(&mut way.near, &much), expect(&mut way.far, &much));
        let spliced = way.live.spliced();
        assert!(spliced > MUCH as u64 / 2, "only {spliced} bytes were spliced");
    });
}

#[test]
fn wouldblock_of_a_full_pipe_is_not_taken_for_an_empty_socket() {
    play_both_ways(async |mut way| {
        let much = too_much();
        for round in 0..3 {
            let sent = fill(&mut way.near, &much).await;
            assert_eq!(way.pipes.lent(), 1, "the bytes wait in a pipe");
            // Not another byte is sent that could wake the relay.
            expect(&mut way.far, &much[..sent]).await;
            assert!(way.live.spliced() > 0, "round {round}");
        }
        way.sleeps().await;
        assert_eq!(way.pipes.lent(), 0, "an idle relay holds no pipe");
    });
}

#[test]
fn a_fin_behind_bytes_in_a_pipe_comes_behind_them() {
    play_both_ways(async |mut way| {
        let much = too_much();
        let sent = fill(&mut way.near, &much).await;
        assert_eq!(way.pipes.lent(), 1, "the bytes wait in a pipe");
        way.near.shutdown().await.unwrap();
        let (received, end) = read_to_end(&mut way.far, &much).await;
        assert_eq!((received, end.is_ok()), (sent, true));
        assert_eq!(way.pipes.lent(), 0);
        // The other way is still open.
        send(&mut way.far, b"an answer").await;
        expect(&mut way.near, b"an answer").await;
        let expected = way.near_ends(Reason::ClientClosed, Reason::UpstreamClosed);
        drop(way.far);
        assert_eq!(way.relay.await.unwrap(), expected);
    });
}

#[test]
fn a_pipe_with_bytes_that_nobody_took_never_serves_again() {
    for from in [Side::Client, Side::Upstream] {
        for told_to_stop in [false, true] {
            run(async {
                // One place only, so that the next one to need a pipe would get this one.
                let pipes = Rc::new(pipes(1));
                let mut way = Way::new(from, Rc::clone(&pipes)).await;
                fill(&mut way.near, &too_much()).await;
                assert_eq!(pipes.lent(), 1, "the bytes wait in a pipe");
                if told_to_stop {
                    way.live.stop(Reason::Drained);
                } else {
                    reset(way.far);
                    let error = way.near.read(&mut [0]).await.unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                }
                let closed_by = if told_to_stop { ClosedBy::Snigate } else { from.other().into() };
                assert_eq!(way.relay.await.unwrap().closed_by, closed_by);
                assert_eq!(pipes.lent(), 0);

                let mut next = Way::new(from, pipes).await;
                let much: Vec<u8> = pattern(MUCH).into_iter().rev().collect();
                tokio::join!(send(&mut next.near, &much), expect(&mut next.far, &much));
                assert!(next.live.spliced() > 0, "the place is free again");
            });
        }
    }
}

#[test]
fn a_reset_behind_bytes_in_a_pipe_is_not_taken_for_a_fin() {
    play_both_ways(async |mut way| {
        let much = too_much();
        fill(&mut way.near, &much).await;
        assert_eq!(way.pipes.lent(), 1, "the bytes wait in a pipe");
        let expected = way.near_ends(Reason::ClientReset, Reason::UpstreamReset);
        reset(way.near);
        let (received, end) = read_to_end(&mut way.far, &much).await;
        assert!(received > READ_SIZE, "{received}");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(way.relay.await.unwrap(), expected);
        assert_eq!(way.pipes.lent(), 0);
    });
}

#[test]
fn a_reset_that_the_other_direction_learns_of_first_is_not_taken_for_a_fin() {
    play_both_ways(async |mut way| {
        let much = too_much();
        fill(&mut way.near, &much).await;
        fill(&mut way.far, &much).await;
        assert_eq!(way.pipes.lent(), 2, "bytes wait in a pipe each way");
        let expected = way.near_ends(Reason::ClientReset, Reason::UpstreamReset);
        // The write to the near side fails and takes the socket's error; what is left of its bytes then ends with a
        // zero, as if with a FIN.
        reset(way.near);
        let (received, end) = read_to_end(&mut way.far, &much).await;
        assert!(received > READ_SIZE, "{received}");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(way.relay.await.unwrap(), expected);
        assert_eq!(way.pipes.lent(), 0);
    });
}

#[test]
fn a_reset_after_bulk_is_not_taken_for_a_fin() {
    play_both_ways(async |mut way| {
        let much = pattern(MUCH);
        tokio::join!(send(&mut way.near, &much), expect(&mut way.far, &much));
        way.sleeps().await;
        let expected = way.near_ends(Reason::ClientReset, Reason::UpstreamReset);
        reset(way.near);
        let (received, end) = read_to_end(&mut way.far, &[]).await;
        assert_eq!((received, end.unwrap_err().kind()), (0, io::ErrorKind::ConnectionReset));
        assert_eq!(way.relay.await.unwrap(), expected);
    });
}

#[test]
fn single_bytes_that_fill_every_slot_of_a_pipe_all_arrive() {
    /// More than a pipe of the size that is asked for has slots; it has one a page.
    const SINGLES: usize = 300;
    play_both_ways(async |mut way| {
        // Enough in one piece to prove bulk, little enough for the buffers to take it in one go.
        let (burst, singles) = (pattern(8 * READ_SIZE), pattern(SINGLES));
        // It takes some rounds until the near side's congestion window lets all of them go as segments.
        loop {
            send(&mut way.near, &burst).await;
            expect(&mut way.far, &burst).await;
            way.sleeps().await;
            let before = way.live.spliced();
            // All are there before the relay has its turn. Those to the other side keep them apart in memory.
            for byte in &singles {
                assert_eq!(way.near.try_write(&[*byte]).unwrap(), 1);
                assert_eq!(way.far.try_write(&[*byte]).unwrap(), 1);
            }
            let all_under_way = not_sent(&way.near) == 0;
            // Not another byte is sent that could wake the relay.
            expect(&mut way.far, &singles).await;
            expect(&mut way.near, &singles).await;
            let spliced = way.live.spliced() - before;
            if all_under_way && (1..SINGLES as u64).contains(&spliced) {
                return;
            }
        }
    });
}

#[test]
fn the_last_bytes_of_a_pipe_are_sent_at_once_and_not_held_back_for_more() {
    run(async {
        let pipes = pipes(128);
        let ((mut source, near), (to, mut far)) = (pair().await, pair().await);
        send(&mut source, b"the last bytes").await;
        let mut pipe = pipes.lend().unwrap();
        near.readable().await.unwrap();
        assert_eq!(pipe.fill(&near).unwrap(), 14);
        assert_eq!(pipe.drain(&to).unwrap(), 14);
        // With SPLICE_F_MORE they would be in the queue now, to be sent after a while.
        assert_eq!(not_sent(&to), 0);
        expect(&mut far, b"the last bytes").await;
    });
}

/// Bytes that wait in the socket's queue, not yet under way.
fn not_sent(socket: &TcpStream) -> u32 {
    nix::sys::socket::getsockopt(socket, TcpFigures).unwrap()[NOT_SENT]
}

/// The index of `tcpi_notsent_bytes` in the `tcp_info` of linux/tcp.h, counted in words.
const NOT_SENT: usize = 36;

sockopt_impl!(
    /// The kernel's figures of a TCP connection, as far as that of the bytes not yet sent.
    TcpFigures,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; NOT_SENT + 1]
);

#[test]
fn a_relay_that_waits_is_not_woken_over_and_over() {
    play_both_ways(async |mut way| {
        let much = too_much();
        way.sleeps().await;
        let sent = fill(&mut way.near, &much).await;
        assert_eq!(way.pipes.lent(), 1);
        // The pipe is full, and the socket it is filled from has more.
        way.sleeps().await;
        expect(&mut way.far, &much[..sent]).await;
        // Bulk has stopped, and nothing is left.
        way.sleeps().await;
        way.near.shutdown().await.unwrap();
        assert_eq!(way.far.read(&mut [0]).await.unwrap(), 0);
        // One side is closed.
        way.sleeps().await;
    });
}

/// A user whom nobody else is: one of the numbers between those that Debian and systemd give out.
const NOBODY_ELSE: u32 = 60_800;
/// What a new pipe has, as long as its user may have more of them.
const FULL_SIZE: usize = 64 * 1024;

/// Opens pipes until the kernel gives only small ones. They need their users' count of pages, not both their ends.
fn take_all_full_pipes() -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    loop {
        let (read, _write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        if fcntl_getpipe_size(&read).unwrap() < FULL_SIZE {
            return taken;
        }
        taken.push(read);
    }
}

#[test]
fn small_pipes_of_unprivileged_users_are_refused_and_buffers_serve() {
    let skip = |why: &str| drop(writeln!(io::stderr(), "skipped: small pipes of unprivileged users: {why}"));
    if !getuid().is_root() {
        return skip("only root may become a user who has no other pipes");
    }
    let pages = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    if !(1..=16_384).contains(&pages.trim().parse::<u64>().unwrap()) {
        return skip("users may have more pipes than the kernel's default");
    }
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    // Linux gives each thread a user of its own; this one's pipes are counted apart from those of other tests.
    thread::scope(|scope| {
        scope.spawn(|| {
            let user = Uid::from_raw(NOBODY_ELSE);
            set_thread_res_uid(user, user, user).unwrap();
            let taken = take_all_full_pipes();
            run(async {
                let pipes = Rc::new(pipes(128));
                assert!(pipes.lend().is_none(), "a small pipe was lent");
                for from in [Side::Client, Side::Upstream] {
                    let (mut way, much) = (Way::new(from, Rc::clone(&pipes)).await, pattern(MUCH));
                    tokio::join!(send(&mut way.near, &much), expect(&mut way.far, &much));
                    assert_eq!((way.live.spliced(), pipes.lent()), (0, 0));
                }
                drop(taken);
                // Not asked for over and over, but again some time later.
                assert!((0..10_000).any(|_| pipes.lend().is_some()), "pipes are to be had again");
                let (mut way, much) = (Way::new(Side::Client, pipes).await, pattern(MUCH));
                tokio::join!(send(&mut way.near, &much), expect(&mut way.far, &much));
                assert!(way.live.spliced() > 0);
            });
        });
    });
}
