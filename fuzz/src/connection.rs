//! The whole way of a connection up to its route: bytes, cuts, pauses and ends, over real sockets and with a clock that
//! only moves while everybody waits. A model that knows nothing of sockets says how it must end, and what an upstream may
//! have seen of it.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use snigate::config::{Config, Listener, LogFormat};
use snigate::connection::{Tools, serve};
use snigate::hello::{HelloError, HelloReader};
use snigate::limits::{Limits, Plan, Seats, Undecided};
use snigate::observe::access_log::AccessLog;
use snigate::observe::live::LiveTable;
use snigate::observe::metrics::Lanes;
use snigate::observe::troubles::Troubles;
use snigate::outcome::Reason;
use snigate::relay::{Pipes, Scratch};
use snigate::routing::Decision;
use snigate::snapshot::{Door, Entrance, Snapshot};
use snigate::upstream::Keeper;
use snigate::upstream::certificate::RouteNames;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use crate::streams::Dice;

/// What a client does.
#[derive(Debug)]
enum Step<'d> {
    Send(&'d [u8]),
    Pause(Duration),
    Fin,
    Reset,
}

/// Longer than any deadline before the route.
const LONG: Duration = Duration::from_secs(60);
/// Bytes of a script's first byte that count its steps.
const STEPS: u8 = 0x0f;
/// And the bit that has the client close at the end, not wait.
const CLOSES: u8 = 0x10;

/// A script: how many steps, two bytes each (how much is sent, and what follows), then the bytes to send.
fn read(data: &[u8]) -> Vec<Step<'_>> {
    let Some((&first, rest)) = data.split_first() else { return Vec::new() };
    let (controls, mut bytes) = rest.split_at(rest.len().min(2 * usize::from(first & STEPS)));
    let mut steps = Vec::new();
    for control in controls.chunks_exact(2) {
        let (piece, next) = bytes.split_at(bytes.len().min(1 + 4 * usize::from(control[0])));
        steps.push(Step::Send(piece));
        bytes = next;
        match control[1] {
            0..=99 => {}
            // Never a sum that is a deadline: it would be open which comes first.
            pause @ 100..=239 => steps.push(Step::Pause(Duration::from_millis(50 * u64::from(pause - 99) + 1))),
            240..=247 => steps.push(Step::Fin),
            248..=255 => steps.push(Step::Reset),
        }
    }
    steps.push(Step::Send(bytes));
    steps.push(if first & CLOSES == 0 { Step::Pause(LONG) } else { Step::Fin });
    steps
}

/// Scripts that send these bytes: at once, in pieces, too slowly, not to the end.
pub fn scripts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let controls: [&[u8]; 6] =
        [&[CLOSES], &[0], &[CLOSES | 3, 0, 0, 0, 0, 30, 0], &[2, 20, 239, 1, 0], &[1, 10, 241], &[1, 10, 250]];
    controls.map(|control| [control, bytes].concat()).into()
}

/// How a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every byte reaches the upstream.
    Routed,
    /// None does.
    Refused(Reason),
}

/// What must become of the bytes so far.
struct Model<'l> {
    listener: &'l Listener,
    source: SocketAddr,
    reader: HelloReader,
    sent: Vec<u8>,
    elapsed: Duration,
    verdict: Option<Verdict>,
}

