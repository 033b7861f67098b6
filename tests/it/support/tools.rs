//! Programs that a machine may lack: a test that needs one says so when it skips.

use super::PATIENCE;
use std::env;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The program `name` on the path; `None`, said aloud, when it is not installed.
///
/// With `SNIGATE_REQUIRE_TOOLS=1` a missing program is a failure.
pub fn require(name: &str) -> Option<PathBuf> {
    let found = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    if found.is_none() {
        lack(&format!("{name} is not installed"));
    }
    found
}

/// Says that the current test is skipped for want of something that a machine may lack, unless it must not.
pub fn lack(why: &str) {
    let required = env::var_os("SNIGATE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "{why}, and SNIGATE_REQUIRE_TOOLS=1 requires it");
    skip(why);
}

/// The folder of the ClientHello corpus, which is kept beside the project; `None`, said aloud, when it is not there.
pub fn corpus() -> Option<PathBuf> {
    let folder = env::var_os("SNIGATE_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/clienthello"), PathBuf::from);
    let found = folder.join("corpus.json").is_file();
    if !found {
        skip(&format!("no ClientHello corpus in {} (SNIGATE_CORPUS names another folder)", folder.display()));
    }
    found.then_some(folder)
}

/// Says that the current test, or a part of it, is skipped.
pub fn skip(why: &str) {
    let line = format!("skipped: {}: {why}\n", thread::current().name().unwrap_or_default());
    // Not `eprintln!`: the test runner keeps that to itself when a test passes.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// What a program left behind.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end with `input` as its standard input; one that does not end in time is killed, and the test
/// fails.
pub fn run(command: &mut Command, input: &str) -> Run {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    // A program that does not read its input is free to do so.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let status = wait_for_exit(&mut child);
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let status = status.unwrap_or_else(|| panic!("{command:?} ran for {PATIENCE:?}\n{stdout}\n{stderr}"));
    Run { status, stdout, stderr }
}

/// Waits for a child's end; kills it when it takes too long.
pub fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                return None;
            }
        }
    }
}

fn collect(mut source: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
