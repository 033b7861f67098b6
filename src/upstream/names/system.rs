//! What the host's files say about names, as glibc understands them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use resolv_conf::Config;

use super::servers::{Manner, Servers};
use crate::config::files::Stamp;

const DNS_PORT: u16 = 53;
/// glibc takes larger values for these.
const LONGEST_TIMEOUT: u32 = 30;
const MOST_ROUNDS: u32 = 5;

/// The files that are read.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
}

impl Files {
    /// What changes when they do.
    pub(super) fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| Stamp::of(path))
    }
}

/// A file that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub(super) struct Unreadable {
    path: PathBuf,
    reason: io::Error,
}

/// The files' content.
#[derive(Debug)]
pub(super) struct System {
    pub(super) servers: Servers,
    search: Vec<String>,
    ndots: usize,
    /// Whether IPv6 addresses are asked for at all.
    pub(super) ipv6: bool,
    hosts: HashMap<String, Vec<IpAddr>>,
}

impl System {
    /// Reads the files; `servers` take the place of those in resolv.conf, unless there is none. A file that is not there
    /// counts as empty, and what makes no sense in one as not there.
    ///
    /// # Errors
    /// When a file is there and cannot be read, with its name.
    pub(super) fn read(files: &Files, servers: &[SocketAddr]) -> Result<Self, Unreadable> {
        Ok(Self::of(&text(&files.resolv_conf)?, &text(&files.hosts)?, servers))
    }

    /// What files with these texts say.
    pub(super) fn of(resolv_conf: &[u8], hosts: &[u8], servers: &[SocketAddr]) -> Self {
        let (config, _) = Config::parse_with_errors(resolv_conf);
        let servers = if servers.is_empty() { servers_in(&config) } else { servers.to_vec() };
        let manner = Manner {
            timeout: Duration::from_secs(config.timeout.clamp(1, LONGEST_TIMEOUT).into()),
            rounds: config.attempts.clamp(1, MOST_ROUNDS),
            edns: config.edns0,
            tcp_only: config.use_vc,
        };
        Self {
            servers: Servers::new(servers, manner),
            search: search_domains(&config),
            ndots: config.ndots as usize,
            ipv6: !config.no_aaaa,
            hosts: read_hosts(&String::from_utf8_lossy(hosts)),
        }
    }

    /// Who is asked, for the log.
    pub(super) fn asks(&self) -> String {
        self.servers.to_string()
    }

    /// What the hosts file says of a name.
    pub(super) fn in_hosts(&self, name: &str) -> &[IpAddr] {
        self.hosts.get(name.trim_end_matches('.')).map(Vec::as_slice).unwrap_or_default()
    }

    /// The full names that a name may stand for, in the order in which they are asked for.
    pub(super) fn candidates(&self, name: &str) -> Vec<Name> {
        let itself = format!("{}.", name.trim_end_matches('.'));
        // The resolver knows localhost by itself; asking elsewhere for it would only tell others.
        let is_full = name.ends_with('.') || name == "localhost" || name.ends_with(".localhost");
        let mut full = vec![itself];
        if !is_full {
            let below = self.search.iter().map(|domain| format!("{name}.{domain}"));
            let last = name.matches('.').count() < self.ndots;
            full.splice(if last { 0..0 } else { 1..1 }, below);
        }
        let mut names: Vec<Name> = Vec::with_capacity(full.len());
        for name in full.iter().filter_map(|name| Name::from_ascii(name).ok()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

fn text(path: &Path) -> Result<Vec<u8>, Unreadable> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|reason| Unreadable { path: path.to_owned(), reason }),
    }
}

fn servers_in(config: &Config) -> Vec<SocketAddr> {
    let servers: Vec<_> = config.nameservers.iter().map(|ip| SocketAddr::new(ip.into(), DNS_PORT)).collect();
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into()] } else { servers }
}

/// The search list, each domain with a dot at its end; without one in the file the domain of the host's own name.
fn search_domains(config: &Config) -> Vec<String> {
    let mut domains: Vec<String> = config.get_last_search_or_domain().cloned().collect();
    if domains.is_empty() {
        domains.extend(config.get_system_domain());
    }
    domains.iter().map(|domain| format!("{}.", domain.trim_matches('.'))).filter(|domain| domain != ".").collect()
}