impl Model<'_> {
    fn note(&mut self, step: &Step<'_>) {
        if let Step::Send(bytes) = step {
            self.sent.extend_from_slice(bytes);
        }
        if self.verdict.is_some() {
            return;
        }
        let nothing = self.sent.is_empty();
        match step {
            Step::Send(_) => self.verdict = self.judge(),
            Step::Pause(pause) => {
                self.elapsed += *pause;
                if self.elapsed > self.listener.client_hello_timeout {
                    let reason = if nothing { Reason::NoBytes } else { Reason::HelloTimeout };
                    self.verdict = Some(Verdict::Refused(reason));
                }
            }
            Step::Fin => {
                let reason = if nothing { Reason::NoBytes } else { Reason::HelloIncomplete };
                self.verdict = Some(Verdict::Refused(reason));
            }
            Step::Reset => self.verdict = Some(Verdict::Refused(Reason::ClientReset)),
        }
    }

    fn judge(&mut self) -> Option<Verdict> {
        let hello = match self.reader.advance(&self.sent) {
            Ok(hello) => hello?,
            Err(error) => return Some(Verdict::Refused(HelloError::reason(error))),
        };
        Some(match self.listener.table.decide(&hello.server_name, &hello.alpn, self.source.ip()) {
            Decision::Route(_) => Verdict::Routed,
            Decision::Refuse(refusal) => Verdict::Refused(refusal.reason()),
        })
    }
}

/// What lasts longer than an input.
struct World {
    gate: TcpListener,
    upstream: TcpListener,
    entrance: Entrance,
    plan: Plan,
    log: AccessLog,
    lines: Lines,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (gate, upstream) = (bind(), bind());
        upstream.set_nonblocking(true).unwrap();
        let config = Config::parse(&format!(
            "
             listeners: [{{ address: '127.0.0.1:0' }}]
             routes:
               - {{ server_names: [a.test, '*.wild.test'], upstream: up }}
               - {{ server_names: [denied.test], allow: [192.0.2.0/24], upstream: up }}
               - {{ server_names: [h2.test], alpn: [h2], upstream: up }}
             upstreams: {{ up: {{ endpoints: ['{}'] }} }}",
            upstream.local_addr().unwrap()
        ))
        .unwrap();
        // Addresses need no keeper: they are there at once.
        let running = config.upstreams.iter().map(|upstream| Keeper::of(upstream, RouteNames::default()).0);
        let plan = Plan::of(&config, 1 << 16).unwrap();
        let snapshot = Arc::new(Snapshot::new(
            &Arc::new(config.clone()),
            [Door(0)],
            running.map(|running| Arc::clone(running.upstream())).collect(),
            Arc::new(Limits::new(&config, &plan)),
        ));
        let lines = Lines::default();
        let log = AccessLog::new(LogFormat::Json, lines.clone()).unwrap();
        Self { gate, upstream, entrance: snapshot.entrance(Door(0)).unwrap(), plan, log, lines }
    }

    fn tools(&self) -> Rc<Tools> {
        Rc::new(Tools {
            current: Arc::new(ArcSwap::new(Arc::clone(&self.entrance.snapshot))),
            scratch: Scratch::new(),
            pipes: Pipes::new(self.plan.share().pipes, self.plan.share().relay_memory),
            live: Rc::new(LiveTable::default()),
            undecided: Rc::new(Undecided::new(&self.plan.share())),
            lanes: Lanes::default(),
            log: self.log.clone(),
            troubles: Troubles::default(),
        })
    }

    /// Both ends of a client's connection. Clients have many addresses: one has too few ports for so many inputs.
    fn client(&self, data: &[u8]) -> (TcpStream, TcpStream, SocketAddr) {
        let mut dice = Dice::new(data);
        let [a, b] = [dice.below(250), dice.below(250)].map(|part| u8::try_from(part + 1).unwrap());
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.bind(&SocketAddr::from((Ipv4Addr::new(127, 1, a, b), 0)).into()).unwrap();
        client.set_tcp_nodelay(true).unwrap();
        client.set_nonblocking(true).unwrap();
        // Under way: the fuzzer's signals would interrupt a client that waits.
        let _ = client.connect(&self.gate.local_addr().unwrap().into());
        let (accepted, source) = self.gate.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        (client.into(), accepted, source)
    }

    /// The reason in the one line that was written.
    fn reason(&self) -> String {
        self.log.flush();
        let lines = std::mem::take(&mut *self.lines.0.lock().unwrap());
        let line: serde_json::Value = serde_json::from_slice(&lines).unwrap();
        line["reason"].as_str().unwrap().to_owned()
    }
}

