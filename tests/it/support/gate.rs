//! A running gate: in this process, or as the `snigate` command in a process of its own.

use super::tools::{self, Run};
use super::{descriptors, wait_for, wait_until};
use rustix::process::{Pid, Signal, Uid, getuid, kill_process};
use serde_json::Value;
use snigate::config::{Config, Difference, LogFormat};
use snigate::observe::access_log::AccessLog;
use snigate::observe::live::Row;
use snigate::server::{ReloadError, Server};
use snigate::worker::Cursor;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::{fmt, fs, thread};
use tempfile::TempDir;

/// A configuration with one listener on a free port of 127.0.0.1 and one route a server name. Hellos may take their time,
/// since a busy machine may too.
pub fn routing<N: fmt::Display>(routes: impl IntoIterator<Item = (N, SocketAddr)>) -> String {
    let mut yaml = String::from("listeners: [{ address: \"127.0.0.1:0\", name: gate, client_hello_timeout: 60s }]\n");
    let (mut table, mut upstreams) = (String::from("routes:\n"), String::from("upstreams:\n"));
    for (index, (name, address)) in routes.into_iter().enumerate() {
        table.push_str(&format!("  - {{ server_names: [\"{name}\"], upstream: up{index} }}\n"));
        upstreams.push_str(&format!("  up{index}: {{ endpoints: [\"{address}\"] }}\n"));
    }
    yaml.push_str(&table);
    yaml.push_str(&upstreams);
    yaml
}

/// Whole lines, in the order in which their ends were written.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Every whole line so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for line number `index` (from 0).
    pub fn line(&self, index: usize) -> String {
        wait_for(&format!("line {index}"), || self.0.lock().unwrap().get(index).cloned())
    }

    /// Waits for the first line that is wanted.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("a line: {what}"), || self.0.lock().unwrap().iter().find(|line| wanted(line)).cloned())
    }

    /// An entry for one source of bytes.
    pub fn entry(&self) -> LineEntry {
        LineEntry { begun: Vec::new(), lines: self.clone() }
    }

    /// Takes over everything that comes from `source`.
    pub fn fill(&self, mut source: impl Read + Send + 'static) {
        let mut entry = self.entry();
        thread::spawn(move || io::copy(&mut source, &mut entry));
    }
}

/// Where one source's bytes become lines.
pub struct LineEntry {
    /// What came after the last line's end. Each source has its own: two may be in the middle of a line.
    begun: Vec<u8>,
    lines: Lines,
}