fn read_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default().push(address);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::TempDir;

    fn files(folder: &TempDir, resolv_conf: &str, hosts: &str) -> Files {
        let files = Files { resolv_conf: folder.path().join("resolv.conf"), hosts: folder.path().join("hosts") };
        fs::write(&files.resolv_conf, resolv_conf).unwrap();
        fs::write(&files.hosts, hosts).unwrap();
        files
    }

    fn system(resolv_conf: &str, hosts: &str) -> System {
        System::of(resolv_conf.as_bytes(), hosts.as_bytes(), &[])
    }

    fn candidates(resolv_conf: &str, name: &str) -> Vec<String> {
        system(resolv_conf, "").candidates(name).iter().map(Name::to_string).collect()
    }

    #[test]
    fn short_names_are_searched_for_and_full_ones_are_not() {
        let search = "search a.test b.test.\nnameserver 192.0.2.1\n";
        assert_eq!(candidates(search, "api"), ["api.a.test.", "api.b.test.", "api."]);
        assert_eq!(candidates(search, "api.c"), ["api.c.", "api.c.a.test.", "api.c.b.test."]);
        assert_eq!(candidates(search, "api."), ["api."]);
        assert_eq!(candidates(search, "_api._tcp"), ["_api._tcp.", "_api._tcp.a.test.", "_api._tcp.b.test."]);
        let kubernetes = format!("{search}options ndots:5\n");
        assert_eq!(candidates(&kubernetes, "api.c"), ["api.c.a.test.", "api.c.b.test.", "api.c."]);
        assert_eq!(candidates(&kubernetes, "api.c."), ["api.c."]);
        for name in ["localhost", "api.localhost"] {
            assert_eq!(candidates(&kubernetes, name), [format!("{name}.")]);
        }
        // The last of the two lines holds.
        assert_eq!(candidates("search a.test\ndomain b.test\n", "api"), ["api.b.test.", "api."]);
        assert_eq!(candidates("search .\n", "api"), ["api."]);
    }

    #[test]
    fn servers_come_from_the_configuration_or_the_file_or_are_local() {
        let text = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnonsense\n";
        assert_eq!(system(text, "").asks(), "192.0.2.1:53 [2001:db8::1]:53");
        assert_eq!(system("", "").asks(), "127.0.0.1:53");
        let folder = tempfile::tempdir().unwrap();
        let missing = Files { resolv_conf: folder.path().join("none"), hosts: folder.path().join("none") };
        assert_eq!(System::read(&missing, &[]).unwrap().asks(), "127.0.0.1:53");
        let configured = System::of(text.as_bytes(), b"", &["198.51.100.1:8600".parse().unwrap()]);
        assert_eq!(configured.asks(), "198.51.100.1:8600");
    }

    #[test]
    fn the_hosts_file_is_read_line_by_line() {
        let system =
            system("", "192.0.2.7 API.test api # old.test\n2001:db8::7\tapi.test.\nnonsense a\n\n#192.0.2.9 b\n");
        let expected: Vec<IpAddr> = vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(system.in_hosts("api.test"), expected);
        assert_eq!(system.in_hosts("api.test."), expected);
        assert_eq!(system.in_hosts("api"), &expected[..1]);
        for absent in ["old.test", "a", "b", "nonsense", ""] {
            assert!(system.in_hosts(absent).is_empty(), "{absent}");
        }
    }

    #[test]
    fn a_changed_replaced_or_removed_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(&folder, "nameserver 192.0.2.1\n", "");
        let stamps = files.stamps();
        assert_eq!(files.stamps(), stamps);
        fs::OpenOptions::new().append(true).open(&files.hosts).unwrap().write_all(b"192.0.2.7 a\n").unwrap();
        assert_ne!(files.stamps(), stamps);
        let stamps = files.stamps();
        // As writers do that replace a file in one step: another file of the same length.
        fs::write(folder.path().join("new"), "nameserver 192.0.2.2\n").unwrap();
        fs::rename(folder.path().join("new"), &files.resolv_conf).unwrap();
        assert_ne!(files.stamps(), stamps);
        let stamps = files.stamps();
        assert_eq!(System::read(&files, &[]).unwrap().asks(), "192.0.2.2:53");
        fs::remove_file(&files.resolv_conf).unwrap();
        assert_ne!(files.stamps(), stamps);
    }
}
