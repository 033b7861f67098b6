//! What a process holds, as /proc tells: after a test its sockets must be as many as before.
//!
//! Tests share one process and run side by side, so only the count of a child process is exact: these take its id.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::io::ioctl_fionread;

/// The number of sockets that process `pid` has open.
pub fn sockets(pid: u32) -> usize {
    inodes(pid).len()
}

/// Waits until process `pid` has exactly `baseline` sockets again.
pub fn wait_for_baseline(pid: u32, baseline: usize) {
    let mut last = 0;
    super::wait_until(&format!("process {pid} is back to {baseline} sockets"), || {
        let now = sockets(pid);
        if now != last {
            eprintln!("process {pid}: {now} sockets, {baseline} at the beginning");
            last = now;
        }
        now == baseline
    });
}

/// The IPv4 address on which process `pid` listens.
pub fn listening(pid: u32) -> Option<SocketAddr> {
    listening_but(pid, None)
}

/// The same, of one that is known to listen on another, too.
pub fn listening_but(pid: u32, but: Option<SocketAddr>) -> Option<SocketAddr> {
    let own = inodes(pid);
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 0A is LISTEN; the tenth field is the inode.
        let inode = format!("socket:[{}]", fields.get(9)?);
        if fields.get(3) != Some(&"0A") || !own.contains(&inode) {
            return None;
        }
        let (address, port) = fields.get(1)?.split_once(':')?;
        // The kernel prints the address as a number of the host's byte order.
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), u16::from_str_radix(port, 16).ok()?);
        (Some(address) != but).then_some(address)
    })
}

fn inodes(pid: u32) -> Vec<String> {
    let folder = format!("/proc/{pid}/fd");
    fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        // A descriptor may be closed between the listing and the look at it.
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .filter(|target| target.starts_with("socket:"))
        .collect()
}

/// The bytes of memory that process `pid` has in use.
pub fn memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap()
}

/// The pipes that process `pid` has an end of, each by its number, with the bytes that wait in it.
pub fn pipes(pid: u32) -> BTreeMap<String, u64> {
    let folder = format!("/proc/{pid}/fd");
    let ends = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    // A descriptor may be closed between the listing and the look at it.
    let pipe = |path: PathBuf| {
        let number = fs::read_link(&path).ok()?.into_os_string().into_string().ok()?;
        if !number.starts_with("pipe:") {
            return None;
        }
        // Opens another end of the same pipe, which only looks.
        let end = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        Some((number, ioctl_fionread(end).ok()?))
    };
    ends.filter_map(|entry| pipe(entry.ok()?.path())).collect()
}

/// The processor time that process `pid` has used, in the kernel's ticks.
pub fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name before may contain spaces; counted from the state behind it, these two are utime and stime.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}
