//! `--verify`: what it says, and that kubectl meets just that.

use super::{NAME, NAMES, Printer, Stage, configuration};
use crate::support::certs::{Authority, Identity};
use crate::support::gate::Gate;
use crate::support::tcp::{Refusing, Upstream};
use crate::support::tls::Service;
use std::fs;

const TAKES: &str = "server_names: [kube.example.com]";

#[test]
fn who_gets_through_is_told_so_and_gets_the_kubeconfig() {
    for (takes, host, arguments, sent, wanted) in [
        (TAKES, "127.0.0.1", &[][..], "server name kube.example.com", NAME),
        ("no_server_name: true", "127.0.0.1", &[], "no server name", "127.0.0.1"),
        ("server_names: [localhost]", "localhost", &[], "server name localhost", "localhost"),
        (
            "server_names: ['*.example.com']",
            "127.0.0.1",
            &["--server-name", "a.clusters.example.com"],
            "server name a.clusters.example.com",
            "a.clusters.example.com",
        ),
    ] {
        let Some(stage) = Stage::new(takes) else { return };
        let server = stage.server(host);
        let run = stage.printer.run(&[&["kube", "--server", &server, "--verify"], arguments].concat());
        assert!(run.status.success(), "{takes}: {}", run.stderr);
        let address = stage.gate.address();
        for line in [
            format!("{address}: kubectl would believe it"),
            format!("  sent         {sent}, protocols h2 and http/1.1"),
            "  certificate  CN=kube.example.com for kube.example.com, 127.0.0.1, *.clusters.example.com, localhost"
                .to_owned(),
            format!("  wanted       {wanted}: covered"),
            "  issued by    CN=snigate test authority".to_owned(),
            "  until        4096-01-01".to_owned(),
        ] {
            assert!(run.stderr.lines().any(|said| said == line), "{line}\n{}", run.stderr);
        }
        assert!(!run.stderr.contains("  authority ") && !run.stderr.contains("  warning "), "{}", run.stderr);
        assert_eq!(stage.pods(&run.stdout, "kube").stdout, "pod/first\n");
        assert_eq!(stage.gate.log.line(0)["alpn"], "h2,http/1.1");
    }
}

/// A gate, what answers behind it, and what is said of it.
struct Case {
    takes: &'static str,
    /// What the route is believed to take.
    says: &'static str,
    identity: fn(&Authority) -> Identity,
    arguments: &'static [&'static str],
    /// Lines and parts of lines.
    told: &'static [&'static str],
    kubectl: &'static str,
}

const CASE: Case = Case {
    takes: TAKES,
    says: TAKES,
    identity: |authority| authority.server(NAMES),
    arguments: &[],
    told: &[],
    kubectl: "",
};

