//! kubectl through the gate to a small Kubernetes API: what this gate is for.

use crate::support::certs::{Authority, Identity};
use crate::support::gate::Gate;
use crate::support::kube_api::KubeApi;
use crate::support::{PATIENCE, tools, wait_for, wait_until};
use hyper::Version;
use serde_json::json;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};

const SERVER_NAME: &str = "kube-apiserver.example.com";
/// What the route takes: that name.
const BY_NAME: &str = "server_names: [kube-apiserver.example.com]";
const GET_PODS: &[&str] = &["get", "pods"];

/// A cluster with two pods, the gate in front of its API servers, and a user's kubectl.
struct Stage {
    apis: Vec<KubeApi>,
    gate: Gate,
    authority: Authority,
    user: Identity,
    program: PathBuf,
}

impl Stage {
    /// One API server. `None` where kubectl is not installed. `takes` is what the one route takes.
    fn new(takes: &str) -> Option<Self> {
        Self::of(1, takes, |_, _| String::new())
    }

    /// So many API servers that are asked for `/readyz`.
    fn checked(apis: usize) -> Option<Self> {
        Self::of(apis, BY_NAME, |authority, user| {
            format!(
                ", balance: round_robin, health_check: {{ interval: 2s, timeout: 2s, https: {{ path: /readyz, ca_file: {}, \
                 server_name: {SERVER_NAME}, client_certificate: {}, client_key: {} }} }}",
                authority.file().display(),
                user.certificate_file.display(),
                user.key_file.display()
            )
        })
    }

    fn of(apis: usize, takes: &str, keys: impl FnOnce(&Authority, &Identity) -> String) -> Option<Self> {
        let program = tools::require("kubectl")?;
        let authority = Authority::new();
        let identity = authority.server(&[SERVER_NAME, "127.0.0.1"]);
        let apis: Vec<_> = (0..apis).map(|_| KubeApi::start(&identity, &authority)).collect();
        apis.iter().for_each(|api| ["first", "second"].iter().for_each(|pod| api.add_pod(pod)));
        let endpoints: Vec<String> = apis.iter().map(|api| format!("'{}'", api.address())).collect();
        let user = authority.client("jane", "developers");
        let gate = Gate::start(&format!(
            "listeners:\n  - {{ address: \"127.0.0.1:0\" }}\n\
             routes:\n  - {{ {takes}, upstream: kubernetes }}\n\
             upstreams:\n  kubernetes: {{ endpoints: [{}]{} }}\n",
            endpoints.join(", "),
            keys(&authority, &user)
        ));
        Some(Self { apis, gate, authority, user, program })
    }

    /// Starts a kubectl that knows the gate's address, and the name to send, if any; home and cache are the stage's own.
    fn kubectl(&self, tls_server_name: Option<&str>, arguments: &[&str]) -> Running {
        let home = self.authority.folder();
        fs::write(home.join("kubeconfig"), self.kubeconfig(tls_server_name)).unwrap();
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("HOME", home)
            .env("KUBECONFIG", home.join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let stderr = child.stderr.take().unwrap();
        let complaints = thread::spawn(move || io::read_to_string(stderr).unwrap());
        Running { child, lines, complaints: Some(complaints) }
    }

    fn kubeconfig(&self, tls_server_name: Option<&str>) -> String {
        let mut cluster = json!({
            "server": format!("https://{}", self.gate.address()),
            "certificate-authority": self.authority.file(),
        });
        if let Some(name) = tls_server_name {
            cluster["tls-server-name"] = name.into();
        }
        let user = json!({ "client-certificate": self.user.certificate_file, "client-key": self.user.key_file });
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": "test", "user": user }],
        })
        .to_string()
    }
}

/// A kubectl at work; it is stopped when the test lets go of it.
struct Running {
    child: Child,
    lines: Receiver<String>,
    complaints: Option<JoinHandle<String>>,
}

