//! Files that can be opened, and TCP ports: Landlock's part.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

use crate::config::{AdminAddress, Authorities, Config, EndpointAddress, credentials};

/// What is forbidden unless a rule allows it: all that this version knows, and of it what the kernel knows.
const KNOWN: ABI = ABI::V7;
/// The first version that knows ports.
const WITH_PORTS: ABI = ABI::V4;

const READING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What is read while the process runs, wherever the configuration is: names and servers; random numbers and the host's
/// name where there is no call for them, as in a program that is linked statically; a sink; and what the kernel tells of
/// this process.
const ALWAYS: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/dev/urandom",
    "/dev/random",
    "/dev/null",
    "/proc/self",
    "/proc/sys/kernel/hostname",
];

/// Directories in which too much lies side by side to be opened up for the sake of one file.
const WIDE: &[&str] = &[
    "/",
    "/boot",
    "/dev",
    "/etc",
    "/etc/pki",
    "/etc/pki/tls",
    "/etc/pki/tls/private",
    "/etc/ssl",
    "/etc/ssl/private",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/lib",
    "/usr/local",
    "/usr/local/etc",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// What stays readable. Files are replaced by renaming another to their place, so it is directories that stay readable:
/// a rule about a file holds for that very file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    directories: BTreeSet<PathBuf>,
    /// Files in directories that are too wide.
    files: BTreeSet<PathBuf>,
    /// Those of them that the operator chose the place of.
    misplaced: BTreeSet<PathBuf>,
}

impl Reach {
    /// For this configuration, read from `path`.
    pub(super) fn of(config: &Config, path: &Path) -> Self {
        let mut reach = Self::default();
        reach.add_operators(path);
        for check in config.upstreams.iter().filter_map(|upstream| upstream.health_check.as_ref()) {
            let Some(tls) = check.tls() else { continue };
            if let Some(Authorities::File(path)) = &tls.authorities {
                reach.add_operators(path);
            }
            if let Some(client) = &tls.client {
                reach.add_operators(&client.certificate);
                reach.add_operators(&client.key);
            }
        }
        if let Some(path) = config.admin.as_ref().and_then(|admin| admin.token_file.as_deref()) {
            reach.add_operators(path);
        }
        // Those of the system even if nothing asks for them: another configuration may.
        if let Some(path) = credentials::system_roots() {
            reach.add(&path);
        }
        for path in ALWAYS {
            reach.add(Path::new(path));
        }
        reach
    }

    /// A file that the operator put there.
    fn add_operators(&mut self, path: &Path) {
        if self.add(path) {
            self.misplaced.insert(path.to_owned());
        }
    }

    /// A file, or whatever comes to stand in its place. Behind a link there may be another, whose target changes (`..data`
    /// of a ConfigMap lies beside the links to it): all their directories count. Returns whether one was too wide.
    fn add(&mut self, path: &Path) -> bool {
        /// As many as the kernel follows.
        const LINKS: usize = 40;
        let mut next = std::path::absolute(path).ok();
        let mut wide = false;
        for _ in 0..LINKS {
            let Some(path) = next else { break };
            let Some(directory) = path.parent().and_then(|directory| fs::canonicalize(directory).ok()) else { break };
            next = fs::read_link(&path).ok().map(|target| directory.join(target));
            if is_wide(&directory) {
                wide = true;
                self.files.insert(path);
            } else {
                self.directories.insert(directory);
            }
        }
        wide
    }

    /// Whether a file, or what stands in its place now, lies where nothing can be read. (Where a file is can be seen from
    /// within the sandbox as well; whether it may be read by whoever we are is another matter.)
    pub(super) fn lacks(&self, path: &Path) -> bool {
        let mut wanted = Self::default();
        wanted.add(path);
        let is_open = |path: &PathBuf| self.directories.iter().any(|open| path.starts_with(open));
        !wanted.directories.iter().chain(&wanted.files).all(is_open)
    }

    /// What to say about the operator's files that cannot be read again once they are replaced.
    pub(super) fn fixed(&self) -> Vec<String> {
        let about = |path: &PathBuf| {
            let path = path.display();
            format!(
                "{path} lies among files that are not ours to read: when another takes its place a restart is needed; a \
                 directory of its own avoids that"
            )
        };
        self.misplaced.iter().map(about).collect()
    }

