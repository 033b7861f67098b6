//! Bulk goes through kernel pipes where there are any, and arrives whole where there are none.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::{Uid, getuid};
use rustix::thread::set_thread_res_uid;

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp;
use crate::support::tools::skip;
use crate::support::{PATIENCE, descriptors, wait_until};

/// Where the tests themselves run without privileges, all of them have the pipes of one user.
static PIPES: Mutex<()> = Mutex::new(());

/// A gate before an upstream.
struct Stage {
    gate: GateProcess,
    upstream: TcpListener,
    /// Its standard streams.
    pipes_at_rest: BTreeMap<String, u64>,
}

impl Stage {
    fn set(start: impl FnOnce(&str) -> GateProcess) -> Self {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let routes = routing([("a.test", upstream.local_addr().unwrap())]);
        let gate = start(&format!("workers: 1\nlog: {{ level: debug }}\n{routes}"));
        let pipes_at_rest = descriptors::pipes(gate.pid());
        Self { gate, upstream, pipes_at_rest }
    }

    /// A connection through the gate: its client and its upstream.
    fn connection(&self) -> (TcpStream, TcpStream) {
        let mut client = tcp::connect(self.gate.address());
        client.write_all(&hello("a.test")).unwrap();
        let (mut upstream, _) = self.upstream.accept().unwrap();
        upstream.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp::read_exactly(&mut upstream, hello("a.test").len());
        (client, upstream)
    }

    /// Bytes in the pipes that the gate opened.
    fn in_pipes(&self) -> u64 {
        let now = descriptors::pipes(self.gate.pid());
        now.iter().filter(|(pipe, _)| !self.pipes_at_rest.contains_key(*pipe)).map(|(_, bytes)| bytes).sum()
    }

    /// Sends one way until nobody takes any more, and says how many bytes wait in the gate's pipes then. All arrive.
    fn pour(&self, from: &mut TcpStream, to: &mut TcpStream) -> u64 {
        tcp::keep_little(from);
        let poured = tcp::pour_until_blocked(&mut [from])[0];
        let waiting = self.in_pipes();
        assert!(tcp::read_exactly(to, poured) == tcp::pattern(poured), "other bytes than were sent");
        waiting
    }
}

#[test]
fn bulk_really_goes_through_the_gate_s_pipes() {
    let _alone = PIPES.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::set(GateProcess::start);
    let (mut client, mut upstream) = stage.connection();
    for _ in 0..2 {
        assert!(stage.pour(&mut client, &mut upstream) > 0, "no byte sent is in a pipe");
        assert!(stage.pour(&mut upstream, &mut client) > 0, "no byte received is in a pipe");
    }
    wait_until("every pipe is empty", || stage.in_pipes() == 0);
}

/// What a new pipe holds, as long as its user may have more of them.
const FULL_SIZE: usize = 64 * 1024;
/// The largest that Linux makes for users without privileges, unless it is told otherwise.
const LARGEST_SIZE: usize = 1024 * 1024;

/// As this user, opens pipes until the kernel gives only small ones.
fn take_pipes(user: Uid) -> Vec<OwnedFd> {
    let take = move || {
        if getuid() != user {
            // Linux gives each thread a user of its own.
            set_thread_res_uid(user, user, user).unwrap();
        }
        let mut taken = Vec::new();
        loop {
            // One end keeps it open.
            let (pipe, _) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            if fcntl_getpipe_size(&pipe).unwrap() < FULL_SIZE {
                return taken;
            }
            // What counts is not how many there are, but their pages.
            let _ = fcntl_setpipe_size(&pipe, LARGEST_SIZE);
            taken.push(pipe);
        }
    };
    thread::spawn(take).join().unwrap()
}

#[test]
fn an_unprivileged_gate_without_full_pipes_copies_and_splices_once_it_can() {
    let limit = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    if !(1..=65_536).contains(&limit.trim().parse().unwrap_or(0)) {
        return skip("this kernel's users may have any number of pipes");
    }
    let _alone = PIPES.lock().unwrap_or_else(PoisonError::into_inner);
    // Root starts it as a user whom nobody else is: of the numbers between those that Debian and systemd give out.
    let user = match getuid() {
        root if root.is_root() => Uid::from_raw(60_906 + std::process::id() % 200),
        user => user,
    };
    let stage = Stage::set(|yaml| match user == getuid() {
        true => GateProcess::start(yaml),
        false => GateProcess::start_as(user, yaml),
    });
    let taken = take_pipes(user);
    let (mut client, mut upstream) = stage.connection();
    assert_eq!(stage.pour(&mut client, &mut upstream), 0);
    assert_eq!(stage.pour(&mut upstream, &mut client), 0);
    let told = stage.gate.lines.wait("why it copies", |line| line.contains("buffers serve instead"));
    assert!(told.contains("pipes of 8192 bytes only"), "{told}");
    drop(taken);
    // The kernel is not asked again at once.
    wait_until("pipes are used", || stage.pour(&mut client, &mut upstream) > 0);
}
