//! What the package is made of: licences and doubled crates of what is shipped, and the order of its own layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Licences that may be shipped, as SPDX names.
const LICENCES: &[&str] = &["Apache-2.0", "MIT", "BSD-3-Clause", "ISC", "Unicode-3.0", "Unlicense", "Zlib"];

/// Crates that are there in two versions, and why that cannot be helped.
const DOUBLED: &[(&str, &str)] = &[
    ("getrandom", "0.2 of ring, 0.4 of hickory-resolver's rand"),
    ("rand", "0.10 of hickory-resolver; 0.8 builds a table of tls-parser and is not shipped"),
    ("rand_core", "as rand"),
    ("syn", "build time only: derive macros are moving from 1 to 2 to 3 at their own pace"),
    ("synstructure", "as syn"),
];

/// Crates that must never be shipped: C libraries of TLS, and what leads to them.
const FORBIDDEN: &[&str] = &["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "aws-lc-fips-sys"];

/// The modules from the bottom up, as in the picture in `lib.rs`: each imports only from those before it.
const LAYERS: &[&str] = &[
    "outcome",
    "server_name",
    "hello",
    "proxy_protocol",
    "routing",
    "config",
    "power",
    "supervisor",
    "watchdog",
    "observe",
    "limits",
    "upstream",
    "snapshot",
    "relay",
    "connection",
    "revocation",
    "crew",
    "drain",
    "given",
    "upgrade",
    "listener",
    "worker",
    "reload",
    "control",
    "server",
    "admin",
    "cli",
];

/// Lines a source file may have before its tests.
const LONGEST_FILE: usize = 320;

/// What is shipped or runs while building it: name and version → licence expression.
///
/// `cargo tree` for this, not `cargo metadata`: that one mixes in what only the tests want of a crate.
fn shipped() -> BTreeMap<(String, String), String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal,build", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"])
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let shipped: BTreeMap<_, _> = tree
        .lines()
        .map(|line| {
            let (package, licence) = line.split_once('|').unwrap();
            let (name, version) = package.split_once(" v").unwrap();
            let version = version.split(' ').next().unwrap();
            ((name.to_owned(), version.to_owned()), licence.to_owned())
        })
        .collect();
    assert!(shipped.keys().any(|(name, _)| name == "tokio"), "{tree}");
    shipped
}

/// Whether an SPDX expression can be met with the allowed licences: `OR` (and the old `/`) needs one, `AND` all.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.trim();
    // No expression here nests deeper than one pair of parentheses in an AND.
    let alternatives = |part: &str| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')').replace('/', " OR ");
        part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim()))
    };
    if expression.contains('(') || !expression.contains(" OR ") {
        expression.split(" AND ").all(alternatives)
    } else {
        !expression.contains(" AND ") && alternatives(expression)
    }
}

#[test]
fn licence_expressions_are_read_right() {
    for (expression, allowed) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT/Apache-2.0", true),
        ("Apache-2.0 AND ISC", true),
        ("Apache-2.0 AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND OpenSSL", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}

#[test]
fn every_shipped_crate_has_an_allowed_licence() {
    for (package, licence) in shipped() {
        assert!(is_allowed(&licence), "{package:?} has the licence {licence:?}");
    }
}

#[test]
fn no_crate_is_shipped_twice_but_the_listed_ones() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, version) in shipped().into_keys() {
        versions.entry(name).or_default().push(version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let listed: Vec<&str> = DOUBLED.iter().map(|(name, _)| *name).collect();
    assert_eq!(versions.keys().collect::<Vec<_>>(), listed, "{versions:?}");
}

#[test]
fn no_c_library_of_tls_is_shipped() {
    let shipped = shipped();
    for name in FORBIDDEN {
        let found = shipped.keys().any(|(shipped, _)| shipped == name);
        assert!(!found, "{name} is in the tree: `cargo tree -i {name}` says why");
    }
}

/// Every Rust file under `src`, with the part of its text before its tests.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("tests.rs") || path.ends_with("tests") {
                // `#[cfg(test)] mod tests;`: nothing that is shipped.
            } else if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let before_tests = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
    };
    files.iter().map(|path| (path.strip_prefix(&root).unwrap().to_owned(), before_tests(path))).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|&listed| listed == module)
}

/// The top-level module a file belongs to.
fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").map(str::to_owned).unwrap_or(first)
}

/// The top-level modules that a text names as `crate::module`, also in groups: `crate::{one::A, two}`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let word = |text: &str| {
        text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
    };
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        match code[at + path.len()..].strip_prefix('{') {
            None => {
                found.insert(word(&code[at + path.len()..]));
            }
            Some(group) => {
                let (mut depth, mut begins) = (0, true);
                for (index, c) in group.char_indices() {
                    if begins && !c.is_whitespace() {
                        found.insert(word(&group[index..]));
                        begins = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ => {}
                    }
                }
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn imports_are_found() {
    for (text, expected) in [
        ("use crate::hello::Sni;", &["hello"][..]),
        ("use crate::{hello::{alert, Sni}, outcome,\n    routing::Route};", &["hello", "outcome", "routing"]),
        ("let x = crate::config::Config::parse(text);", &["config"]),
        ("// use crate::server;\n/// [`crate::server`]", &[]),
        ("$crate::x!()", &[]),
    ] {
        assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), expected, "{text}");
    }
}

#[test]
fn imports_go_downward_only() {
    let sources = sources();
    assert!(!sources.is_empty());
    for (file, text) in sources {
        let module = module_of(&file);
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let own = layer(&module).unwrap_or_else(|| panic!("{} is in no layer: add it to the list", file.display()));
        for import in imports(&text) {
            let other = layer(&import).unwrap_or_else(|| panic!("{}: no layer has crate::{import}", file.display()));
            assert!(
                import == module || other < own,
                "{} imports crate::{import}, which is not below it",
                file.display()
            );
        }
    }
}

#[test]
fn no_source_file_grows_long() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines before its tests", file.display());
    }
}
