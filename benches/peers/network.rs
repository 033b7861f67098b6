//! A network of its own, where the machine lets us: no ports of others, and the congestion control that Linux has by
//! default. With BBR, which paces what it sends, a loopback measures the timers of the machine.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use socket2::SockRef;

/// Set for the program once it is in its own network.
const INSIDE: &str = "SNIGATE_PEERS_INSIDE";
const CONGESTION: &str = "cubic";

/// Moves into a network of its own by starting this program anew there. Returns where there can be none.
pub(crate) fn enter(args: &[OsString]) {
    if std::env::var_os(INSIDE).is_some() {
        if let Err(error) = set_up() {
            eprintln!("the loopback of the network namespace is not as it should be: {error}");
        }
        return;
    }
    match run("unshare", &["--net", "true"]).and_then(|()| std::env::current_exe()) {
        Ok(program) => {
            let error = Command::new("unshare").arg("--net").arg(program).args(args).env(INSIDE, "1").exec();
            eprintln!("no network of its own: {error}");
        }
        Err(error) => eprintln!("no network of its own, which takes root and unshare(1): {error}"),
    }
}

fn set_up() -> io::Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    for network in ["127.0.0.0/8", "127.0.0.1"] {
        let route = format!("route replace local {network} dev lo table local scope host src 127.0.0.1 proto kernel");
        let mut args: Vec<&str> = route.split(' ').collect();
        args.extend(["congctl", CONGESTION]);
        run("ip", &args)?;
    }
    Ok(())
}

fn run(program: &str, args: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// What decides on loopback how much is sent when.
pub(crate) fn congestion_control() -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let name = SockRef::from(&stream).tcp_congestion()?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}
