//! Decisions of made-up configurations, beside those of the simplest reading of HAProxy's rules.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::hello::Sni;
use crate::routing::Decision;

/// A condition on the name or the source.
#[derive(Clone, Debug)]
enum Test {
    Exact(&'static str),
    End(&'static str),
    Beginning(&'static str),
    Anywhere(&'static str),
    Found,
    Source(&'static str),
}

/// Terms that must all hold, some turned around.
type Group = Vec<(bool, Test)>;

#[derive(Clone, Debug)]
enum Rule {
    Reject(Vec<Group>),
    Accept(Vec<Group>),
    Use(usize, bool, Vec<Group>),
    Map(Vec<(&'static str, usize)>),
}

const NAMES: [&str; 9] =
    ["a.test", "b.a.test", "c.b.a.test", "nota.test", "test", "x.other.test", "kube.a.test", "elsewhere", "xa.test"];
const SOURCES: [&str; 5] = ["10.0.0.1", "10.1.2.3", "192.0.2.7", "2001:db8::1", "2001:db8:1::1"];
const BACKENDS: usize = 4;

impl Test {
    fn holds(&self, name: Option<&str>, source: IpAddr) -> bool {
        match self {
            Self::Exact(text) => name == Some(text),
            Self::End(text) => name.is_some_and(|name| name.ends_with(text)),
            Self::Beginning(text) => name.is_some_and(|name| name.starts_with(text)),
            Self::Anywhere(text) => name.is_some_and(|name| name.contains(text)),
            Self::Found => name.is_some(),
            Self::Source(network) => network.parse::<ipnet::IpNet>().unwrap().contains(&source),
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Exact(text) => format!("req.ssl_sni -i {text}"),
            Self::End(text) => format!("req.ssl_sni -i -m end {text}"),
            Self::Beginning(text) => format!("req.ssl_sni -m beg {text}"),
            Self::Anywhere(text) => format!("req.ssl_sni -m sub {text}"),
            Self::Found => "req.ssl_sni -m found".to_owned(),
            Self::Source(network) => format!("src {network}"),
        }
    }
}

fn holds(groups: &[Group], name: Option<&str>, source: IpAddr) -> bool {
    groups.iter().any(|group| group.iter().all(|(negated, test)| test.holds(name, source) != *negated))
}

fn written(groups: &[Group]) -> String {
    let term = |(negated, test): &(bool, Test)| format!("{}{{ {} }}", if *negated { "!" } else { "" }, test.written());
    let group = |group: &Group| group.iter().map(term).collect::<Vec<_>>().join(" ");
    groups.iter().map(group).collect::<Vec<_>>().join(" or ")
}

/// Where these rules lead, read as HAProxy reads them.
fn expected(rules: &[Rule], default: Option<usize>, name: Option<&str>, source: IpAddr) -> Option<usize> {
    let admission = rules.iter().find_map(|rule| match rule {
        Rule::Accept(groups) if holds(groups, name, source) => Some(true),
        Rule::Reject(groups) if holds(groups, name, source) => Some(false),
        _ => None,
    });
    if admission == Some(false) {
        return None;
    }
    for rule in rules {
        match rule {
            Rule::Use(backend, unless, groups) if holds(groups, name, source) != *unless => return Some(*backend),
            Rule::Map(entries) => {
                let found = name.and_then(|name| entries.iter().find(|(end, _)| name.ends_with(end)));
                return found.map(|(_, backend)| *backend).or(default);
            }
            _ => {}
        }
    }
    default
}

fn configuration(rules: &[Rule], default: Option<usize>) -> (String, Files) {
    let (mut lines, mut files) =
        (vec!["frontend f".to_owned(), "mode tcp".to_owned(), "bind :443".to_owned()], Files::new());
    for (number, rule) in rules.iter().enumerate() {
        lines.push(match rule {
            Rule::Reject(groups) => format!("tcp-request content reject if {}", written(groups)),
            Rule::Accept(groups) => format!("tcp-request content accept if {}", written(groups)),
            Rule::Use(backend, unless, groups) => {
                format!("use_backend b{backend} {} {}", if *unless { "unless" } else { "if" }, written(groups))
            }
            Rule::Map(entries) => {
                let text = entries.iter().map(|(end, backend)| format!("{end} b{backend}\n")).collect();
                files.insert(format!("m{number}"), text);
                format!("use_backend %[req.ssl_sni,lower,map_end(m{number})]")
            }
        });
    }
    lines.extend(default.map(|backend| format!("default_backend b{backend}")));
    for backend in 0..BACKENDS {
        lines.extend([format!("backend b{backend}"), "mode tcp".to_owned(), format!("server s 10.9.9.{backend}:1")]);
    }
    (lines.join("\n"), files)
}

fn group(parts: bool) -> impl Strategy<Value = Group> {
    let exact = prop_oneof![
        3 => select(&NAMES[..]).prop_map(Test::Exact),
        3 => select(&[".test", ".a.test", ".b.a.test", ".other.test"][..]).prop_map(Test::End),
        1 => Just(Test::Found),
        2 => select(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32", "0.0.0.0/0"][..]).prop_map(Test::Source),
    ];
    let part = prop_oneof![
        select(&["a.test", "test", "other.test"][..]).prop_map(Test::End),
        select(&["kube", "a.", "not"][..]).prop_map(Test::Beginning),
        select(&["a.te", "b.a", "x"][..]).prop_map(Test::Anywhere),
    ];
    let test = if parts { prop_oneof![2 => exact, 1 => part].boxed() } else { exact.boxed() };
    vec((any::<bool>(), test), 1..3)
}

fn rules(parts: bool) -> impl Strategy<Value = (Vec<Rule>, Option<usize>)> {
    let groups = move || vec(group(parts), 1..3);
    let ends = select(&[".a.test", ".b.a.test", ".test", ".other.test"][..]);
    let rule = prop_oneof![
        1 => groups().prop_map(Rule::Reject),
        1 => groups().prop_map(Rule::Accept),
        6 => (0..BACKENDS, any::<bool>(), groups()).prop_map(|(backend, unless, groups)| Rule::Use(backend, unless, groups)),
        1 => vec((ends, 0..BACKENDS), 1..4).prop_map(Rule::Map),
    ];
    (vec(rule, 0..6), proptest::option::of(0..BACKENDS))
}

/// The backend that the import leads a client to. Whatever is left out keeps the configuration from loading only if
/// nothing is left at all.
fn decided(config: Option<&Config>, name: Option<&str>, source: IpAddr) -> Option<usize> {
    let config = config?;
    let sni = name.map_or(Sni::Absent, |name| Sni::from_wire(name.as_bytes()));
    match config.listeners[0].table.decide(&sni, &[], source) {
        Decision::Route(route) => route.upstream_name.strip_prefix('b').and_then(|number| number.parse().ok()),
        Decision::Refuse(_) => None,
    }
}

fn import(rules: &[Rule], default: Option<usize>) -> (String, Option<Config>) {
    let (text, files) = configuration(rules, default);
    let source = Source { name: "x", text: &text, folder: "/", files: &files, environment: &|_| None };
    let table = translate(&source).unwrap();
    let yaml = table.to_string();
    let config = match table.routes() {
        (0, _) => None,
        _ => Some(Config::parse(&yaml).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}\n{yaml}"))),
    };
    (format!("{text}\n{yaml}"), config)
}

fn clients() -> impl Iterator<Item = (Option<&'static str>, IpAddr)> {
    let names = NAMES.into_iter().map(Some).chain([None]);
    names.flat_map(|name| SOURCES.map(|source| (name, source.parse().unwrap())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What patterns can say is said exactly.
    #[test]
    fn whole_names_and_ends_decide_as_in_haproxy((rules, default) in rules(false)) {
        let (told, config) = import(&rules, default);
        for (name, source) in clients() {
            let decided = decided(config.as_ref(), name, source);
            prop_assert_eq!(decided, expected(&rules, default, name, source), "{:?} {}\n{}", name, source, told);
        }
    }

    /// What they cannot say is left out: nobody is ever led where HAProxy would not have led him.
    #[test]
    fn parts_of_names_never_lead_elsewhere((rules, default) in rules(true)) {
        let (told, config) = import(&rules, default);
        for (name, source) in clients() {
            let decided = decided(config.as_ref(), name, source);
            let right = expected(&rules, default, name, source);
            prop_assert!(decided.is_none() || decided == right, "{:?} {} {:?} {:?}\n{}", name, source, decided, right, told);
        }
    }
}

fn translated(text: &str) -> Result<Table, Vec<Mistake>> {
    translate(&Source { name: "x", text, folder: "/", files: &Files::new(), environment: &|_| None })
}

#[test]
fn every_line_is_carried_over_or_told_of() {
    let text = "global\n unheard of\nfrontend f\n mode tcp\n bind :1\n rubbish here\n default_backend b\nbackend b\n \
                other rubbish\n server s 10.0.0.1:1 nonsense\n";
    let lines: Vec<usize> = translated(text).unwrap().notes.iter().map(|note| note.line).collect();
    // Of the socket, it is told what it no longer takes.
    assert_eq!(lines, [2, 5, 6, 9, 10]);
}

#[test]
fn mistakes_name_their_lines_and_all_of_them_are_told() {
    let text = "frontend f\n bind :1\n use_backend a if nothing\n use_backend gone if TRUE\n default_backend gone\n";
    let mistakes = translated(text).unwrap_err();
    let lines: Vec<usize> = mistakes.iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [3, 3, 4, 5], "{mistakes:?}");
}

#[test]
fn passwords_do_not_reach_comments() {
    let text = "userlist u\n user a password SECRET\nfrontend f\n mode tcp\n bind :1\n stats auth a:SECRET\n default_backend b\n\
                backend b\n server s 10.0.0.1:1\n";
    let yaml = translated(text).unwrap().to_string();
    assert!(yaml.contains("`stats auth …`") && yaml.contains("`userlist u`"), "{yaml}");
    assert!(!yaml.contains("SECRET"), "{yaml}");
}

#[test]
fn files_are_found_in_maps_and_conditions() {
    let text = "frontend f\n bind :1\n acl a src -f nets\n use_backend %[req.ssl_sni,lower,map_end(ends,x)] if { req.ssl_sni -M -f m }\n";
    let named = files_named(text, &|_| None).unwrap();
    assert_eq!(named, [(3, "nets".to_owned()), (4, "m".to_owned()), (4, "ends".to_owned())]);
}

#[test]
fn whom_haproxy_kept_out_is_not_let_in() {
    let front = "frontend f\n mode http\n bind :1 ssl crt x\n default_backend b\n";
    let back = "backend b\n mode http\n server s 10.0.0.1:1 ssl verify none\n";
    assert_eq!(translated(&format!("{front}{back}")).unwrap().routes(), (1, 0));
    for (what, text) in [
        ("a client certificate", format!("{front}{back}").replace("crt x", "crt x ca-file y verify required")),
        ("a password", format!("{front} http-request auth unless {{ http_auth(u) }}\n{back}")),
        ("a header", format!("{front} http-request deny unless {{ hdr(x) y }}\n{back}")),
        ("an old rule", format!("{front} reqdeny ^X\n{back}")),
        ("a rule of the backend", format!("{front}{back} http-request deny if {{ path /x }}\n")),
        ("an interface", format!("{front}{back}").replace("crt x", "crt x interface eth0")),
        ("no weight", format!("{front}{back}").replace("verify none", "verify none weight 0")),
        ("a disabled server", format!("{front}{back}").replace("verify none", "verify none disabled")),
        ("a disabled frontend", format!("{front} disabled\n{back}")),
        ("plain HTTP", format!("{front}{back}").replace("ssl crt x", "")),
        ("a server without TLS", format!("{front}{back}").replace("ssl verify none", "")),
        ("nobody at all", format!("{front} tcp-request connection reject\n{back}")),
    ] {
        let table = translated(&text).unwrap();
        assert_eq!(table.routes().0, 0, "{what}\n{table}");
        assert!(!table.notes.is_empty() || what == "nobody at all", "{what}\n{table}");
    }
}

#[test]
fn sockets_without_tls_are_left_out_of_a_frontend_that_has_some_with_it() {
    let text = "frontend f\n mode http\n bind :80\n bind :443 ssl crt x\n http-request redirect scheme https unless { ssl_fc }\n \
                default_backend b\nbackend b\n mode http\n server s 10.0.0.1:1 ssl verify none\n";
    let table = translated(text).unwrap();
    assert_eq!((table.parts().0, table.routes()), (1, (1, 0)), "{table}");
    assert!(table.notes.iter().any(|note| note.line == 3), "{table}");
}