impl Running {
    /// The next line, as soon as it is printed.
    fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("kubectl printed no further line within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("kubectl ended early: {}", self.complaints()),
        }
    }

    /// What it wrote to stderr until its end.
    fn complaints(&mut self) -> String {
        self.complaints.take().map_or_else(String::new, |reader| reader.join().unwrap())
    }

    /// Waits for a clean end, and returns what it printed since the last [`Running::line`].
    fn succeed(self) -> String {
        let (success, printed, complaints) = self.finish();
        assert!(success, "kubectl failed: {complaints}");
        printed
    }

    /// Waits for a failure, and returns the complaints.
    fn fail(self) -> String {
        let (success, printed, complaints) = self.finish();
        assert!(!success, "kubectl did not fail, but printed: {printed}");
        complaints
    }

    fn finish(mut self) -> (bool, String, String) {
        let status = wait_for("kubectl ends", || self.child.try_wait().unwrap());
        let printed = self.lines.iter().map(|line| line + "\n").collect();
        (status.success(), printed, self.complaints())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn get_pods_reaches_the_api_over_http2_with_the_users_certificate() {
    let Some(stage) = Stage::new(BY_NAME) else { return };
    let printed = stage.kubectl(Some(SERVER_NAME), GET_PODS).succeed();
    assert_eq!(names(&printed), ["NAME", "first", "second"]);
    let requests = stage.apis[0].requests();
    assert!(
        requests.iter().any(|request| request.path.starts_with("/api/v1/namespaces/default/pods")),
        "{requests:#?}"
    );
    for request in requests {
        assert_eq!((request.user.as_str(), request.version), ("jane", Version::HTTP_2), "{request:?}");
    }
    let line = stage.gate.log.line(0);
    assert_eq!((&line["server_name"], &line["upstream"]), (&json!(SERVER_NAME), &json!("kubernetes")), "{line}");
}

#[test]
fn get_pods_works_by_bare_address_where_a_route_takes_clients_without_a_name() {
    let Some(stage) = Stage::new("no_server_name: true, name: bare") else { return };
    let printed = stage.kubectl(None, GET_PODS).succeed();
    assert_eq!(names(&printed), ["NAME", "first", "second"]);
}

#[test]
fn a_watch_prints_a_pod_that_comes_later() {
    let Some(stage) = Stage::new(BY_NAME) else { return };
    let mut watch = stage.kubectl(Some(SERVER_NAME), &["get", "pods", "--watch"]);
    let rows = [watch.line(), watch.line(), watch.line()].join("\n");
    assert_eq!(names(&rows), ["NAME", "first", "second"]);
    stage.apis[0].wait_for_request("watch=true");
    stage.apis[0].add_pod("third");
    assert_eq!(names(&watch.line()), ["third"]);
}

#[test]
fn logs_are_followed_to_their_end() {
    let Some(stage) = Stage::new(BY_NAME) else { return };
    stage.apis[0].write_log("written before");
    let mut logs = stage.kubectl(Some(SERVER_NAME), &["logs", "-f", "second"]);
    assert_eq!(logs.line(), "written before");
    stage.apis[0].write_log("written while kubectl looked on");
    assert_eq!(logs.line(), "written while kubectl looked on");
    stage.apis[0].end_logs();
    assert_eq!(logs.succeed(), "");
}

#[test]
fn a_refused_name_is_told_so_at_once() {
    let Some(stage) = Stage::new(BY_NAME) else { return };
    for name in [Some("other.example.com"), None] {
        let complaints = stage.kubectl(name, GET_PODS).fail();
        assert!(complaints.contains("remote error: tls: unrecognized name"), "{name:?}: {complaints}");
    }
    assert_eq!(stage.apis[0].requests(), []);
}

/// kubectl retries a GET every second after a plain close, and gives up at once on an alert.
#[test]
fn kubectl_waits_for_an_upstream_that_is_down() {
    let Some(mut stage) = Stage::new(BY_NAME) else { return };
    // With its discovery cached kubectl asks for the pods alone, so that it is this one GET which is repeated.
    stage.kubectl(Some(SERVER_NAME), GET_PODS).succeed();
    stage.apis[0].stop();
    let waiting = stage.kubectl(Some(SERVER_NAME), GET_PODS);
    // The fourth attempt comes three seconds after the first; an alert would have ended kubectl before.
    wait_until("kubectl is refused four times", || {
        stage.gate.log.all().iter().filter(|line| line["reason"] == "connect_refused").count() >= 4
    });
    stage.apis[0].add_pod("third");
    stage.apis[0].start_again();
    assert_eq!(names(&waiting.succeed()), ["NAME", "first", "second", "third"]);
}

#[test]
fn nothing_fails_when_one_of_two_api_servers_says_that_it_goes_and_then_goes() {
    let Some(mut stage) = Stage::checked(2) else { return };
    let mut watch = stage.kubectl(Some(SERVER_NAME), &["get", "pods", "--watch"]);
    let rows = [watch.line(), watch.line(), watch.line()].join("\n");
    assert_eq!(names(&rows), ["NAME", "first", "second"]);
    let is_watched = |api: &KubeApi| api.requests().iter().any(|request| request.path.contains("watch=true"));
    wait_until("the watch is on", || stage.apis.iter().any(is_watched));
    let stays = stage.apis.iter().position(is_watched).unwrap();
    let goes = 1 - stays;

    let get = |stage: &Stage| {
        let printed = stage.kubectl(Some(SERVER_NAME), GET_PODS).succeed();
        assert_eq!(names(&printed)[1..3], ["first", "second"]);
    };
    // Requests of users: the probes ask for nothing else.
    let asked = |stage: &Stage| stage.apis[goes].requests().iter().filter(|seen| seen.path != "/readyz").count();
    wait_until("both serve", || {
        get(&stage);
        asked(&stage) > 0
    });
    stage.apis[goes].be_ready(false);
    wait_until("it serves nobody new", || {
        let before = asked(&stage);
        (0..6).for_each(|_| get(&stage));
        asked(&stage) == before
    });
    stage.apis[goes].stop();
    for pod in ["third", "fourth", "fifth"] {
        get(&stage);
        stage.apis[stays].add_pod(pod);
        assert_eq!(names(&watch.line()), [pod]);
    }
}

/// The first word of each line: the pods' names.
fn names(printed: &str) -> Vec<&str> {
    printed.lines().filter_map(|line| line.split_whitespace().next()).collect()
}