impl Write for LineEntry {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            match part.strip_suffix(b"\n") {
                None => self.begun.extend_from_slice(part),
                Some(end) => {
                    let line = [&std::mem::take(&mut self.begun), end].concat();
                    self.lines.0.lock().unwrap().push(String::from_utf8(line).unwrap());
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The access log of a gate, as JSON.
#[derive(Clone, Default)]
pub struct Log(Lines);

impl Log {
    /// Every line so far, in the order in which the connections ended.
    pub fn all(&self) -> Vec<Value> {
        self.0.all().iter().map(|line| parse(line)).collect()
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.0.0.lock().unwrap().len()
    }

    /// Waits for line number `index` (from 0).
    pub fn line(&self, index: usize) -> Value {
        parse(&self.0.line(index))
    }

    /// Waits for the line of the connection whose client is `source`. Not for tests with hundreds of connections: the
    /// kernel gives a client's port out again.
    pub fn line_of(&self, source: SocketAddr) -> Value {
        let field = format!("\"source\":\"{source}\"");
        let line = self.0.wait(&field, |line| line.contains(&field));
        parse(&line)
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A gate in this process; it stops when dropped.
pub struct Gate {
    server: Option<Server>,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    pub log: Log,
}

impl Gate {
    /// Starts with this configuration.
    pub fn start(yaml: &str) -> Self {
        let config = Config::parse(yaml).unwrap_or_else(|mistakes| panic!("{mistakes}\n{yaml}"));
        let log = Log::default();
        let server = Server::start(&config, AccessLog::new(LogFormat::Json, log.0.entry()).unwrap()).unwrap();
        Self { addresses: server.addresses().to_vec(), server: Some(server), log }
    }

    /// Puts this configuration in force; returns what has changed by it.
    pub fn reload(&mut self, yaml: &str) -> Result<Difference, ReloadError> {
        let config = Config::parse(yaml).unwrap_or_else(|mistakes| panic!("{mistakes}\n{yaml}"));
        let changed = block_on(self.server.as_ref().unwrap().reload(config))?;
        self.addresses = changed.addresses;
        Ok(changed.difference)
    }

    /// The connections that are open now.
    pub fn live(&self) -> Vec<Row> {
        let view = self.server.as_ref().unwrap().live();
        let (mut rows, mut next) = (Vec::new(), Some(Cursor::default()));
        while let Some(at) = next {
            let page = block_on(view.page(at));
            assert!(page.rows.len() <= 256);
            rows.extend(page.rows);
            next = page.next;
        }
        rows
    }

    /// Has the connection close that is called so; whether there was one.
    pub fn close(&self, id: &str) -> bool {
        block_on(self.server.as_ref().unwrap().live().close(id))
    }

    /// The address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0].1
    }

    /// The address of the listener with this name.
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        self.addresses.iter().find(|(name, _)| &**name == listener).unwrap().1
    }

    /// Stops, and waits for it.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `snigate run` in a process of its own, so that what it holds can be counted; killed when dropped.
pub struct GateProcess {
    child: Child,
    /// The gate's own, which may be a child of our child.
    pid: u32,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    /// Everything it prints.
    pub lines: Lines,
    folder: Arc<TempDir>,
}

impl GateProcess {
    /// Starts with this configuration of one listener; returns when it has all it needs at rest, accepts and can be
    /// stopped.
    pub fn start(yaml: &str) -> Self {
        let mut gate = Self::start_unread(yaml);
        gate.lines.fill(gate.child.stdout.take().unwrap());
        gate
    }

    /// The same, but nobody reads its standard output, and so its access log.
    pub fn start_unread(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(&folder, yaml);
        Self::launch(&mut command, folder)
    }

    /// [`GateProcess::start`] as another user; only root may.
    pub fn start_as(user: Uid, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command_as(user, &folder, yaml);
        let mut gate = Self::launch(&mut command, folder);
        gate.lines.fill(gate.child.stdout.take().unwrap());
        gate
    }

    /// [`GateProcess::start`] by another program, which makes itself the gate in the end.
    pub fn start_by(starter: &mut Command, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gate = command(&folder, yaml);
        starter.arg(gate.get_program()).args(gate.get_args()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut gate = Self::launch(starter, folder);
        gate.lines.fill(gate.child.stdout.take().unwrap());
        gate
    }

    /// Another one with the same configuration file, while this one still runs.
    pub fn start_next(&self) -> Self {
        let mut gate = Self::launch(&mut self.next(), Arc::clone(&self.folder));
        gate.lines.fill(gate.child.stdout.take().unwrap());
        gate
    }

    /// The same, expected to end by itself.
    pub fn run_next(&self) -> Run {
        tools::run(&mut self.next(), "")
    }

    fn next(&self) -> Command {
        let yaml = fs::read_to_string(self.config()).unwrap();
        command(&self.folder, &yaml)
    }

    /// [`GateProcess::start`] as the first process of a container: number 1 of a namespace of its own, to which the kernel
    /// brings no signal that it does not wait for. `None`, said aloud, where that is not possible.
    ///
    /// With `SNIGATE_REQUIRE_TOOLS=1` that is a failure.
    pub fn start_as_first(yaml: &str) -> Option<Self> {
        let mut starter = Command::new(tools::require("unshare")?);
        starter.args(["--pid", "--fork", "--kill-child"]);
        if !getuid().is_root() {
            starter.args(["--user", "--map-root-user"]);
        }
        if !tools::run(Command::new(starter.get_program()).args(starter.get_args()).arg("true"), "").status.success() {
            tools::lack("no namespace of processes, for which it takes root or the right to make one of users");
            return None;
        }
        let gate = Self::start_by(&mut starter, yaml);
        let status = fs::read_to_string(format!("/proc/{}/status", gate.pid)).unwrap();
        let numbers = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert!(numbers.ends_with("\t1"), "{numbers}");
        Some(gate)
    }

    fn launch(command: &mut Command, folder: impl Into<Arc<TempDir>>) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = Lines::default();
        lines.fill(child.stderr.take().unwrap());
        wait_until("the gate's process is ready", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended with {status}: {:?}", lines.all());
            }
            lines.all().iter().any(|line| is_ready(line))
        });
        let admin = lines.all().iter().find_map(|line| admin_address(line));
        let is_the_gate = descriptors::listening_but(child.id(), admin).is_some();
        let pid = if is_the_gate { child.id() } else { only_child(child.id()) };
        let address = descriptors::listening_but(pid, admin).unwrap();
        Self { child, pid, address, admin, lines, folder: folder.into() }
    }

    /// Runs one that is expected to end by itself.
    pub fn run(yaml: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        tools::run(&mut command(&folder, yaml), "")
    }

    /// The same by another program, which makes itself the gate in the end.
    pub fn run_by(starter: &mut Command, yaml: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let gate = command(&folder, yaml);
        tools::run(starter.arg(gate.get_program()).args(gate.get_args()), "")
    }

    /// The same as another user; only root may.
    pub fn run_as(user: Uid, yaml: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        tools::run(&mut command_as(user, &folder, yaml), "")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its admin server listens, if that is an IP address.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("the configuration has an `admin` with an IP address")
    }

    /// The file that its configuration is in.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("snigate.yaml")
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The lines of the access log so far.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.lines.all();
        lines.iter().filter(|line| line.contains("\"hello_bytes\":")).map(|line| parse(line)).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        tools::wait_for_exit(&mut self.child).expect("it ends when it is told to")
    }
}

/// The command under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_snigate");

fn command(folder: &TempDir, yaml: &str) -> Command {
    command_of(Path::new(PROGRAM), folder, yaml)
}

fn command_as(user: Uid, folder: &TempDir, yaml: &str) -> Command {
    // Where it was built, others may not be allowed to look.
    let program = folder.path().join("snigate");
    fs::copy(PROGRAM, &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut command = command_of(&program, folder, yaml);
    command.uid(user.as_raw()).gid(user.as_raw()).current_dir("/");
    command
}

fn command_of(program: &Path, folder: &TempDir, yaml: &str) -> Command {
    // A gate that takes another user reads it as that one.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let config = folder.path().join("snigate.yaml");
    fs::write(&config, hurried(yaml)).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The same for a gate that takes no time for its leave, unless it says how much: most tests do not wait for it.
fn hurried(yaml: &str) -> String {
    if yaml.contains("drain:") {
        return yaml.to_owned();
    }
    let first = yaml.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let indent = &first[..first.len() - first.trim_start().len()];
    format!("{yaml}\n{indent}drain: {{ grace: 0, spread: 0, deadline: 0 }}\n")
}

/// The process that this one started.
fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("children of {pid}: {children:?}"))
}

/// The address in the message of the admin server.
fn admin_address(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once(r#""message":"admin: listening","address":""#)?;
    address.split('"').next()?.parse().ok()
}

/// The message that comes after everything was started, in either form of the log.
fn is_ready(line: &str) -> bool {
    line.contains(r#""message":"ready""#) || line.contains(" ready version=")
}

impl Drop for GateProcess {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
