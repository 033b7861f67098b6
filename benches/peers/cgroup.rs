//! Processes in a control group with a memory limit: the kernel counts what it holds for them, too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A group of its own; whoever is still in it when this is dropped goes back to where this process is.
pub(crate) struct Cgroup {
    directory: PathBuf,
    home: PathBuf,
    files: &'static Files,
}

/// What either version of control groups calls these.
struct Files {
    root: &'static str,
    /// Only a group without processes may have groups below it that have limits: ours goes beside this process's.
    beside: bool,
    limits: &'static [&'static str],
    usage: &'static [&'static str],
}

/// Sockets that were accepted are only counted once their buffers have a limit.
const V1: Files = Files {
    root: "/sys/fs/cgroup/memory",
    beside: false,
    limits: &["memory.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"],
    usage: &["memory.usage_in_bytes", "memory.kmem.tcp.usage_in_bytes"],
};
const V2: Files = Files { root: "/sys/fs/cgroup", beside: true, limits: &["memory.max"], usage: &["memory.current"] };

impl Cgroup {
    /// Makes a group that may use this many bytes. The limits that this process has go on to hold.
    pub(crate) fn limited(bytes: u64) -> io::Result<Self> {
        let (home, files) = home()?;
        let above = home.parent().filter(|_| files.beside && home != Path::new(files.root)).unwrap_or(&home);
        let directory = above.join(format!("snigate-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let group = Self { directory, home, files };
        for file in files.limits {
            write(&group.directory.join(file), bytes)?;
        }
        Ok(group)
    }

    /// Moves a process here. What it has already is not counted.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        write(&self.directory.join(PROCESSES), pid.into())
    }

    /// Bytes in use, the kernel's share included.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        self.files.usage.iter().map(|file| read(&self.directory.join(file))).sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that runs out of memory may be just ending, and its parent starting another.
        let deadline = Instant::now() + LEAVE;
        loop {
            let left = fs::read_to_string(self.directory.join(PROCESSES)).unwrap_or_default();
            for pid in left.lines().filter_map(|line| line.parse().ok()) {
                let _ = write(&self.home.join(PROCESSES), pid); // fails for one that has ended
            }
            match fs::remove_dir(&self.directory) {
                Ok(()) => return,
                Err(error) if Instant::now() > deadline => {
                    return eprintln!("{} stays: {error}", self.directory.display());
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// How long its processes may take to leave a group.
const LEAVE: Duration = Duration::from_secs(3);
const PROCESSES: &str = "cgroup.procs";

/// The group of this process that counts memory.
fn home() -> io::Result<(PathBuf, &'static Files)> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let v1 = groups.lines().find_map(|line| line.split_once(":memory:"));
    let v2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let (group, files) = match (v1, v2) {
        (Some((_, group)), _) => (group, &V1),
        (None, Some(group)) => (group, &V2),
        (None, None) => return Err(io::Error::other("there are no control groups")),
    };
    Ok((Path::new(files.root).join(group.trim_start_matches('/')), files))
}

fn read(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)
}

/// Control files are there already: one that is not belongs to a controller that is off here.
fn write(file: &Path, number: u64) -> io::Result<()> {
    use std::io::Write;
    fs::File::options().write(true).open(file)?.write_all(number.to_string().as_bytes())
}
