//! `snigate import haproxy`: what it prints for the configurations in `tests/haproxy`, and that a real HAProxy leads
//! clients to the same places.
//!
//! Beside each `NAME.cfg` stands what is printed for it, `NAME.yaml`. After a change that is meant,
//! `SNIGATE_WRITE_EXPECTED=1 cargo test --test it import` writes those anew.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use snigate::cli::import::{Files, Source, files_named, translate};

use crate::support::certs::Authority;
use crate::support::haproxy::Haproxy;
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};
use crate::support::tools::{self, Run};

/// Where the configurations say that their files are.
const PLACE: &str = "/etc/haproxy";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/haproxy")
}

/// The configurations, their maps and the certificates that they name, in a folder of their own.
struct Copies {
    authority: Authority,
}

impl Copies {
    fn make() -> Self {
        let authority = Authority::new();
        let identity = authority.server(&["kube.example.com"]);
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let both = read(&identity.certificate_file) + &read(&identity.key_file);
        for name in ["haproxy.pem", "one.pem", "two.pem"] {
            fs::write(authority.folder().join(name), &both).unwrap();
        }
        for entry in fs::read_dir(fixtures()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension != "yaml") {
                let text = read(&path).replace(PLACE, authority.folder().to_str().unwrap());
                fs::write(authority.folder().join(path.file_name().unwrap()), text).unwrap();
            }
        }
        Self { authority }
    }

    fn folder(&self) -> &Path {
        self.authority.folder()
    }

    /// Runs `snigate` beside them.
    fn snigate(&self, arguments: &[&str]) -> Run {
        tools::run(Command::new(env!("CARGO_BIN_EXE_snigate")).args(arguments).current_dir(self.folder()), "")
    }

    /// What is printed for one of them, which passes `check`.
    fn import(&self, name: &str) -> String {
        let run = self.snigate(&["import", "haproxy", name]);
        assert!(run.status.success(), "{name}: {}\n{}", run.stderr, run.stdout);
        run.stdout
    }
}

fn names() -> Vec<String> {
    let all = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = all.filter_map(|name| name.strip_suffix(".cfg").map(str::to_owned)).collect();
    names.sort();
    names
}

/// What is printed for a configuration whose files are where it says.
fn printed(name: &str) -> String {
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let text = read(&fixtures().join(name));
    let environment = |_: &str| None;
    let named = files_named(&text, &environment).unwrap().into_iter();
    let files = named.map(|(_, file)| {
        let content = read(&fixtures().join(Path::new(&file).file_name().unwrap()));
        (file, content)
    });
    let source =
        Source { name, text: &text, folder: PLACE, files: &files.collect::<Files>(), environment: &environment };
    translate(&source).unwrap().to_string()
}

#[test]
fn each_configuration_becomes_the_expected_table() {
    assert!(names().len() >= 7);
    for name in names() {
        let printed = printed(&format!("{name}.cfg"));
        let file = fixtures().join(format!("{name}.yaml"));
        if std::env::var_os("SNIGATE_WRITE_EXPECTED").is_some() {
            fs::write(&file, &printed).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(printed, expected, "{name}.yaml: what is printed differs from what is expected");
    }
}

#[test]
fn each_table_passes_check() {
    let copies = Copies::make();
    for name in names() {
        fs::write(copies.folder().join("snigate.yaml"), copies.import(&format!("{name}.cfg"))).unwrap();
        let checked = copies.snigate(&["check", "--config", "snigate.yaml"]);
        assert!(checked.status.success(), "{name}: {}", checked.stderr);
    }
}

#[test]
fn haproxy_accepts_each_configuration() {
    let Some(haproxy) = tools::require("haproxy") else { return };
    let copies = Copies::make();
    for name in names() {
        let file = copies.folder().join(format!("{name}.cfg"));
        let run = tools::run(Command::new(&haproxy).args(["-c", "-f"]).arg(&file), "");
        assert!(run.status.success(), "{name}: {}{}", run.stdout, run.stderr);
    }
}

/// One upstream for each backend, which tells its name to whoever sends something.
struct Backends {
    upstreams: BTreeMap<String, Upstream>,
}

impl Backends {
    /// Those of `configuration`, which then leads to them; its `bind` lines become `address`.
    fn of(configuration: &str) -> (Self, impl Fn(SocketAddr) -> String + use<>) {
        let mut upstreams = BTreeMap::new();
        let mut lines = Vec::new();
        let mut backend = "";
        for line in configuration.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["backend", name] => {
                    backend = name;
                    lines.push(line.to_owned());
                }
                ["server", name, ..] => {
                    let told = backend.to_owned();
                    let upstream = upstreams.entry(told.clone()).or_insert_with(|| {
                        Upstream::start(move |mut stream, visit| {
                            visit.read(&mut stream, 1);
                            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len());
                            stream.write_all(answer.as_bytes()).unwrap();
                            // To close with bytes unread would be a reset, and might take the answer along.
                            let _ = stream.shutdown(Shutdown::Write);
                            visit.read_to_end(&mut stream);
                        })
                    });
                    // The first alone: which server of a backend it is makes no difference here.
                    let backup = if words.contains(&"backup") { "backup" } else { "" };
                    lines.push(format!("    server {name} {} {backup}", upstream.address()));
                }
                _ => lines.push(line.to_owned()),
            }
        }
        let text = lines.join("\n");
        let bound = move |address: SocketAddr| {
            let bind = format!("bind {address}");
            text.replace("bind :443", &bind).replace("bind :6443", &bind) + "\n"
        };
        (Self { upstreams }, bound)
    }
}

