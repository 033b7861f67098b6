//! What the documents say of tests and commands is so.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use snigate::config::Config;
use snigate::outcome::Reason;

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};
use crate::support::tools::{self, Run};

/// A file of the package.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every test below `folder` as `module::name`, where the module is the file's name, or its folder's for `mod.rs` and
/// `tests.rs`.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let owner =
                if path.ends_with("mod.rs") || path.ends_with("tests.rs") { path.parent().unwrap() } else { &path };
            let module = owner.file_stem().unwrap().to_str().unwrap();
            let source = fs::read_to_string(&path).unwrap();
            found.extend(tests_in(&source).map(|name| format!("{module}::{name}")));
        }
    }
}

/// The names of the functions that an attribute marks as tests.
fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    source.lines().map(str::trim).filter_map(move |line| {
        if line.starts_with("#[") {
            marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            return None;
        }
        let (_, rest) = line.split_once("fn ").filter(|_| std::mem::take(&mut marked))?;
        rest.split('(').next()
    })
}

/// The words in backticks that look like `module::test`.
fn tests_named_in(document: &str) -> Vec<&str> {
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
    };
    let is_test = |text: &&str| text.split_once("::").is_some_and(|(module, name)| word(module) && word(name));
    document.split('`').skip(1).step_by(2).filter(is_test).collect()
}

#[test]
fn every_test_that_security_md_names_exists() {
    let mut tests = BTreeSet::new();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests_below(&package.join("src"), &mut tests);
    tests_below(&package.join("tests"), &mut tests);
    assert!(tests.contains("docs::every_test_that_security_md_names_exists"), "{tests:#?}");
    let security = read("SECURITY.md");
    let missing: Vec<_> = tests_named_in(&security).into_iter().filter(|name| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "SECURITY.md names tests that do not exist: {missing:#?}");
}

#[test]
fn every_promise_in_security_md_has_tests_or_says_what_is_missing() {
    let security = read("SECURITY.md");
    let promises: Vec<_> = security.split("\n### ").skip(1).map(|part| part.split("\n## ").next().unwrap()).collect();
    assert_eq!(promises.len(), 7);
    for promise in promises {
        assert!(!tests_named_in(promise).is_empty() || promise.contains("Not there yet"), "{promise}");
    }
}

/// The fenced blocks of a document in one language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_readme_s_two_commands_are_those_that_ci_runs() {
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## Try it\n").expect("README.md has a section \"Try it\"");
    let section = section.split("\n## ").next().unwrap();
    assert_eq!(blocks(section, "sh"), ["cargo run --release -- demo\n", "cargo test\n"]);
    let ci = read(".ci/run");
    for taken_over in ["readme_command 'cargo test'", "readme_command 'cargo run'"] {
        assert!(ci.contains(taken_over), ".ci/run takes {taken_over} from README.md");
    }
}

/// The one block of YAML that begins with this key.
fn yaml<'a>(document: &'a str, key: &str) -> &'a str {
    let mut found = blocks(document, "yaml").into_iter().filter(|block| block.starts_with(key));
    let block = found.next().unwrap_or_else(|| panic!("there is no block that begins with {key}"));
    assert_eq!(found.next(), None);
    block
}

#[test]
fn the_readme_s_configuration_loads_and_says_the_defaults() {
    let readme = read("README.md");
    let configuration = yaml(&readme, "listeners:");
    let config = Config::parse(configuration).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.warnings, []);
    // Whatever a comment calls a default must be one: without those keys nothing changes.
    let is_default =
        |line: &&str| line.contains("# default;") || line.contains("# default\n") || line.ends_with("# default");
    let shorter: String =
        configuration.lines().filter(|line| !is_default(line)).flat_map(|line| [line, "\n"]).collect();
    assert!(shorter.len() < configuration.len());
    assert_eq!(Config::parse(&shorter).unwrap().to_string(), config.to_string());
}

/// What HAProxy is told, and what snigate is told in its place: both accept it, and they mean the same endpoints.
#[test]
fn the_readme_s_upstream_is_that_of_its_haproxy() {
    let (readme, authority) = (read("README.md"), Authority::new());
    let upstreams =
        yaml(&readme, "upstreams:").replace("/etc/snigate/kubernetes-ca.pem", authority.file().to_str().unwrap());
    let rest = "listeners: [{ address: ':6443' }]\nroutes: [{ server_names: [a.test], upstream: kubernetes }]\n";
    let config = Config::parse(&format!("{rest}{upstreams}")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.warnings, []);
    let backend = blocks(&readme, "haproxy")[0];
    let servers = backend.lines().filter_map(|line| line.trim().strip_prefix("server "));
    let servers: Vec<_> = servers.map(|server| server.split_whitespace().nth(1).unwrap().to_owned()).collect();
    let endpoints = &config.upstreams[0].endpoints;
    assert_eq!(servers, endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>());

    let Some(haproxy) = tools::require("haproxy") else { return };
    let file = authority.folder().join("haproxy.cfg");
    let checked = backend.replace("/etc/haproxy/ca.pem", authority.file().to_str().unwrap());
    let rest = "defaults\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n\
                frontend front\n  mode tcp\n  bind 127.0.0.1:6443\n  default_backend kubernetes\n";
    fs::write(&file, format!("{rest}{checked}")).unwrap();
    let run = tools::run(Command::new(haproxy).args(["-c", "-f"]).arg(&file), "");
    assert!(run.status.success(), "{}{}", run.stdout, run.stderr);
}