    fn rules(&self) -> impl Iterator<Item = PathBeneath<PathFd>> {
        let paths = self.directories.iter().chain(&self.files);
        // What is not there needs no rule, and what the user may not enter cannot have one.
        paths.filter_map(|path| {
            let kind = fs::metadata(path).ok()?;
            let access = if kind.is_dir() { READING } else { AccessFs::ReadFile.into() };
            Some(PathBeneath::new(PathFd::new(path).ok()?, access))
        })
    }
}

fn is_wide(directory: &Path) -> bool {
    let is = |wide: &str| directory == Path::new(wide);
    let is_below = |wide: &str| directory.starts_with(wide);
    WIDE.iter().any(|wide| is(wide))
        || ["/proc", "/sys"].into_iter().any(is_below)
        || directory.parent() == Some(Path::new("/home"))
}

/// The TCP ports of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ports {
    bind: BTreeSet<u16>,
    connect: BTreeSet<u16>,
}

impl Ports {
    pub(super) fn of(config: &Config) -> Self {
        let of_endpoint = |address: &EndpointAddress| match address {
            EndpointAddress::Ip(address) => Some(address.port()),
            EndpointAddress::Name(_, port) => Some(*port),
            EndpointAddress::Service(_) => None,
        };
        let endpoints = config.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
        // DNS answers that are too long for a datagram come by TCP.
        let dns = config.dns.servers.iter().map(SocketAddr::port);
        let admin = config.admin.as_ref().and_then(|admin| match &admin.address {
            AdminAddress::Tcp(address) => Some(address.port()),
            AdminAddress::Unix(_) => None,
        });
        // The kernel is to choose the port.
        let from_address = config.upstreams.iter().any(|upstream| !upstream.source_addresses.is_empty()).then_some(0);
        let listeners = config.listeners.iter().map(|listener| listener.address.socket_addr().port());
        let resolv_conf = config.dns.servers.is_empty().then_some(53);
        Self {
            bind: listeners.chain(admin).chain(from_address).collect(),
            connect: endpoints.filter_map(|one| of_endpoint(&one.address)).chain(dns).chain(resolv_conf).collect(),
        }
    }

    /// Those of `wanted` that are not among these, for people.
    pub(super) fn lacking(&self, wanted: &Self) -> Vec<String> {
        let listened = wanted.bind.difference(&self.bind).map(|port| match port {
            0 => "any port, as `source_addresses` need it".to_owned(),
            port => format!("port {port} of a listener"),
        });
        let connected =
            wanted.connect.difference(&self.connect).map(|port| format!("port {port} of an endpoint or of DNS"));
        listened.chain(connected).collect()
    }

    fn rules(&self) -> impl Iterator<Item = NetPort> {
        let bind = self.bind.iter().map(|port| NetPort::new(*port, AccessNet::BindTcp));
        bind.chain(self.connect.iter().map(|port| NetPort::new(*port, AccessNet::ConnectTcp)))
    }
}

/// From now on this thread opens nothing but what is in reach, to read it, executes nothing, signals nobody outside, and
/// uses no other TCP ports if some are given and the kernel knows them. Returns the version of what holds.
pub(super) fn restrict(reach: &Reach, ports: Option<&Ports>) -> Result<ABI, String> {
    let status = ruleset(reach, ports).and_then(RulesetCreated::restrict_self);
    match status.map(|status| status.landlock) {
        Ok(LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi),
        Ok(LandlockStatus::NotEnabled) => Err("Landlock is off in this kernel (see `lsm=` in its command line)".into()),
        Ok(LandlockStatus::NotImplemented) => {
            Err("no Landlock here (Linux has it since 5.13, and some container runtimes forbid it)".into())
        }
        Err(error) => Err(format!("Landlock refuses: {error}")),
    }
}

/// Whether this version restricts ports.
pub(super) fn with_ports(version: ABI) -> Result<String, String> {
    if version < WITH_PORTS { Err("Landlock knows ports since Linux 6.7".into()) } else { Ok("ports".into()) }
}

