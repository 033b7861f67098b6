//! What is compared: a direct connection, snigate, and the proxies found on this machine.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::configurations::{self, Ports, THREADS};
use super::ends::{ANSWER, Protocol, connect, hello};
use super::load::Target;
use super::process::{Process, Sink};

/// Bytes of the hello where its size is not the question.
pub(crate) const HELLO: usize = 517;
/// How long a proxy may take until it serves.
const START: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Snigate { access_log: bool, workers: usize },
    Haproxy { splice: bool },
    Nginx,
    Envoy,
}

/// One thing to measure.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// What it is called in tables.
    pub(crate) title: &'static str,
    /// What it is called in arguments.
    pub(crate) key: &'static str,
    kind: Kind,
    program: PathBuf,
}

/// The key of the subject that everything is compared with.
pub(crate) const BASE: &str = "snigate";
/// The key of the subject that is the same program, which shows the noise.
pub(crate) const AGAIN: &str = "again";
/// The key of the subject without a proxy.
pub(crate) const DIRECT: &str = "direct";

/// The key of snigate with its access log.
pub(crate) const LOG: &str = "log";
/// The key of snigate with one worker.
pub(crate) const ONE: &str = "one";
/// The key of another build of snigate.
pub(crate) const OTHER: &str = "other";

/// Every subject that can run here, and the names of those that cannot.
pub(crate) fn find(other: Option<PathBuf>) -> (Vec<Subject>, Vec<&'static str>) {
    let snigate = Some(PathBuf::from(env!("CARGO_BIN_EXE_snigate")));
    let snigate = env::var_os("SNIGATE_BIN").map(PathBuf::from).or(snigate);
    let haproxy = program("SNIGATE_HAPROXY", "haproxy");
    let mut candidates = vec![
        (DIRECT, "direct", Kind::Direct, Some(PathBuf::new())),
        (BASE, "snigate", Kind::Snigate { access_log: false, workers: THREADS }, snigate.clone()),
        (AGAIN, "snigate again", Kind::Snigate { access_log: false, workers: THREADS }, snigate.clone()),
        (LOG, "snigate, access log", Kind::Snigate { access_log: true, workers: THREADS }, snigate.clone()),
        (ONE, "snigate, 1 worker", Kind::Snigate { access_log: false, workers: 1 }, snigate),
        ("haproxy", "HAProxy, splice", Kind::Haproxy { splice: true }, haproxy.clone()),
        ("haproxy-copy", "HAProxy", Kind::Haproxy { splice: false }, haproxy),
        ("nginx", "nginx", Kind::Nginx, program("SNIGATE_NGINX", "nginx")),
        ("envoy", "Envoy", Kind::Envoy, program("SNIGATE_ENVOY", "envoy")),
    ];
    if other.is_some() {
        candidates.insert(3, (OTHER, "other snigate", Kind::Snigate { access_log: false, workers: THREADS }, other));
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (key, title, kind, program) in candidates {
        match program {
            Some(program) => found.push(Subject { title, key, kind, program }),
            None => missing.push(title),
        }
    }
    (found, missing)
}

/// Where a program is: an environment variable says so, or it is in the path, or where Debian keeps daemons.
fn program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// A subject that serves. Its process ends when this is dropped.
pub(crate) struct Running {
    address: Option<SocketAddr>,
    upstream: [u16; Protocol::ALL.len()],
    process: Option<Process>,
}

impl Running {
    /// The processes whose work is the subject's.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.process.as_ref().map(Process::pids).unwrap_or_default()
    }

    /// How a client gets to an upstream through the subject.
    pub(crate) fn target(&self, protocol: Protocol, hello_len: usize) -> Target {
        let direct = SocketAddr::from((Ipv4Addr::LOCALHOST, self.upstream[protocol.index()]));
        let hello = hello(&protocol.server_name(), hello_len).into();
        Target { address: self.address.unwrap_or(direct), hello }
    }
}