const CASES: &[Case] = &[
    Case {
        identity: |authority| authority.expired(NAMES),
        told: &[
            ": kubectl would refuse it: the certificate has expired\n",
            "\n  until        2020-01-01\n",
            "\n  wanted       kube.example.com: covered\n",
            "\n  warning      the certificate has expired, on 2020-01-01\n",
        ],
        kubectl: "x509: certificate has expired or is not yet valid",
        ..CASE
    },
    Case {
        takes: "server_names: [kube.example.com, other.example.com, '*.a.test']",
        says: "server_names: [kube.example.com, other.example.com, '*.a.test']",
        identity: |authority| authority.server(&["other.example.com", "*.b.a.test", "third.example.com"]),
        told: &[
            ": kubectl would refuse it: the certificate does not cover kube.example.com\n",
            "\n  wanted       kube.example.com: NOT covered\n",
            "\n  would work   tls-server-name other.example.com, *.b.a.test (any of these, by --server-name)\n",
        ],
        kubectl: "x509: certificate is valid for other.example.com, *.b.a.test, third.example.com, not kube.example.com",
        ..CASE
    },
    Case {
        takes: "no_server_name: true",
        says: "no_server_name: true",
        identity: |authority| authority.server(&[NAME]),
        told: &[
            ": kubectl would refuse it: the certificate does not cover 127.0.0.1\n",
            "\n  would work   no tls-server-name: route kube takes clients without a server name, and the certificate covers \
             none of that\n",
        ],
        kubectl: "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
        ..CASE
    },
    Case {
        identity: |authority| authority.self_signed(NAME),
        told: &[
            ": kubectl would refuse it: the certificate is signed by none of the authorities in ",
            "\n  wanted       kube.example.com: covered\n",
            ", which is itself\n",
            "\n  authority    not to be learnt here: an apiserver sends its own certificate alone. The cluster has it: ",
        ],
        kubectl: "x509: certificate signed by unknown authority",
        ..CASE
    },
    Case {
        identity: |_| Authority::new().server_with_authority(NAMES),
        told: &[
            ": kubectl would refuse it: the certificate is signed by none of the authorities in ",
            "\n  came along   CN=snigate test authority, SHA-256 ",
            "\n  authority    not to be learnt here: whoever answers can send whatever they like. Compare the SHA-256",
        ],
        kubectl: "x509: certificate signed by unknown authority",
        ..CASE
    },
    Case {
        says: "server_names: [kube.example.com, new.example.com]",
        arguments: &["--server-name", "new.example.com"],
        told: &[
            ": refused with the alert unrecognized_name: by the configuration that is in force there, no route takes \
             new.example.com, or none takes it from this host's address",
        ],
        kubectl: "remote error: tls: unrecognized name",
        ..CASE
    },
    Case {
        says: "no_server_name: true",
        told: &[
            "note: kubectl sends no server name to an address: the certificate must cover 127.0.0.1 itself\n",
            ": refused with the alert unrecognized_name: by the configuration that is in force there, no route takes clients \
             without a name, or",
        ],
        kubectl: "remote error: tls: unrecognized name",
        ..CASE
    },
    Case {
        takes: "server_names: [kube.example.com], alpn: [imap]",
        told: &[
            ": refused with the alert no_application_protocol: the route, or the server, takes neither h2 nor http/1.1\n",
        ],
        kubectl: "remote error: tls: no application protocol",
        ..CASE
    },
];