/// Runs `snigate` with these arguments, `snigate.yaml` being the README's configuration, and `haproxy.cfg` one to move
/// from.
fn snigate<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Run {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("snigate.yaml"), yaml(&read("README.md"), "listeners:")).unwrap();
    fs::write(folder.path().join("haproxy.cfg"), read("tests/haproxy/quick.cfg")).unwrap();
    tools::run(Command::new(env!("CARGO_BIN_EXE_snigate")).args(arguments).current_dir(folder.path()), "")
}

#[test]
fn the_readme_s_commands_are_accepted() {
    let readme = read("README.md");
    let lines = blocks(&readme, "sh").into_iter().flat_map(str::lines);
    let commands: Vec<&str> = lines.filter_map(|line| line.split('#').next()?.strip_prefix("snigate ")).collect();
    for command in &commands {
        // Help is what an accepted command line ends with here: `run` would go on for ever.
        let asked = snigate(command.split_whitespace().chain(["--help"]));
        assert!(asked.status.success(), "{command}: {}", asked.stderr);
        if !command.starts_with("run") {
            let ran = snigate(command.split_whitespace());
            assert!(ran.status.success(), "{command}: {}", ran.stderr);
        }
    }
    for name in ["check", "explain", "import", "kubeconfig", "run"] {
        assert!(commands.iter().any(|command| command.starts_with(name)), "README.md shows no `snigate {name}`");
        assert!(!snigate([name, "--unknown", "--help"]).status.success(), "what is not accepted fails");
    }
    assert!(snigate(["check", "--config", "snigate.yaml", "--print"]).status.success());
}

#[test]
fn the_readme_s_kubeconfig_leads_through_the_readme_s_gate() {
    let readme = read("README.md");
    let config = Config::parse(yaml(&readme, "listeners:")).unwrap();
    let port = config.listeners[0].address.socket_addr().port();
    let kubeconfig: Value = serde_yaml::from_str(yaml(&readme, "clusters:")).unwrap();
    let clusters = kubeconfig["clusters"].as_array().unwrap();
    let mut by_address = 0;
    for cluster in clusters.iter().map(|entry| &entry["cluster"]) {
        let server = cluster["server"].as_str().unwrap();
        let host = server.strip_prefix("https://").and_then(|rest| rest.strip_suffix(&format!(":{port}")));
        let host = host.unwrap_or_else(|| panic!("{server} does not lead to port {port} of the gate"));
        let is_address = host.parse::<IpAddr>().is_ok();
        by_address += usize::from(is_address);
        let name = cluster["tls-server-name"].as_str().unwrap_or(host);
        assert!(name.parse::<IpAddr>().is_err(), "{server}: kubectl sends no server name");
        let mut arguments = vec!["explain", "--config", "snigate.yaml", "--server-name", name];
        // From an office that the route admits, and with what kubectl offers.
        arguments.extend(["--source", "203.0.113.7", "--alpn", "h2", "--alpn", "http/1.1"]);
        let explained = snigate(arguments);
        assert!(explained.stdout.contains("\ndecision: route kube"), "{name}: {}", explained.stdout);
    }
    assert!(by_address > 0 && by_address < clusters.len(), "one by name, one by address");
}

#[test]
fn the_readme_s_log_line_has_the_fields_that_lines_have() {
    let readme = read("README.md");
    let line: Value = serde_json::from_str(blocks(&readme, "json")[0].trim()).unwrap();
    let upstream = Upstream::answering(hello("a.test").len(), "answer");
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    tcp::read_to_end(&mut client);
    drop(client);
    let fields = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&line), fields(&gate.log.line(0)));
    for field in fields(&line) {
        assert!(readme.contains(&format!("`{field}`")), "README.md does not explain {field}");
    }
}

#[test]
fn the_readme_lists_every_reason_and_no_other() {
    let readme = read("README.md");
    let (_, list) = readme.split_once("Reasons are a closed list:").unwrap();
    let list = list.split("\n## ").next().unwrap();
    let listed: BTreeSet<_> = list.split('`').skip(1).step_by(2).collect();
    assert_eq!(listed, Reason::ALL.iter().map(|reason| reason.label()).collect());
}

#[test]
fn the_readme_s_tables_have_a_head_one_rule_and_rows_of_cells() {
    let readme = read("README.md");
    let lines: Vec<&str> = readme.lines().collect();
    let mut tables =
        lines.chunk_by(|a, b| a.starts_with('|') == b.starts_with('|')).filter(|run| run[0].starts_with('|'));
    let is_rule = |line: &&str| line.bytes().all(|byte| b"|-: ".contains(&byte));
    assert!(tables.clone().count() > 0);
    assert!(tables.all(|table| table.iter().enumerate().all(|(index, line)| is_rule(line) == (index == 1))));
}
