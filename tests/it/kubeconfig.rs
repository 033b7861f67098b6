//! `snigate kubeconfig`, with kubectl as the judge of what it prints.

mod verify;

use crate::support::certs::{Authority, Identity};
use crate::support::gate::Gate;
use crate::support::kube_api::KubeApi;
use crate::support::tools::{self, Run};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const NAME: &str = "kube.example.com";
/// What is served: a name, the address, what is below a wildcard, and what Go makes of `localhost`.
const NAMES: &[&str] = &[NAME, "127.0.0.1", "*.clusters.example.com", "localhost"];

/// `snigate kubeconfig` with a configuration of its own.
struct Printer {
    folder: TempDir,
}

impl Printer {
    fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("snigate.yaml"), configuration).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.args(["kubeconfig", "--config", "snigate.yaml"]).args(arguments).current_dir(&self.folder);
        // Nobody whom this machine believes: a file of theirs that is not there.
        command.env("SSL_CERT_FILE", self.file("system.pem"));
        tools::run(&mut command, "")
    }

    /// What it prints when all is well.
    fn print(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert!(run.status.success(), "{arguments:?}: {}", run.stderr);
        run.stdout
    }
}

/// One API server behind a gate, and what a user has.
struct Stage {
    api: KubeApi,
    gate: Gate,
    authority: Authority,
    user: Identity,
    printer: Printer,
    kubectl: PathBuf,
}

impl Stage {
    /// The route `kube` takes this. `None` where kubectl is not installed.
    fn new(takes: &str) -> Option<Self> {
        Self::of(takes, takes, |authority| authority.server(NAMES))
    }

    /// The same where the configuration at hand says that it takes `says`, and the API server is this one.
    fn of(takes: &str, says: &str, identity: impl FnOnce(&Authority) -> Identity) -> Option<Self> {
        let kubectl = tools::require("kubectl")?;
        let authority = Authority::new();
        let api = KubeApi::start(&identity(&authority), &authority);
        api.add_pod("first");
        let user = authority.client("jane", "developers");
        // The gate itself believes everybody: it is kubectl who judges here.
        let gate = Gate::start(&configuration(takes, api.address(), ""));
        let check = format!("tls: {{ ca_file: '{}', server_name: {NAME} }}", authority.file().display());
        let check = format!(", health_check: {{ {check} }}");
        let printer = Printer::new(&configuration(says, api.address(), &check));
        Some(Self { api, gate, user, printer, authority, kubectl })
    }

    /// The public address on this host.
    fn server(&self, host: &str) -> String {
        format!("{host}:{}", self.gate.address().port())
    }

    fn kubectl(&self, kubeconfig: &str, arguments: &[&str]) -> Run {
        let mut command = Command::new(&self.kubectl);
        command.args(arguments).env_clear().env("HOME", self.printer.folder.path()).env("KUBECONFIG", kubeconfig);
        tools::run(command.current_dir(&self.printer.folder), "")
    }

    /// All that kubectl finds in a kubeconfig.
    fn view(&self, file: &Path) -> Value {
        let run = self.kubectl(file.to_str().unwrap(), &["config", "view", "--raw", "-o", "json"]);
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stderr))
    }

    /// What jane sees with this kubeconfig, which does not know her yet.
    fn pods(&self, kubeconfig: &str, cluster: &str) -> Run {
        fs::write(self.printer.file("printed"), kubeconfig).unwrap();
        let (certificate, key) = (self.user.certificate_file.display(), self.user.key_file.display());
        let [certificate, key] = [format!("--client-certificate={certificate}"), format!("--client-key={key}")];
        self.kubectl(
            "printed",
            &["--cluster", cluster, "--namespace=default", &certificate, &key, "get", "pods", "-o", "name"],
        )
    }
}

fn configuration(takes: &str, endpoint: SocketAddr, keys: &str) -> String {
    format!(
        "listeners: [{{ address: '127.0.0.1:0', name: gate }}]\nroutes: [{{ name: kube, {takes}, upstream: kubernetes }}]\n\
         upstreams:\n  kubernetes: {{ endpoints: ['{endpoint}']{keys} }}\n"
    )
}

