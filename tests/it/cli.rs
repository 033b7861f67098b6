//! The commands `check` and `explain`, as a shell sees them.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::NamedTempFile;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn snigate(arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_snigate")).args(arguments).output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

fn example() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/snigate.example.yaml");
    path.to_str().unwrap().to_owned()
}

const TWO_LISTENERS: &str = "
listeners:
  - { address: ':6443', name: kube }
  - { address: ':7443', name: office, allow: [10.0.0.0/8] }
routes:
  - { name: api, server_names: [api.example], upstream: kubernetes }
  - { name: shared, server_names: [shared.test], upstream: kubernetes }
  - { name: h2, server_names: ['*.example'], upstream: kubernetes, alpn: [h2], listeners: [kube] }
  - { name: bare, no_server_name: true, upstream: kubernetes, listeners: [kube] }
upstreams:
  kubernetes: { endpoints: ['apiserver.internal:6443', '10.0.0.7:6443'] }
  spare: { endpoints: ['10.0.0.8:6443'] }
";

#[test]
fn check_says_what_there_is_and_warns() {
    let ended = snigate(&["check", "--config", &example()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, format!("{}: ok, 1 listener, 2 routes, 2 upstreams\n", example()));
    assert_eq!(ended.stderr, "");

    let file = file(TWO_LISTENERS);
    let ended = snigate(&["check", "--config", path(&file)]);
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stdout, format!("{}: ok, 2 listeners, 4 routes, 2 upstreams\n", path(&file)));
    assert_eq!(ended.stderr, "warning: upstreams.spare: no route uses it\n");
}

#[test]
fn check_prints_every_mistake_and_exits_with_78() {
    let file = file("listeners: [{ address: 1 }]\nroutes: []\nupstreams: { u: { endpoint: ['a:1'] } }\n");
    let ended = snigate(&["check", "--config", path(&file)]);
    assert_eq!(ended.code, Some(78));
    assert_eq!(ended.stdout, "");
    let expected = format!(
        "snigate: {} has 3 mistakes:
listeners[0].address: a port alone is not enough: write `\":1\"` for every address
routes: is an empty list: every client would be refused
upstreams.u.endpoint: unknown key; did you mean `endpoints`?
",
        path(&file)
    );
    assert_eq!(ended.stderr, expected);
}

#[test]
fn what_check_prints_is_a_configuration() {
    let printed = snigate(&["check", "--print", "--config", &example()]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    assert_eq!(printed.stderr, format!("{}: ok, 1 listener, 2 routes, 2 upstreams\n", example()));
    let file = file(&printed.stdout);
    let again = snigate(&["check", "--print", "--config", path(&file)]);
    assert_eq!((again.code, again.stdout), (Some(0), printed.stdout));
}

#[test]
fn a_missing_file_is_a_wrong_configuration() {
    for command in [&["check"][..], &["explain", "--no-server-name"]] {
        let ended = snigate(&[command, &["--config", "/nonexistent.yaml"]].concat());
        assert_eq!(ended.code, Some(78));
        let expected =
            "snigate: cannot read the configuration /nonexistent.yaml: No such file or directory (os error 2)\n";
        assert_eq!(ended.stderr, expected);
    }
}

#[test]
fn explain_groups_listeners_that_say_the_same() {
    let file = file(TWO_LISTENERS);
    let explain = |arguments: &[&str]| {
        let ended = snigate(&[&["explain", "--config", path(&file)], arguments].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.stderr, "");
        ended.stdout
    };
    let same = explain(&["--server-name", "SHARED.test.", "--source", "10.1.2.3"]);
    assert!(
        same.starts_with("on kube, office:\nserver name shared.test, from 10.1.2.3, offering no protocol\n"),
        "{same}"
    );
    assert!(same.contains("\ndecision: route shared"), "{same}");
    assert!(same.ends_with("\nupstream: kubernetes, apiserver.internal:6443, 10.0.0.7:6443\n"), "{same}");

    let different = explain(&["--server-name", "api.example"]);
    assert!(different.starts_with("source 192.0.2.1 is assumed: --source says another\non kube:\n"), "{different}");
    let refused = "\non office:\ndecision: refused, source_denied, by the listener's own allow and deny, before the \
       hello is read\n";
    assert!(different.ends_with(refused), "{different}");

    let chosen = explain(&["--server-name", "a.example", "--listener", "kube", "--alpn", "http/1.1", "--alpn", "h2"]);
    assert!(chosen.contains("offering http/1.1, h2\n") && chosen.contains("\ndecision: route h2"), "{chosen}");
    assert!(!chosen.contains("office"), "{chosen}");
    let no_protocol = explain(&["--server-name", "a.example", "--listener", "kube"]);
    assert!(no_protocol.contains("\ndecision: refused, alpn_denied"), "{no_protocol}");
}

#[test]
fn explain_takes_names_as_from_the_wire() {
    let file = file(TWO_LISTENERS);
    let decision = |name: &[&str]| {
        let ended = snigate(&[&["explain", "--config", path(&file), "--listener", "kube"], name].concat());
        let line = ended.stdout.lines().find(|line| line.starts_with("decision: ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{}{}", ended.stdout, ended.stderr))
    };
    assert_eq!(decision(&["--server-name", "api..example"]), "decision: refused, server_name_invalid");
    assert_eq!(decision(&["--server-name", "*.example"]), "decision: refused, server_name_invalid");
    assert_eq!(decision(&["--server-name", "10.0.0.7"]), "decision: route bare");
    assert_eq!(decision(&["--no-server-name"]), "decision: route bare");
    assert_eq!(decision(&["--server-name", "api.example.org"]), "decision: refused, unknown_server_name");
}

#[test]
fn wrong_usage_exits_with_2() {
    let file = file(TWO_LISTENERS);
    for (arguments, told) in [
        (&[][..], "Usage: snigate <COMMAND>"),
        (&["chek"], "a similar subcommand exists: 'check'"),
        (&["check", "--confg", "x"], "a similar argument exists: '--config'"),
        (&["explain"], "--server-name <NAME>"),
        (&["explain", "--server-name", "a", "--no-server-name"], "cannot be used with '--no-server-name'"),
        (&["explain", "--no-server-name", "--source", "10.0.0"], "invalid value '10.0.0' for '--source <IP>'"),
        (&["explain", "--no-server-name", "--alpn", ""], "is not 1 to 255 bytes long"),
        (
            &["explain", "--no-server-name", "--config", path(&file), "--listener", "kub"],
            "snigate: no listener is called `kub`; did you mean `kube`?",
        ),
    ] {
        let ended = snigate(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.stderr.contains(told), "{arguments:?}\n{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn help_names_the_commands_and_exit_codes() {
    let ended = snigate(&["--help"]);
    assert_eq!(ended.code, Some(0));
    for word in ["check", "explain", "kubeconfig", "78 wrong configuration"] {
        assert!(ended.stdout.contains(word), "{word}\n{}", ended.stdout);
    }
    assert_eq!(snigate(&["--version"]).stdout, format!("snigate {}\n", env!("CARGO_PKG_VERSION")));
}
