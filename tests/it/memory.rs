//! What idle connections take, with what the kernel holds for them: a small container has room for thousands.

#[allow(dead_code)] // the benchmark uses the rest
#[path = "../../benches/peers/cgroup.rs"]
mod cgroup;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::PATIENCE;
use crate::support::descriptors::memory;
use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp;
use crate::support::tools::skip;
use cgroup::Cgroup;

const CONNECTIONS: usize = 8000;
const CONTAINER: u64 = 128 * 1024 * 1024;
/// Two sockets with their inodes, entries and files take more by themselves.
const LEAST: u64 = 5 * 1024;
/// Descriptors for everything else that is tested beside this.
const RESERVE: u64 = 2000;

#[test]
fn eight_thousand_idle_connections_fit_into_128_mib_with_the_kernels_share() {
    // The clients' and the upstream's ends are here, both of the gate's there.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if limit.maximum.is_some_and(|maximum| maximum < 2 * CONNECTIONS as u64 + RESERVE) {
        return skip("too few descriptors");
    }
    setrlimit(Resource::Nofile, limit).unwrap();

    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gate = GateProcess::start(&format!("workers: 2\n{}", routing([("a.test", upstream.local_addr().unwrap())])));
    let at_rest = memory(gate.pid()) as u64;
    let group = match Cgroup::limited(CONTAINER - at_rest) {
        Ok(group) => group,
        Err(error) => return skip(&format!("no control group can be given a memory limit: {error}")),
    };
    group.add(gate.pid()).unwrap();

    let greeting = hello("a.test");
    let open = || {
        let mut client = tcp::connect(gate.address());
        client.write_all(&greeting).unwrap();
        let mut served = upstream.accept().unwrap().0;
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(tcp::read_exactly(&mut served, greeting.len()), greeting);
        (client, served)
    };
    let mut pairs: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
    let used = at_rest + group.usage().unwrap();
    eprintln!("{} KiB, {at_rest} bytes of it before the first connection", used / 1024);
    assert!(used <= CONTAINER, "{used}");
    if (used - at_rest) / (CONNECTIONS as u64) < LEAST {
        skip("this kernel does not count its own share (it was told so when it was booted)");
    }

    pairs.iter_mut().for_each(talk);
    talk(&mut open());
}

/// A word in either direction.
fn talk((client, served): &mut (TcpStream, TcpStream)) {
    client.write_all(b"question").unwrap();
    assert_eq!(tcp::read_exactly(served, 8), b"question");
    served.write_all(b"answer").unwrap();
    assert_eq!(tcp::read_exactly(client, 6), b"answer");
}