/// Who answers a client from `source` that asks for `name`, or for none; nobody, if it is refused.
fn answering(address: SocketAddr, name: Option<&str>, source: Ipv4Addr) -> Option<String> {
    let mut client = tcp::connect_from(source, address);
    // An address is never sent as a server name. Who is refused at once may not get so far.
    let _ = client.write_all(&hello(name.unwrap_or("192.0.2.1")));
    let mut answer = String::new();
    // Whoever is refused may be reset.
    let _ = client.read_to_string(&mut answer);
    answer.split_once("\r\n\r\n").map(|(_, name)| name.to_owned())
}

/// The same of a client that HAProxy ends TLS for.
fn answering_with_tls(curl: &Path, address: SocketAddr, name: Option<&str>) -> Option<String> {
    let url = name.map_or_else(|| format!("https://{address}/"), |name| format!("https://{name}/"));
    let mut command = Command::new(curl);
    command.args(["--silent", "--fail", "--insecure", "--noproxy", "*", "--connect-to"]);
    let run = tools::run(command.arg(format!("::{address}")).arg(url), "");
    run.status.success().then_some(run.stdout)
}

/// Where `snigate explain` leads the same client.
fn explained(copies: &Copies, name: Option<&str>, source: Ipv4Addr) -> Option<String> {
    let source = source.to_string();
    let mut arguments = vec!["explain", "--config", "snigate.yaml", "--source", &source];
    arguments.extend(name.map_or(vec!["--no-server-name"], |name| vec!["--server-name", name]));
    let run = copies.snigate(&arguments);
    assert!(run.status.success(), "{}", run.stderr);
    let upstream = run.stdout.lines().find_map(|line| line.strip_prefix("upstream: "));
    upstream.map(|line| line.split(',').next().unwrap().to_owned())
}

/// Compares decisions for clients that ask for these names, or for none, from these addresses of loopback.
fn compare(fixture: &str, names: &[&str], sources: &[u8], refused_is_fine: bool) {
    compare_by(fixture, names, sources, refused_is_fine, answering);
}

fn compare_by(
    fixture: &str,
    names: &[&str],
    sources: &[u8],
    refused_is_fine: bool,
    answering: impl Fn(SocketAddr, Option<&str>, Ipv4Addr) -> Option<String>,
) {
    let copies = Copies::make();
    fs::write(copies.folder().join("snigate.yaml"), copies.import(fixture)).unwrap();
    let (backends, configuration) = Backends::of(&fs::read_to_string(copies.folder().join(fixture)).unwrap());
    let Some(haproxy) = Haproxy::of(configuration) else { return };
    let mut reached: Vec<String> = Vec::new();
    for name in names.iter().map(|name| Some(*name)).chain([None]) {
        for last in sources {
            let source = Ipv4Addr::new(127, 0, 0, *last);
            let there = answering(haproxy.address(), name, source);
            let here = explained(&copies, name, source);
            let fine = here == there || refused_is_fine && here.is_none();
            assert!(fine, "{fixture}: {name:?} from {source}: HAProxy {there:?}, explain {here:?}");
            reached.extend(here);
        }
    }
    if !refused_is_fine {
        let missed: Vec<_> =
            backends.upstreams.keys().filter(|name| *name != "never" && !reached.contains(name)).collect();
        assert!(missed.is_empty(), "{fixture}: nobody comes to {missed:?}");
    }
}