/// Plays a script.
pub fn check(data: &[u8]) {
    let steps = read(data);
    WORLD.with(|world| {
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
        runtime.block_on(play(world, data, &steps));
    });
}

async fn play(world: &World, data: &[u8], steps: &[Step<'_>]) {
    let visits = Visits::await_at(&world.upstream);
    let (client, accepted, source) = world.client(data);
    let accepted = tokio::net::TcpStream::from_std(accepted).unwrap();
    let seat = Seats::of(1).take().expect("there is one");
    let serving = spawn_local(serve(accepted, source, world.entrance.clone(), seat, world.tools()));
    let mut client = Some(client);
    let mut model = Model {
        listener: &world.entrance.listener,
        source,
        reader: HelloReader::new(world.entrance.listener.max_client_hello),
        sent: Vec::new(),
        elapsed: Duration::ZERO,
        verdict: None,
    };
    let mut answer = Vec::new();
    let mut resets = false;
    for step in steps {
        let Some(socket) = &mut client else { break };
        model.note(step);
        match step {
            // Who was refused finds nobody who reads any more.
            Step::Send(bytes) => drop(socket.write(bytes)),
            Step::Pause(pause) => sleep(*pause).await,
            Step::Fin => drop(socket.shutdown(std::net::Shutdown::Write)),
            Step::Reset => {
                resets = true;
                SockRef::from(&*socket).set_linger(Some(Duration::ZERO)).unwrap();
                client = None;
            }
        }
        settle().await;
        if matches!(step, Step::Fin) {
            break;
        }
    }
    if let Some(socket) = &mut client {
        let _ = socket.shutdown(std::net::Shutdown::Write);
        settle().await;
        sleep(LONG).await;
        let _ = socket.read_to_end(&mut answer);
    }
    timeout(LONG, serving).await.expect("it ends").expect("nothing panics");
    let visits = visits.end().await;
    judge(&model, resets, &world.reason(), &answer, &visits);
}

/// Lets everybody do what they can do now; no time passes meanwhile.
async fn settle() {
    for _ in 0..8 {
        yield_now().await;
    }
}

fn judge(model: &Model<'_>, resets: bool, reason: &str, answer: &[u8], visits: &[Vec<u8>]) {
    match model.verdict {
        Some(Verdict::Refused(expected)) => {
            assert_eq!(reason, expected.label());
            assert!(visits.is_empty(), "an upstream heard of a client that was refused as {reason}");
            assert!(answer.is_empty() || (answer.len() == 7 && answer[0] == 21), "not an alert: {answer:?}");
        }
        Some(Verdict::Routed) => {
            assert_eq!(reason, if resets { "client_reset" } else { "client_closed" });
            assert_eq!(visits.len(), 1);
            assert!(visits[0] == model.sent, "the upstream got other bytes than were sent");
            assert!(answer.is_empty(), "nobody said a word: {answer:?}");
        }
        None => assert_eq!((reason, visits.len()), ("no_bytes", 0)),
    }
}

/// The connections that reach the upstream, and what each brings.
struct Visits {
    accepting: JoinHandle<()>,
    all: Rc<RefCell<Vec<JoinHandle<Vec<u8>>>>>,
}

impl Visits {
    fn await_at(listener: &TcpListener) -> Self {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
        let all = Rc::new(RefCell::new(Vec::new()));
        let arriving = Rc::clone(&all);
        let accepting = spawn_local(async move {
            while let Ok((mut visitor, _)) = listener.accept().await {
                arriving.borrow_mut().push(spawn_local(async move {
                    let mut bytes = Vec::new();
                    let _ = visitor.read_to_end(&mut bytes).await;
                    bytes
                }));
            }
        });
        Self { accepting, all }
    }

    async fn end(self) -> Vec<Vec<u8>> {
        settle().await;
        self.accepting.abort();
        let mut visits = Vec::new();
        for visit in self.all.take() {
            visits.push(timeout(LONG, visit).await.expect("a visit ends").expect("a visit does not panic"));
        }
        visits
    }
}