/// The one cluster of a kubeconfig, as kubectl would read it.
fn cluster(kubeconfig: &str) -> Value {
    let tree: Value = serde_yaml::from_str(kubeconfig).unwrap();
    assert_eq!(tree["clusters"].as_array().unwrap().len(), 1, "{kubeconfig}");
    tree["clusters"][0]["cluster"].clone()
}

#[test]
fn kubectl_gets_through_by_name_and_by_address_with_what_is_printed() {
    for (takes, host, arguments, tls_server_name) in [
        ("server_names: [kube.example.com]", "127.0.0.1", &[][..], Some(NAME)),
        ("server_names: [kube.example.com, localhost]", "localhost", &[], None),
        ("server_names: [kube.example.com]", "LOCALHOST", &[], Some(NAME)),
        ("server_names: ['*.clusters.example.com', kube.example.com]", "127.0.0.1", &[], Some(NAME)),
        (
            "server_names: ['*.clusters.example.com']",
            "127.0.0.1",
            &["--server-name", "one.clusters.example.com"],
            Some("one.clusters.example.com"),
        ),
        ("server_names: ['*']", "localhost", &[], None),
        ("no_server_name: true", "127.0.0.1", &[], None),
        ("no_server_name: true, server_names: [kube.example.com]", "127.0.0.1", &[], Some(NAME)),
    ] {
        let Some(stage) = Stage::new(takes) else { return };
        let server = stage.server(host);
        let printed = stage.printer.print(&[&["kube", "--server", &server], arguments].concat());
        let cluster = cluster(&printed);
        assert_eq!(cluster["server"], format!("https://{}", server.to_lowercase()), "{takes}");
        assert_eq!(cluster["tls-server-name"].as_str(), tls_server_name, "{takes}");
        let run = stage.pods(&printed, "kube");
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("pod/first\n", ""), "{takes}\n{printed}");
        assert_eq!(stage.api.requests()[0].user, "jane");
    }
}

