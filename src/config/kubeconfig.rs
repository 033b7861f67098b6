//! Kubeconfig files: what is written into one, and how it gets into a file that is there already.
//!
//! A file of somebody else's keeps all it has, comments and unknown keys too, so it is never written from its tree:
//! text is put in at one place, and the result is read again to prove that nothing else has changed by it. A file in
//! whose form no such place is found stays as it is.

use std::fmt;

use serde_yaml::{Mapping, Value};

use super::print::quoted;

/// An item of one of the lists that a kubeconfig has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `cluster` or `context`; the list is the plural.
    kind: &'static str,
    name: String,
    keys: Vec<(&'static str, String)>,
}

/// Why a file cannot be added to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotMerge {
    /// It is not YAML, or not one mapping with lists.
    #[error("is no kubeconfig: {0}")]
    NoKubeconfig(String),
    /// There is another of the same name.
    #[error("has a {kind} {name:?} already, which says something else: take another name, or remove that one")]
    Taken {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Nothing that was tried left the rest as it was.
    #[error(
        "is written in a form to which no {0} can be added without touching the rest: print it, and add it by hand"
    )]
    OddForm(&'static str),
}

impl Entry {
    /// A cluster: its API's URL, what is sent and verified in the place of the URL's host, and the authorities that are
    /// believed, as base64 over PEM.
    pub fn cluster(name: &str, server: String, tls_server_name: Option<String>, authorities: Option<String>) -> Self {
        let optional = [("tls-server-name", tls_server_name), ("certificate-authority-data", authorities)];
        let given = optional.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Self { kind: "cluster", name: name.to_owned(), keys: [("server", server)].into_iter().chain(given).collect() }
    }

    /// A context: a cluster and who one is there.
    pub fn context(name: &str, cluster: &str, user: &str) -> Self {
        let keys = [("cluster", cluster), ("user", user)].map(|(key, value)| (key, value.to_owned()));
        Self { kind: "context", name: name.to_owned(), keys: keys.into() }
    }

    fn list(&self) -> String {
        format!("{}s", self.kind)
    }

    fn value(&self) -> Value {
        let keys = self.keys.iter().map(|(key, value)| ((*key).into(), value.as_str().into())).collect::<Mapping>();
        let item = [("name", self.name.as_str().into()), (self.kind, keys.into())];
        item.into_iter().map(|(key, value): (&str, Value)| (key.into(), value)).collect::<Mapping>().into()
    }

    /// As an item of a list whose dashes stand behind `indent`, each line with this end.
    fn block(&self, indent: &str, end: &str) -> String {
        let name = format!("{indent}- name: {}{end}{indent}  {}:{end}", quoted(&self.name), self.kind);
        let keys = self.keys.iter().map(|(key, value)| format!("{indent}    {key}: {}{end}", quoted(value)));
        name + &keys.collect::<String>()
    }

    /// In braces and on one line, as it can stand in JSON too.
    fn flow(&self) -> String {
        let keys = self.keys.iter().map(|(key, value)| format!("\"{key}\": {}", json(value))).collect::<Vec<_>>();
        format!("{{\"name\": {}, \"{}\": {{{}}}}}", json(&self.name), self.kind, keys.join(", "))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, quoted(&self.name))
    }
}

/// A string that JSON and YAML both understand.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A kubeconfig with these entries and nothing else.
pub fn print(entries: &[Entry]) -> String {
    let lists = entries.iter().map(|entry| format!("{}:\n{}", entry.list(), entry.block("  ", "\n")));
    format!("apiVersion: v1\nkind: Config\n{}", lists.collect::<String>())
}

/// The text of a kubeconfig with these entries added. Those that are there already are left alone.
///
/// # Errors
/// Why that cannot be, in which case nothing should be written.
pub fn merge(text: &str, entries: &[Entry]) -> Result<String, CannotMerge> {
    entries.iter().try_fold(text.to_owned(), add)
}

fn add(text: String, entry: &Entry) -> Result<String, CannotMerge> {
    let tree = read(&text)?;
    let items = match tree.get(entry.list()) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Sequence(items)) => items.clone(),
        Some(_) => return Err(CannotMerge::NoKubeconfig(format!("`{}` is no list", entry.list()))),
    };
    let value = entry.value();
    if let Some(there) = items.iter().find(|item| item.get("name") == value.get("name")) {
        let same = *there == value;
        return if same { Ok(text) } else { Err(CannotMerge::Taken { kind: entry.kind, name: entry.name.clone() }) };
    }
    let mut wanted = tree;
    wanted.insert(entry.list().into(), [value].into_iter().chain(items).collect());
    let proven = |candidate: &String| read(candidate).is_ok_and(|tree| tree == wanted);
    candidates(&text, entry).into_iter().find(proven).ok_or(CannotMerge::OddForm(entry.kind))
}

