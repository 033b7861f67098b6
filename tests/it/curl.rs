//! `curl` through the gate: by name, and by bare address.

use crate::support::certs::{Authority, Identity};
use crate::support::gate::{Gate, routing};
use crate::support::tls::Service;
use crate::support::tools::{self, Run};
use std::path::Path;
use std::process::Command;

/// curl's own code for "a problem occurred somewhere in the TLS handshake".
const TLS_CONNECT_ERROR: i32 = 35;

fn get(curl: &Path, authority: &Authority, gate: &Gate, url: &str, user: Option<&Identity>) -> Run {
    let mut command = Command::new(curl);
    // Without its configuration file, and without a proxy that the environment may name.
    command.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--cacert"]).arg(authority.file());
    command.arg("--connect-to").arg(format!("::{}", gate.address())).arg(url);
    if let Some(user) = user {
        command.arg("--cert").arg(&user.certificate_file).arg("--key").arg(&user.key_file);
    }
    tools::run(&mut command, "")
}

#[test]
fn by_name() {
    let Some(curl) = tools::require("curl") else { return };
    let authority = Authority::new();
    let user = authority.client("jane", "readers");
    let one = Service::http(&authority.server(&["one.test"]), "this is one").start();
    let two_identity = authority.server(&["*.two.test"]);
    let two = Service { clients: Some(authority.roots()), ..Service::http(&two_identity, "this is two") }.start();
    let gate = Gate::start(&routing([("one.test", one.address()), ("*.two.test", two.address())]));

    let run = get(&curl, &authority, &gate, "https://one.test/", None);
    assert!(run.status.success() && run.stdout == "this is one", "{run:?}");
    let run = get(&curl, &authority, &gate, "https://any.two.test/", Some(&user));
    assert!(run.status.success() && run.stdout == "this is two", "{run:?}");
    assert_eq!(two.facts(0).client_certificate.as_ref(), Some(&user.certificate));

    let run = get(&curl, &authority, &gate, "https://three.test/", None);
    assert_eq!(run.status.code(), Some(TLS_CONNECT_ERROR), "{run:?}");
    assert!(run.stderr.contains("unrecognized name"), "{run:?}");
    assert_eq!((one.upstream.visits().len(), two.upstream.visits().len()), (1, 1));
}

#[test]
fn by_bare_address() {
    let Some(curl) = tools::require("curl") else { return };
    let authority = Authority::new();
    let server = Service::http(&authority.server(&["127.0.0.1"]), "this is 127.0.0.1").start();
    let listener = "listeners: [{ address: \"127.0.0.1:0\" }]";
    let upstreams = format!("upstreams: {{ only: {{ endpoints: [\"{}\"] }} }}", server.address());

    let gate = Gate::start(&format!(
        "{listener}\nroutes: [{{ name: nameless, no_server_name: true, upstream: only }}]\n{upstreams}\n"
    ));
    let url = format!("https://{}/", gate.address());
    let run = get(&curl, &authority, &gate, &url, None);
    assert!(run.status.success() && run.stdout == "this is 127.0.0.1", "{run:?}");
    assert_eq!(server.facts(0).server_name, None);
    assert_eq!(gate.log.line(0)["route"], "nameless");

    let gate =
        Gate::start(&format!("{listener}\nroutes: [{{ server_names: [a.test], upstream: only }}]\n{upstreams}\n"));
    let run = get(&curl, &authority, &gate, &format!("https://{}/", gate.address()), None);
    assert_eq!(run.status.code(), Some(TLS_CONNECT_ERROR), "{run:?}");
    assert_eq!(gate.log.line(0)["reason"], "no_server_name");
    assert_eq!(server.upstream.visits().len(), 1);
}