#[test]
fn another_authority_or_name_than_printed_is_what_kubectl_stumbles_over() {
    let Some(stage) = Stage::new("server_names: [kube.example.com, other.example.com]") else { return };
    let (other, server) = (Authority::new(), stage.server("127.0.0.1"));
    let file = other.file();
    let wrong_authority = ["kube", "--server", &server, "--ca-file", file.to_str().unwrap()];
    let wrong_name = ["kube", "--server", &server, "--server-name", "other.example.com"];
    for (arguments, complaint) in [
        (&wrong_authority[..], "x509: certificate signed by unknown authority"),
        (&wrong_name, "x509: certificate is valid for kube.example.com"),
    ] {
        let run = stage.pods(&stage.printer.print(arguments), "kube");
        assert!(run.stderr.contains(complaint), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(stage.api.requests(), []);
}

#[test]
fn a_context_ties_the_cluster_to_a_user_of_another_file() {
    let Some(stage) = Stage::new("server_names: [kube.example.com]") else { return };
    let arguments = ["kube", "--server", &stage.server("127.0.0.1"), "--name", "edge: 1", "--user", "jane"];
    fs::write(stage.printer.file("edge"), stage.printer.print(&arguments)).unwrap();
    let [certificate, key] =
        [&stage.user.certificate_file, &stage.user.key_file].map(|file| file.display().to_string());
    let set = ["config", "set-credentials", "jane", "--client-certificate", &certificate, "--client-key", &key];
    assert!(stage.kubectl("mine", &set).status.success());
    let run = stage.kubectl("mine:edge", &["--context", "edge: 1", "get", "pods", "-o", "name"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("pod/first\n", ""));
}

/// Written by hand, with what other programs and people put into such files.
const BY_HAND: &str = "\
# Jane's clusters, sorted by continent
apiVersion: v1
kind: Config
preferences: {colors: true}   # kubectl ignores these
clusters:
  # Europe
  - name: eu   # the old one
    cluster:
      proxy-url: http://proxy.test:3128
      server: https://eu.test
      extensions:
        - name: notes
          extension:
            clusters: [none]
            owner: |
              # no comment
              clusters:
              - none
      x-unknown-key: kept
  # Asia
users:
  - name: jane
    user: {token: 'secret # no comment'}
contexts:
  - {name: eu, context: {cluster: eu, user: jane, namespace: web}}
current-context: eu
";

#[test]
fn kubeconfigs_of_people_and_of_kubectl_get_the_cluster_and_keep_the_rest() {
    let Some(stage) = Stage::new("server_names: [kube.example.com]") else { return };
    let set = |arguments: &str| {
        let run = stage.kubectl("by-kubectl", &arguments.split(' ').collect::<Vec<_>>());
        assert!(run.status.success(), "{}", run.stderr);
        run.stdout
    };
    let bare = "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: null\n".to_owned();
    set("config set-cluster eu --server=https://eu.test --tls-server-name=a.test");
    set("config set-context eu --cluster=eu --user=jane");
    let by_kubectl = fs::read_to_string(stage.printer.file("by-kubectl")).unwrap();
    let json = set("config view --raw -o json");
    let line = serde_json::from_str::<Value>(&json).unwrap().to_string();
    for text in [BY_HAND.to_owned(), bare, by_kubectl, json, line, String::new()] {
        let file = stage.printer.file("config");
        fs::write(&file, &text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let before = stage.view(&file);
        let arguments =
            ["kube", "--server", &stage.server("127.0.0.1"), "--name", "edge", "--user", "jane", "--merge", "config"];
        let run = stage.printer.run(&arguments);
        assert!(run.status.success() && run.stdout.is_empty(), "{text}\n{}", run.stderr);
        assert!(run.stderr.ends_with("config now has cluster \"edge\" and context \"edge\"\n"), "{}", run.stderr);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);

        // As kubectl sees it, there is one more of each, and everything else is as it was.
        let mut after = stage.view(&file);
        for list in ["clusters", "contexts"] {
            let is_ours = |item: &Value| item["name"] == "edge";
            let items = after[list].as_array_mut().unwrap();
            assert_eq!(items.iter().filter(|item| is_ours(item)).count(), 1, "{text}");
            items.retain(|item| !is_ours(item));
            if items.is_empty() {
                after[list] = Value::Null;
            }
        }
        assert_eq!(after, before, "{text}");
        assert_eq!(stage.pods(&fs::read_to_string(&file).unwrap(), "edge").stdout, "pod/first\n", "{text}");

        let merged = fs::read_to_string(&file).unwrap();
        let mut lines = merged.lines();
        // Those with the lists' names may have changed: an empty list has become one with an item.
        for line in text.lines().filter(|line| !line.contains("clusters") && !line.contains("contexts")) {
            assert!(lines.any(|merged| merged == line), "{line} is lost:\n{merged}");
        }

        let again = stage.printer.run(&arguments);
        assert!(again.status.success() && again.stderr.ends_with("\"edge\" already\n"), "{}", again.stderr);
        assert_eq!(fs::read_to_string(&file).unwrap(), merged);
    }
}

#[test]
fn a_kubeconfig_that_cannot_be_added_to_stays_as_it_is() {
    let printer = Printer::new(ROUTES);
    for (text, told) in [
        (BY_HAND, "snigate: config: has a cluster \"eu\" already, which says something else: take another name, or"),
        ("[]", "snigate: config: is no kubeconfig: "),
        ("clusters: &all []\nmine: *all\n", "snigate: config: is written in a form to which no cluster can be added"),
    ] {
        fs::write(printer.file("config"), text).unwrap();
        let run = printer.run(&["api", "--name", "eu", "--merge", "config"]);
        assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
        assert!(run.stderr.contains(told), "{}", run.stderr);
        assert_eq!(fs::read_to_string(printer.file("config")).unwrap(), text);
    }
}

#[test]
fn whoever_writes_to_a_kubeconfig_locks_kubectl_out_and_is_locked_out() {
    let Some(stage) = Stage::new("server_names: [kube.example.com]") else { return };
    let (file, lock) = (stage.printer.file("config"), stage.printer.file("config.lock"));
    fs::write(&file, BY_HAND).unwrap();
    fs::write(&lock, "").unwrap();
    let set = ["config", "set-cluster", "asia", "--server=https://asia.test"];
    let kubectl = stage.kubectl(file.to_str().unwrap(), &set);
    assert!(kubectl.stderr.contains("config.lock: file exists"), "it is another file: {}", kubectl.stderr);
    let merge = ["kube", "--server", "127.0.0.1:1", "--merge", "config"];
    let run = stage.printer.run(&merge);
    assert!(
        run.stderr.contains("snigate: config: kubectl is writing to it, or one that was cut short"),
        "{}",
        run.stderr
    );
    assert_eq!((run.status.code(), fs::read_to_string(&file).unwrap().as_str()), (Some(1), BY_HAND));
    fs::remove_file(&lock).unwrap();
    stage.printer.print(&merge);
    let kubectl = stage.kubectl(file.to_str().unwrap(), &set);
    assert!(kubectl.status.success(), "{}", kubectl.stderr);
    let clusters = stage.view(&file)["clusters"].clone();
    let names: Vec<_> = clusters.as_array().unwrap().iter().map(|cluster| cluster["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["asia", "eu", "kube"]);
}

#[test]
fn a_kubeconfig_that_is_not_there_yet_is_made_for_its_owner_alone() {
    let printer = Printer::new(ROUTES);
    assert_eq!(printer.print(&["api", "--merge", "new"]), "");
    assert_eq!(fs::read_to_string(printer.file("new")).unwrap(), printer.print(&["api"]));
    assert_eq!(fs::metadata(printer.file("new")).unwrap().permissions().mode() & 0o7777, 0o600);
}

const ROUTES: &str = "
listeners:
  - { address: ':6443', name: kube }
  - { address: '127.0.0.1:7443', name: office }
  - { address: '127.0.0.1:0', name: free, proxy_protocol: { trusted: [127.0.0.1] } }
routes:
  - { name: api, server_names: [api.test, '*.api.test'], upstream: kubernetes, listeners: [kube] }
  - { name: inner, server_names: [one.api.test], upstream: kubernetes, listeners: [kube] }
  - { name: wild, server_names: ['*.wild.test'], upstream: kubernetes, listeners: [kube] }
  - { name: both, server_names: [both.test], upstream: kubernetes, listeners: [kube, office] }
  - { name: both-inside, server_names: [both.test], allow: [10.0.0.0/8], upstream: kubernetes, listeners: [kube, office] }
  - { name: bare, no_server_name: true, alpn: [imap], upstream: kubernetes, listeners: [kube] }
  - { name: free, server_names: [free.test], upstream: kubernetes, listeners: [free] }
upstreams:
  kubernetes: { endpoints: ['10.0.0.7:6443'] }
";

#[test]
fn addresses_and_names_follow_from_the_routing_table() {
    let printer = Printer::new(ROUTES);
    for (arguments, server, tls_server_name) in [
        (&["api"][..], "https://api.test:6443", None),
        (&["api", "--server", "192.0.2.1"], "https://192.0.2.1:6443", Some("api.test")),
        (&["api", "--server", "2001:db8::1"], "https://[2001:db8::1]:6443", Some("api.test")),
        (&["api", "--server", "elsewhere.test:443"], "https://elsewhere.test:443", Some("api.test")),
        (&["api", "--server", "Two.API.test."], "https://two.api.test:6443", None),
        (&["api", "--server", "one.api.test"], "https://one.api.test:6443", Some("api.test")),
        (&["api", "--server-name", "two.api.test"], "https://two.api.test:6443", None),
        (&["api", "--server-name", "api.test", "--server", "x.api.test"], "https://x.api.test:6443", Some("api.test")),
        (&["wild", "--server", "a.b.wild.test"], "https://a.b.wild.test:6443", None),
        (&["both", "--listener", "office"], "https://both.test:7443", None),
        (&["both", "--server", "192.0.2.1:7443"], "https://192.0.2.1:7443", Some("both.test")),
        (&["bare", "--server", "192.0.2.1"], "https://192.0.2.1:6443", None),
        (&["free", "--server", "balancer.test:443"], "https://balancer.test:443", Some("free.test")),
    ] {
        let cluster = cluster(&printer.print(arguments));
        assert_eq!(cluster["server"], server, "{arguments:?}");
        assert_eq!(cluster["tls-server-name"].as_str(), tls_server_name, "{arguments:?}");
        assert_eq!(cluster["certificate-authority-data"], Value::Null);
    }
}

#[test]
fn what_a_reader_may_not_expect_is_said_beside_it() {
    let printer = Printer::new(ROUTES);
    for (arguments, notes) in [
        (&["api"][..], &[][..]),
        (&["both", "--listener", "office"], &["users may also be led to both-inside, which take the same\n"]),
        (
            &["bare", "--server", "192.0.2.1"],
            &["the certificate must cover 192.0.2.1 itself\n", "takes none of the protocols that kubectl offers"],
        ),
        (&["free", "--server", "a.test:1"], &["listener free requires PROXY headers"]),
    ] {
        let run = printer.run(arguments);
        for note in notes.iter().chain(&["note: no authority is known, neither by --ca-file nor by ca_file"]) {
            assert!(run.stderr.contains(note), "{arguments:?} {note}: {}", run.stderr);
        }
        assert_eq!(run.stderr.lines().count(), notes.len() + 1, "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn an_authority_is_embedded_and_named() {
    let authority = Authority::new();
    let printer = Printer::new(ROUTES);
    let run = printer.run(&["api", "--ca-file", authority.file().to_str().unwrap()]);
    assert!(
        cluster(&run.stdout)["certificate-authority-data"]
            .as_str()
            .unwrap()
            .starts_with("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0t")
    );
    let named = format!("note: authority CN=snigate test authority of {}, until ", authority.file().display());
    assert!(run.stderr.starts_with(&named) && run.stderr.contains(", SHA-256 "), "{}", run.stderr);
}

#[test]
fn what_the_table_leaves_open_must_be_said() {
    let printer = Printer::new(ROUTES);
    let junk = printer.file("junk.pem");
    fs::write(&junk, "junk").unwrap();
    for (arguments, told) in [
        (&["ap"][..], "no route is called `ap`; did you mean `api`?"),
        (&["api", "--listener", "kub"], "no listener is called `kub`; did you mean `kube`?"),
        (&["api", "--listener", "office"], "route api does not belong to listener office"),
        (&["wild"], "route wild has no name of its own: say with --server where users reach it"),
        (&["wild", "--server", "192.0.2.1"], "route wild takes *.wild.test: say with --server-name which name users"),
        (&["wild", "--server", "wild.test"], "route wild takes *.wild.test: say with --server-name which name users"),
        (&["bare", "--server", "a.test"], "kubectl sends a.test, and route bare takes only clients without a name"),
        (
            &["both"],
            "route both has several ports: choose with --listener, or say --server HOST:PORT; kube (:6443), office",
        ),
        (&["free"], "listener free takes any free port: say --server HOST:PORT"),
        (
            &["api", "--server-name", "a.test"],
            "route api does not take a.test, but api.test, *.api.test; `snigate explain",
        ),
        (&["api", "--server-name", "one.api.test"], "route api does not take one.api.test, but"),
        (&["api", "--server-name", "10.0.0.1"], "is an IP address"),
        (&["api", "--server", "https://a.test"], "invalid value 'https://a.test' for '--server <HOST[:PORT]>'"),
        (&["api", "--ca-file", "none.pem"], "none.pem does not exist"),
        (&["api", "--ca-file", junk.to_str().unwrap()], "has no certificate in PEM form"),
        (&[], "<ROUTE>"),
    ] {
        let run = printer.run(arguments);
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(told), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    assert_eq!(Printer::new("routes: []").run(&["api"]).status.code(), Some(78));
}