fn read(text: &str) -> Result<Mapping, CannotMerge> {
    match serde_yaml::from_str(text) {
        Ok(Value::Mapping(tree)) => Ok(tree),
        // An empty file, to which kubectl adds too.
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(_) => Err(CannotMerge::NoKubeconfig("it is no mapping".to_owned())),
        Err(error) => Err(CannotMerge::NoKubeconfig(error.to_string())),
    }
}

/// Every text that may be the right one: the entry comes first in its list, so that comments stay with what they are about.
fn candidates(text: &str, entry: &Entry) -> Vec<String> {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let list = entry.list();
    let mut candidates = Vec::new();
    let mut begin = 0;
    for line in text.split_inclusive('\n') {
        let (before, after) = (&text[..begin], &text[begin + line.len()..]);
        begin += line.len();
        candidates.extend(below(line, &list).map(|head| {
            let block = entry.block(indent(after), end);
            format!("{before}{head}{end}{block}{after}")
        }));
    }
    for (at, _) in text.match_indices(&list) {
        let Some(value) = value_behind(text, at + list.len()) else { continue };
        let (before, after) = text.split_at(value);
        candidates
            .extend(after.strip_prefix('[').map(|rest| format!("{before}[{}{rest}", separated(entry, rest, ']'))));
        candidates.extend(after.strip_prefix("null").map(|rest| format!("{before}[{}]{rest}", entry.flow())));
    }
    // There is no such list yet.
    if let Some((before, rest)) = text.split_once('{') {
        let comma = if rest.trim_start().starts_with('}') { "" } else { ", " };
        candidates.push(format!("{before}{{\"{list}\": [{}]{comma}{rest}", entry.flow()));
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { end };
    candidates.push(format!("{text}{gap}{list}:{end}{}", entry.block("", end)));
    candidates
}

/// The line that begins this list at the outermost level as it is when an item follows: without an empty list behind it,
/// and with its comment.
fn below(line: &str, list: &str) -> Option<String> {
    let line = line.trim_end();
    let rest = line.strip_prefix('"').unwrap_or(line).strip_prefix(list)?;
    let rest = rest.strip_prefix('"').unwrap_or(rest).strip_prefix(':')?;
    let key = &line[..line.len() - rest.len()];
    let value = rest.trim_start();
    let comment = ["[]", "null", "~"].iter().find_map(|none| value.strip_prefix(none)).unwrap_or(value);
    let is_over = comment.is_empty() || comment.trim_start().starts_with('#');
    is_over.then(|| if comment.is_empty() { key.to_owned() } else { format!("{key} {}", comment.trim_start()) })
}

/// What stands before the dash of the next item.
fn indent(text: &str) -> &str {
    let is_said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let line = text.lines().find(is_said).unwrap_or_default();
    let rest = line.trim_start_matches(' ');
    if rest.starts_with('-') { &line[..line.len() - rest.len()] } else { "" }
}

/// Where the value begins whose key ends here.
fn value_behind(text: &str, key_end: usize) -> Option<usize> {
    let rest = &text[key_end..];
    let value = rest.strip_prefix('"').unwrap_or(rest).trim_start().strip_prefix(':')?.trim_start();
    Some(text.len() - value.len())
}

/// The entry before whatever follows in its list.
fn separated(entry: &Entry, rest: &str, closing: char) -> String {
    let is_last = rest.trim_start().starts_with(closing);
    if is_last { entry.flow() } else { format!("{}, ", entry.flow()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge() -> Entry {
        let names = ("https://203.0.113.10:6443".to_owned(), Some("kube.example.com".to_owned()));
        Entry::cluster("edge", names.0, names.1, Some("LS0t".to_owned()))
    }

    const BLOCK: &str = "\
- name: \"edge\"
  cluster:
    server: \"https://203.0.113.10:6443\"
    tls-server-name: \"kube.example.com\"
    certificate-authority-data: \"LS0t\"
";
    const FLOW: &str = r#"{"name": "edge", "cluster": {"server": "https://203.0.113.10:6443", "tls-server-name": "kube.example.com", "certificate-authority-data": "LS0t"}}"#;

    fn indented(indent: &str) -> String {
        BLOCK.lines().map(|line| format!("{indent}{line}\n")).collect()
    }

    #[test]
    fn a_new_file_is_whole() {
        let context = Entry::context("edge", "edge", "jane");
        let text = print(&[edge(), context.clone()]);
        let lists = [
            format!("clusters:\n{}", indented("  ")),
            "contexts:\n  - name: \"edge\"\n    context:\n      cluster: \"edge\"\n      user: \"jane\"\n".to_owned(),
        ];
        assert_eq!(text, format!("apiVersion: v1\nkind: Config\n{}", lists.concat()));
        assert_eq!(merge(&text, &[edge(), context]), Ok(text), "both are there");
        assert_eq!(merge("", &[edge()]).unwrap(), format!("clusters:\n{BLOCK}"));
    }

    #[test]
    fn a_list_gets_one_more_and_everything_else_stays() {
        for (before, after) in [
            ("a: 1\nclusters:\n", ["- name: b\n  cluster: {server: x}\n", "c: 2\n"].concat()),
            (
                "clusters: # all of them\n",
                "    # the first\n    - name: b # with words\n      odd: {}\n\n# end".to_owned(),
            ),
            ("clusters:\n", "\n\n  # - name: old\n  -\n    name: b\ncontexts: [ ]\n".to_owned()),
            ("# on top\n---\n\"clusters\":\n", "- {name: b, cluster: {server: '[]'}}\nx: |\n  clusters:\n".to_owned()),
            ("x: {clusters: [1], b: 'clusters: []'}\nclusters:\n", "kind: Config\n".to_owned()),
        ] {
            let merged = merge(&format!("{before}{after}"), &[edge()]).unwrap();
            let indent = if after.contains("    - ") {
                "    "
            } else if after.contains("  -\n") {
                "  "
            } else {
                ""
            };
            assert_eq!(merged, format!("{before}{}{after}", indented(indent)));
        }
    }

    #[test]
    fn lists_that_are_empty_absent_or_in_brackets_get_their_first_or_one_more() {
        let inner = &FLOW[1..FLOW.len() - 1];
        for (before, after) in [
            ("a: 1\nclusters: []\nb: 2\n", format!("a: 1\nclusters:\n{BLOCK}b: 2\n")),
            ("clusters: null # none yet", format!("clusters: # none yet\n{BLOCK}")),
            ("a: 1 # no end of line", format!("a: 1 # no end of line\nclusters:\n{BLOCK}")),
            ("# nothing\n", format!("# nothing\nclusters:\n{BLOCK}")),
            ("preferences: {}\n", format!("preferences: {{}}\nclusters:\n{BLOCK}")),
            ("clusters: [{name: b}]", format!("clusters: [{FLOW}, {{name: b}}]")),
            ("clusters: [\n  {name: b},\n]", format!("clusters: [{FLOW}, \n  {{name: b}},\n]")),
            ("{}", format!("{{\"clusters\": [{FLOW}]}}")),
            ("{\"a\": {}}", format!("{{\"clusters\": [{{{inner}}}], \"a\": {{}}}}")),
            ("{ \"clusters\" : [ ] }", format!("{{ \"clusters\" : [{FLOW} ] }}")),
            (
                "{\"b\": \"clusters: [\", \"clusters\": null}",
                format!("{{\"b\": \"clusters: [\", \"clusters\": [{FLOW}]}}"),
            ),
            (
                "a: 1\r\nclusters:\r\n- name: b\r\n",
                format!("a: 1\r\nclusters:\r\n{}- name: b\r\n", BLOCK.replace('\n', "\r\n")),
            ),
        ] {
            assert_eq!(merge(before, &[edge()]).unwrap(), after, "{before}");
        }
    }

    #[test]
    fn what_cannot_be_added_to_is_told_apart() {
        let told = |text: &str| merge(text, &[edge()]).unwrap_err().to_string();
        let taken = "has a cluster \"edge\" already, which says something else: take another name, or remove that one";
        assert_eq!(told("clusters:\n- name: edge\n  cluster: {server: 'https://other'}\n"), taken);
        let changed = format!("clusters:\n{}", BLOCK.replace("    server", "    proxy-url: x\n    server"));
        assert_eq!(told(&changed), taken);
        for text in ["clusters: 1", "clusters: {}", "[]", "text", "a: [", "a: 1\n---\nb: 2\n", "a: 1\na: 2\n"] {
            assert!(told(text).starts_with("is no kubeconfig: "), "{text}: {}", told(text));
        }
        // An anchor: who else refers to the list would get the entry too.
        let odd = "is written in a form to which no cluster can be added without touching the rest: print it, and add it by hand";
        assert_eq!(told("clusters: &all\n- name: b\nmine: *all\n"), odd);
        assert_eq!(told("a: 1\n...\n"), odd);
    }

    #[test]
    fn names_are_quoted_as_they_need_it() {
        let name = "*.kube \"x\"\u{e9}: # \\";
        for text in ["", "{}"] {
            let merged = merge(text, &[Entry::context(name, "null", "1")]).unwrap();
            let tree: Value = serde_yaml::from_str(&merged).unwrap();
            let item = &tree["contexts"][0];
            let found = [&item["name"], &item["context"]["cluster"], &item["context"]["user"]]
                .map(|value| value.as_str().unwrap());
            assert_eq!(found, [name, "null", "1"], "{merged}");
        }
    }
}
