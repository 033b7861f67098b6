//! `snigate demo`, as a newcomer runs it.

use crate::support::gate::Lines;
use crate::support::tools;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, Stdio};

#[test]
fn once_makes_every_call_and_says_what_came_of_it() {
    let run = tools::run(Command::new(env!("CARGO_BIN_EXE_snigate")).args(["demo", "--once"]), "");
    assert!(run.status.success(), "{run:?}");
    for version in ["TLS 1.2", "TLS 1.3"] {
        for (name, outcome) in [
            ("alpha.demo.snigate.test", "answered by alpha"),
            ("beta.demo.snigate.test", "answered by beta"),
            ("any.beta.demo.snigate.test", "answered by beta"),
            ("nobody.demo.snigate.test", "unrecognized_name (112)"),
            ("(no server name)", "unrecognized_name (112)"),
        ] {
            let call = format!("\n{version}  {name}\n");
            let (_, told) = run.stdout.split_once(&call).unwrap_or_else(|| panic!("no {call:?} in {}", run.stdout));
            assert!(told.lines().next().unwrap().contains(outcome), "{call}{told}");
        }
    }
    // One fingerprint a service, each shown for every call it answered.
    let mut fingerprints: Vec<&str> = run.stdout.lines().filter(|line| line.contains("SHA-256")).collect();
    assert_eq!(fingerprints.len(), 6, "{}", run.stdout);
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 2, "{}", run.stdout);
    let reasons = |reason: &str| run.stdout.matches(&format!("\"reason\":\"{reason}\"")).count();
    assert_eq!((reasons("unknown_server_name"), reasons("no_server_name")), (2, 2), "{}", run.stdout);
    assert!(run.stdout.ends_with("\n10 calls, all right\n"), "{}", run.stdout);
}

/// The demo as it runs until stopped; killed if the test ends before.
struct Demo {
    child: Child,
    lines: Lines,
}

impl Demo {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snigate")).arg("demo").stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::default();
        lines.fill(child.stdout.take().unwrap());
        lines.wait("the last word of the introduction", |line| line.contains("Ctrl-C ends the demo"));
        Self { child, lines }
    }

    /// The commands it suggests that contain `part`.
    fn suggested(&self, part: &str) -> Vec<String> {
        let is_wanted =
            |line: &&String| (line.starts_with("  curl ") || line.starts_with("  openssl ")) && line.contains(part);
        self.lines.all().iter().filter(is_wanted).map(|line| line.trim().to_owned()).collect()
    }

    /// The file of its authority's certificate.
    fn authority_file(&self) -> String {
        let command = &self.suggested("--cacert")[0];
        command.split(' ').skip_while(|word| *word != "--cacert").nth(1).unwrap().to_owned()
    }

    fn stop(&mut self, signal: Signal) {
        let authority_file = self.authority_file();
        assert!(Path::new(&authority_file).is_file());
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = tools::wait_for_exit(&mut self.child);
        assert_eq!(status.and_then(|status| status.code()), Some(0));
        assert!(!Path::new(&authority_file).exists(), "{authority_file} is left behind");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Fails when it has ended already, which is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_a_shell(command: &str) -> tools::Run {
    tools::run(Command::new("sh").args(["-c", command]).env("NO_PROXY", "*").env("no_proxy", "*"), "")
}

#[test]
fn it_runs_until_interrupted_and_its_curl_lines_work() {
    let mut demo = Demo::start();
    if tools::require("curl").is_some() {
        for (name, outcome) in [("//alpha.", "this is alpha"), ("//beta.", "this is beta"), ("//any.", "this is beta")]
        {
            let commands = demo.suggested(name);
            assert_eq!(commands.len(), 1, "{commands:?}");
            let run = in_a_shell(&commands[0]);
            assert!(run.status.success() && run.stdout.starts_with(outcome), "{run:?}");
        }
        let run = in_a_shell(&demo.suggested("//nobody.")[0]);
        assert!(!run.status.success() && run.stderr.contains("unrecognized name"), "{run:?}");
        let run = in_a_shell(&demo.suggested("--insecure")[0]);
        assert!(!run.status.success(), "{run:?}");
        for reason in ["unknown_server_name", "no_server_name"] {
            demo.lines.wait(reason, |line| line.contains(&format!("\"reason\":\"{reason}\"")));
        }
    }
    if tools::require("openssl").is_some() {
        let run = in_a_shell(&demo.suggested("s_client")[0]);
        assert!(run.status.success(), "{run:?}");
        assert!(run.stderr.contains("Verification: OK"), "{run:?}");
        assert!(run.stderr.contains("CN = beta.demo.snigate.test"), "{run:?}");
    }
    demo.stop(Signal::INT);
}

#[test]
fn it_ends_as_well_on_sigterm_and_when_its_terminal_closes() {
    Demo::start().stop(Signal::TERM);
    Demo::start().stop(Signal::HUP);
}