/// No proxy at all.
pub(crate) fn direct(sink: &Sink) -> Running {
    Running { address: None, upstream: Protocol::ALL.map(|protocol| sink.port(protocol)), process: None }
}

impl Subject {
    /// Starts it and waits until it serves every protocol.
    pub(crate) fn start(&self, sink: &Sink, directory: &Path) -> io::Result<Running> {
        let mut running = direct(sink);
        if self.kind != Kind::Direct {
            let directory = directory.join(self.key);
            fs::create_dir_all(&directory)?;
            let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let ports = Ports { listen: listen.port(), upstream: Protocol::ROUTED.map(|protocol| sink.port(protocol)) };
            let words = directory.join("words");
            let args = self.configure(&ports, &directory)?;
            running.process = Some(Process::start(&self.program, &args, &words)?);
            running.address = Some(listen);
            self.wait_for(&mut running).map_err(|error| {
                let words = fs::read_to_string(&words).unwrap_or_default();
                io::Error::other(format!("{}: {error}: {}", self.title, words.trim()))
            })?;
        }
        Ok(running)
    }

    /// Writes its configuration and says how it is called.
    fn configure(&self, ports: &Ports, directory: &Path) -> io::Result<Vec<OsString>> {
        let file = directory.join(if self.kind == Kind::Envoy { "envoy.yaml" } else { "configuration" });
        let root = rustix::process::geteuid().is_root();
        let module = stream_module();
        let text = match self.kind {
            Kind::Direct => return Ok(Vec::new()),
            Kind::Snigate { access_log, workers } => configurations::snigate(ports, access_log, workers),
            Kind::Haproxy { splice } => configurations::haproxy(ports, splice),
            Kind::Nginx => configurations::nginx(ports, module.as_deref(), root),
            Kind::Envoy => configurations::envoy(ports),
        };
        fs::write(&file, text)?;
        let args: &[&str] = match self.kind {
            Kind::Direct => &[],
            Kind::Snigate { .. } => &["run", "--config", "{file}"],
            Kind::Haproxy { .. } => &["-db", "-f", "{file}"],
            Kind::Nginx => &["-e", "stderr", "-p", "{directory}", "-c", "{file}"],
            Kind::Envoy => &["--concurrency", "2", "--disable-hot-restart", "--log-level", "error", "-c", "{file}"],
        };
        let fill = |arg: &&str| match *arg {
            "{file}" => file.clone().into(),
            "{directory}" => directory.into(),
            arg => arg.into(),
        };
        Ok(args.iter().map(fill).collect())
    }

    fn wait_for(&self, running: &mut Running) -> io::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            match ask(&running.target(Protocol::Answer, HELLO)) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
            if let Some(status) = running.process.as_mut().and_then(Process::ended) {
                return Err(io::Error::other(format!("ended with {status}")));
            }
        }
    }

    /// What the program says of its version.
    pub(crate) fn version(&self) -> Option<String> {
        let flag = match self.kind {
            Kind::Direct => return None,
            Kind::Snigate { .. } | Kind::Envoy => "--version",
            Kind::Haproxy { .. } | Kind::Nginx => "-v",
        };
        let output = Command::new(&self.program).arg(flag).output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let name = self.title.split(',').next().unwrap_or_default();
        let number = text
            .split([' ', '/', '\n'])
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))?;
        Some(format!("{name} {number}"))
    }
}

/// One connection, answered.
fn ask(target: &Target) -> io::Result<()> {
    let mut stream = connect(target.address, 0)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(&target.hello)?;
    stream.read_exact(&mut [0; ANSWER])
}

/// Where Debian's nginx has its stream module, when it is not built in.
fn stream_module() -> Option<String> {
    let path = env::var("SNIGATE_NGINX_STREAM").unwrap_or("/usr/lib/nginx/modules/ngx_stream_module.so".into());
    Path::new(&path).is_file().then_some(path)
}