#[test]
fn what_kubectl_stumbles_over_is_told_before_and_nothing_is_printed() {
    for case in CASES {
        let Some(stage) = Stage::of(case.takes, case.says, case.identity) else { return };
        let server = stage.server("127.0.0.1");
        let arguments = [&["kube", "--server", &server], case.arguments].concat();
        let run = stage.printer.run(&[&arguments[..], &["--verify", "--merge", "config"]].concat());
        for told in case.told {
            assert!(run.stderr.contains(told), "{told}\n{}", run.stderr);
        }
        assert_eq!((run.status.code(), run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        assert!(!stage.printer.file("config").exists());

        let run = stage.pods(&stage.printer.print(&arguments), "kube");
        assert!(run.stderr.contains(case.kubectl), "{}\n{}", case.kubectl, run.stderr);
        assert_eq!(run.stdout, "");
    }
}

/// What is said where this answers at the public address.
fn told(server: &str, keys: &str) -> String {
    let yaml =
        configuration(TAKES, "127.0.0.1:1".parse().unwrap(), "").replace("name: gate", &format!("name: gate{keys}"));
    let run = Printer::new(&yaml).run(&["kube", "--server", server, "--verify"]);
    assert_eq!((run.status.code(), run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    let line = run.stderr.lines().find(|line| line.starts_with(server));
    line.unwrap_or_else(|| panic!("{}", run.stderr)).replacen(server, "SERVER", 1)
}

#[test]
fn no_certificate_at_all_is_told_by_what_came_in_its_place() {
    let (refusing, plain) = (Refusing::new(), Upstream::answering(1, "220 mail.test ESMTP\r\n"));
    let resetting = Upstream::resetting(1);
    let down = Gate::start(&configuration(TAKES, refusing.address(), ""));
    let down = down.address().to_string();
    let passes = "so a gate refuses what may pass by itself, after which kubectl tries again: no endpoint is up or verified \
                  (`snigate check --probe` asks them), a limit is reached, it is being stopped";
    let quiet = "; so does listener gate with names and sources that no route takes";
    for (server, keys, expected) in [
        (down.clone(), "", format!("SERVER: closed without an alert: {passes}. Its log has the reason")),
        (down.clone(), ", reject: close", format!("SERVER: closed without an alert: {passes}{quiet}. Its log has the reason")),
        (
            down,
            ", proxy_protocol: { trusted: [127.0.0.1] }",
            "SERVER: closed without an alert: listener gate requires a PROXY header, which a balancer in front would send"
                .to_owned(),
        ),
        (
            resetting.address().to_string(),
            "",
            format!("SERVER: reset without an alert: {passes}. Its log has the reason"),
        ),
        (plain.address().to_string(), "", "SERVER: what answers there is no TLS".to_owned()),
        (
            refusing.address().to_string(),
            "",
            "SERVER: cannot be reached: Connection refused (os error 111)".to_owned(),
        ),
    ] {
        assert_eq!(told(&server, keys), expected);
    }
    assert!(told("nowhere.invalid:1", "").starts_with("SERVER: cannot be resolved: "));
}

#[test]
fn without_an_authority_those_of_the_system_are_tried_and_nobody_is_believed_without() {
    let authority = Authority::new();
    let identity = authority.server(NAMES);
    let server = Service { alpn: &["h2"], ..Service::echo(&identity) }.start();
    let printer = Printer::new(&configuration(TAKES, server.address(), ""));
    let address = server.address().to_string();
    let arguments = ["kube", "--server", &address, "--verify"];
    let run = printer.run(&arguments);
    let nobody = ": kubectl would refuse it: no authority is known, and this system has none to try\n";
    assert!(run.status.code() == Some(1) && run.stderr.contains(nobody), "{}", run.stderr);
    assert!(run.stderr.contains("\n  wanted       kube.example.com: covered\n"), "{}", run.stderr);
    fs::copy(Authority::new().file(), printer.file("system.pem")).unwrap();
    let run = printer.run(&arguments);
    let refused = ": kubectl would refuse it: the certificate is signed by none of the system's authorities\n";
    assert!(run.status.code() == Some(1) && run.stderr.contains(refused), "{}", run.stderr);
    fs::copy(authority.file(), printer.file("system.pem")).unwrap();
    let run = printer.run(&arguments);
    assert!(run.status.success() && !run.stdout.contains("certificate-authority"), "{}{}", run.stdout, run.stderr);
    assert_eq!(server.facts(0).alpn.as_deref(), Some("h2"));
}

#[test]
fn a_certificate_that_is_its_own_authority_is_believed_as_kubectl_believes_it() {
    for identity in [Authority::self_signed, Authority::self_signed_authority] {
        let takes = "server_names: [kube.example.com, other.example.com]";
        let Some(stage) = Stage::of(takes, takes, |authority| identity(authority, NAME)) else { return };
        let server = stage.server("127.0.0.1");
        let file = stage.authority.folder().join(format!("self-signed {NAME}.pem"));
        let arguments = ["kube", "--server", &server, "--ca-file", file.to_str().unwrap(), "--verify"];
        let printed = stage.printer.print(&arguments);
        let run = stage.pods(&printed, "kube");
        assert_eq!(run.stdout, "pod/first\n", "{}", run.stderr);
        let other = stage.printer.run(&[&arguments[..], &["--server-name", "other.example.com"]].concat());
        let told = ": kubectl would refuse it: the certificate does not cover other.example.com\n";
        assert!(other.status.code() == Some(1) && other.stderr.contains(told), "{}", other.stderr);
    }
}