fn ruleset(reach: &Reach, ports: Option<&Ports>) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
    if ports.is_some() {
        rules = rules.handle_access(AccessNet::from_all(KNOWN))?;
    }
    let created = rules.create()?.add_rules(reach.rules().map(Ok::<_, RulesetError>))?;
    match ports {
        Some(ports) => created.add_rules(ports.rules().map(Ok::<_, RulesetError>)),
        None => Ok(created),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_are_opened_up_unless_they_are_wide() {
        let folder = tempfile::tempdir().unwrap();
        // The way to it may lead through links.
        let folder = fs::canonicalize(folder.path()).unwrap();
        let path = |name: &str| folder.join(name);
        for name in ["own", "live", "archive"] {
            fs::create_dir(path(name)).unwrap();
        }
        symlink("../archive/1.pem", path("live/ca.pem")).unwrap();
        symlink(folder.join("own/../own/b.yaml"), path("own/a.yaml")).unwrap();
        symlink("/etc/hosts", path("own/far.pem")).unwrap();
        symlink("round.pem", path("live/round.pem")).unwrap();
        for (file, directories, files) in [
            ("own/b.yaml", &["own"][..], &[][..]),
            ("own/a.yaml", &["own"], &[]),
            ("live/ca.pem", &["live", "archive"], &[]),
            ("live/round.pem", &["live"], &[]),
            ("own/far.pem", &["own"], &["/etc/hosts"]),
            ("none/at/all.pem", &[], &[]),
        ] {
            let mut reach = Reach::default();
            reach.add_operators(&path(file));
            assert_eq!(reach.directories, directories.iter().map(|name| path(name)).collect(), "{file}");
            assert_eq!(reach.files, files.iter().map(PathBuf::from).collect(), "{file}");
            assert_eq!(reach.fixed().len(), files.len(), "{file}");
        }
        for (directory, wide) in [
            ("/", true),
            ("/etc", true),
            ("/etc/snigate", false),
            ("/etc/ssl", true),
            ("/etc/ssl/certs", false),
            ("/etc/ssl/private", true),
            ("/home/jane", true),
            ("/home/jane/gate", false),
            ("/mnt", true),
            ("/proc/sys/kernel", true),
            ("/tmp", true),
            ("/tmp/gate", false),
            ("/usr/local", true),
            ("/var/lib", true),
            ("/var/lib/gate", false),
        ] {
            assert_eq!(is_wide(Path::new(directory)), wide, "{directory}");
        }
    }

    #[test]
    fn ports_need_a_newer_kernel_than_files() {
        assert!(with_ports(ABI::V1).is_err() && with_ports(ABI::V3).is_err());
        assert!(with_ports(ABI::V4).is_ok() && with_ports(KNOWN).is_ok());
    }

    #[test]
    fn a_configuration_says_what_is_read_and_which_ports_are_used() {
        let yaml = "
            listeners: [{ address: ':6443' }, { address: ':443' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1', 'b.test:2', { srv: _c._tcp.test }] } }";
        let config = Config::parse(yaml).unwrap();
        let reach = Reach::of(&config, Path::new("/etc/hosts"));
        for path in ALWAYS {
            assert!(reach.files.contains(Path::new(path)), "{path}: {reach:?}");
        }
        assert!(!reach.directories.iter().any(|directory| is_wide(directory)), "{reach:?}");
        let told =
            "/etc/hosts lies among files that are not ours to read: when another takes its place a restart is needed";
        assert!(reach.fixed()[0].starts_with(told) && reach.fixed().len() == 1, "{:?}", reach.fixed());
        let ports = |bind: &[u16], connect: &[u16]| Ports {
            bind: bind.iter().copied().collect(),
            connect: connect.iter().copied().collect(),
        };
        assert_eq!(Ports::of(&config), ports(&[443, 6443], &[1, 2, 53]));
        let config = Config::parse(&format!("{yaml}\n            dns: {{ servers: ['10.0.0.1:8600'] }}")).unwrap();
        assert_eq!(Ports::of(&config), ports(&[443, 6443], &[1, 2, 8600]));
    }
}