#[test]
fn conditions_lead_where_haproxy_leads() {
    let names = [
        "kube.example.com",
        "KUBE.example.com",
        "api.example.com",
        "apps.example.com",
        "a.apps.example.com",
        "x.y.apps.example.com",
        "old.apps.example.com",
        "a.example.org",
        "b.a.example.org",
        "c.b.a.example.org",
        "exact.example.org",
        "example.org",
        "deep.example.net",
        "example.net",
        "nothing.test",
        "localhost",
        "notapps.example.com",
    ];
    compare("names.cfg", &names, &[1, 9, 20, 66], false);
}

#[test]
fn maps_lead_where_haproxy_leads() {
    let names = [
        "one.example.com",
        "ONE.example.com",
        "uno.example.com",
        "a.two.example.com",
        "three.two.example.com",
        "x.three.two.example.com",
        "two.example.com",
        "x.gone.example.com",
        "gone.example.com",
        "rest.example.com",
        "never.example.com",
        "blocked.example.com",
        "blocked.two.example.com",
        "elsewhere.test",
    ];
    compare("maps.cfg", &names, &[1], false);
}

#[test]
fn parts_of_names_lead_nobody_elsewhere() {
    let names = [
        "kube-a.example.com",
        "kube-b.example.com",
        "kube-c.test",
        "example.net",
        "a.example.net",
        "notexample.net",
        "kube-x.example.net",
        "upper.example.com",
        "a.example.org",
        "h2.example.com",
        "any.test",
    ];
    compare("parts.cfg", &names, &[1], true);
}

#[test]
fn names_lead_where_they_led_while_haproxy_ended_tls() {
    let Some(curl) = tools::require("curl") else { return };
    let answering = |address: SocketAddr, name: Option<&str>, _: Ipv4Addr| answering_with_tls(&curl, address, name);
    let names = ["one.example.com", "two.example.com", "three.example.com"];
    compare_by("trusted.cfg", &names, &[1], false, answering);
    compare_by("quick.cfg", &names, &[1], false, answering);
}

#[test]
fn output_goes_to_a_new_file_only() {
    let copies = Copies::make();
    let run = copies.snigate(&["import", "haproxy", "quick.cfg", "--output", "new.yaml"]);
    assert!(run.status.success() && run.stdout.is_empty(), "{}", run.stderr);
    assert_eq!(fs::read_to_string(copies.folder().join("new.yaml")).unwrap(), copies.import("quick.cfg"));
    let again = copies.snigate(&["import", "haproxy", "quick.cfg", "--output", "new.yaml"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stderr.contains("cannot write new.yaml"), "{}", again.stderr);
}

#[test]
fn mistakes_are_told_by_line_with_their_remedies() {
    let copies = Copies::make();
    let wrong = |text: &str| {
        fs::write(copies.folder().join("wrong.cfg"), text).unwrap();
        let run = copies.snigate(&["import", "haproxy", "wrong.cfg"]);
        assert_eq!((run.status.code(), run.stdout.as_str()), (Some(78), ""), "{}", run.stderr);
        run.stderr
    };
    assert!(wrong("listeners: []\n").contains("line 1: `listeners:` stands before the first section"));
    assert!(wrong("frontend f\n  bind \":$NO_SUCH_PORT\"\n").contains("line 2: the variable NO_SUCH_PORT is not set"));
    let map = "frontend f\n  bind :1\n  use_backend %[req.ssl_sni,map(/nowhere/a.map)]\n";
    assert!(wrong(map).contains("line 3: cannot read /nowhere/a.map"));
    assert_eq!(copies.snigate(&["import", "haproxy", "missing.cfg"]).status.code(), Some(1));
}

#[test]
fn what_does_not_load_yet_is_printed_and_told() {
    let copies = Copies::make();
    let text = fs::read_to_string(copies.folder().join("trusted.cfg")).unwrap().replace("ca.pem", "elsewhere.pem");
    fs::write(copies.folder().join("away.cfg"), text).unwrap();
    let run = copies.snigate(&["import", "haproxy", "away.cfg"]);
    assert_eq!(run.status.code(), Some(78));
    assert!(
        run.stdout.contains("elsewhere.pem") && run.stderr.contains("elsewhere.pem does not exist"),
        "{}",
        run.stderr
    );
}
