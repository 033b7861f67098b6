//! Text → sections of lines of words, and what each frontend and backend inherits from `defaults`.

use std::collections::HashMap;

use super::words::{self, Environment};

/// A line that is not empty, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// At least one.
    pub(super) words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Global,
    Defaults,
    Frontend,
    Backend,
    Listen,
    Resolvers,
    /// What has nothing to do with where connections go.
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) head: Line,
    pub(super) lines: Vec<Line>,
}

/// A frontend, a backend or both, with the lines of its defaults before its own.
#[derive(Clone, Debug)]
pub(super) struct Proxy<'s> {
    pub(super) kind: Kind,
    pub(super) name: &'s str,
    pub(super) head: &'s Line,
    pub(super) lines: Vec<&'s Line>,
}

/// Something that makes the file unreadable as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which line, counted from 1.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub message: String,
}

const KINDS: [(&str, Kind); 21] = [
    ("global", Kind::Global),
    ("defaults", Kind::Defaults),
    ("frontend", Kind::Frontend),
    ("backend", Kind::Backend),
    ("listen", Kind::Listen),
    ("resolvers", Kind::Resolvers),
    ("userlist", Kind::Other),
    ("peers", Kind::Other),
    ("mailers", Kind::Other),
    ("cache", Kind::Other),
    ("program", Kind::Other),
    ("http-errors", Kind::Other),
    ("ring", Kind::Other),
    ("fcgi-app", Kind::Other),
    ("log-forward", Kind::Other),
    ("log-profile", Kind::Other),
    ("crt-store", Kind::Other),
    ("acme", Kind::Other),
    ("traces", Kind::Other),
    ("ruleset", Kind::Other),
    ("namespace_list", Kind::Other),
];

impl Line {
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map(String::as_str).unwrap_or_default()
    }

    /// The word at this place, the keyword being at 0; empty if there is none.
    pub(super) fn word(&self, place: usize) -> &str {
        self.words.get(place).map(String::as_str).unwrap_or_default()
    }

    /// Whether the line begins with these words.
    pub(super) fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(place, word)| self.word(place) == *word)
    }
}

impl Section {
    /// Its own name, where it has one.
    fn name(&self) -> Option<&str> {
        self.head.words.get(1).map(String::as_str).filter(|word| *word != "from")
    }

    /// The defaults that it names.
    fn from(&self) -> Option<&str> {
        let from = self.head.words.iter().position(|word| word == "from")?;
        self.head.words.get(from + 1).map(String::as_str)
    }
}

/// Reads the sections of a whole file.
///
/// # Errors
/// Every line that cannot be read.
pub(super) fn read(text: &str, environment: &Environment<'_>) -> Result<Vec<Section>, Vec<Mistake>> {
    let (mut sections, mut mistakes): (Vec<Section>, _) = (Vec::new(), Vec::new());
    let mut set: HashMap<String, String> = HashMap::new();
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let mut wrong = |message: String| mistakes.push(Mistake { line: number, message });
        let words = match words::split(text, &|name| set.get(name).cloned().or_else(|| environment(name))) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => words,
            Err(message) => {
                wrong(message);
                continue;
            }
        };
        let line = Line { number, words };
        let kind = KINDS.iter().find(|(word, _)| *word == line.keyword());
        match (kind, sections.last_mut()) {
            _ if line.keyword().starts_with('.') => wrong(format!(
                "`{}` chooses between lines when HAProxy starts: keep the lines that hold, and leave the directives out",
                line.keyword()
            )),
            (Some((_, kind)), _) => sections.push(Section { kind: *kind, head: line, lines: Vec::new() }),
            (None, Some(section)) => {
                if section.kind == Kind::Global && matches!(line.keyword(), "setenv" | "presetenv") {
                    set.insert(line.word(1).to_owned(), line.word(2).to_owned());
                }
                section.lines.push(line);
            }
            (None, None) => wrong(format!(
                "`{}` stands before the first section: is this the configuration of an HAProxy?",
                line.keyword()
            )),
        }
    }
    if mistakes.is_empty() { Ok(sections) } else { Err(mistakes) }
}

/// The frontends and backends, each with what it inherits.
///
/// # Errors
/// Defaults that do not exist, and names that are missing or taken.
pub(super) fn proxies(sections: &[Section]) -> Result<Vec<Proxy<'_>>, Vec<Mistake>> {
    let (mut proxies, mut mistakes): (Vec<Proxy<'_>>, _) = (Vec::new(), Vec::new());
    for (place, section) in sections.iter().enumerate() {
        if !matches!(section.kind, Kind::Frontend | Kind::Backend | Kind::Listen) {
            continue;
        }
        let mut wrong = |message: String| mistakes.push(Mistake { line: section.head.number, message });
        let Some(name) = section.name() else {
            wrong(format!("this `{}` has no name: give it one", section.head.keyword()));
            continue;
        };
        let serves = |kind| matches!(kind, Kind::Backend | Kind::Listen);
        let same = |other: &&Proxy<'_>| other.name == name && serves(other.kind) == serves(section.kind);
        if let Some(other) = proxies.iter().find(same) {
            wrong(format!("`{name}` is the name of line {} too: give one of them another", other.head.number));
        }
        match inherited(section, &sections[..place]) {
            Ok(mut lines) => {
                lines.extend(&section.lines);
                proxies.push(Proxy { kind: section.kind, name, head: &section.head, lines });
            }
            Err(message) => wrong(message),
        }
    }
    if mistakes.is_empty() { Ok(proxies) } else { Err(mistakes) }
}

/// The lines of the defaults that hold for `section`: those that it names, else the last before it.
fn inherited<'s>(section: &Section, before: &'s [Section]) -> Result<Vec<&'s Line>, String> {
    let defaults = |other: &Section| other.kind == Kind::Defaults;
    let found = match section.from() {
        Some(name) => {
            let found = before.iter().rposition(|other| defaults(other) && other.name() == Some(name));
            Some(found.ok_or_else(|| format!("there is no `defaults {name}` before this line: write its name right"))?)
        }
        // Only frontends and backends take defaults without asking.
        None if section.kind == Kind::Defaults => None,
        None => before.iter().rposition(defaults),
    };
    let Some(place) = found else { return Ok(Vec::new()) };
    let mut lines = inherited(&before[place], &before[..place])?;
    lines.extend(&before[place].lines);
    Ok(lines)
}

impl<'s> Proxy<'s> {
    /// The last line that begins with these words: it holds, and others before it do not.
    pub(super) fn last(&self, words: &[&str]) -> Option<&'s Line> {
        self.lines.iter().copied().rfind(|line| line.begins(words))
    }

    /// Every line that begins with these words.
    pub(super) fn all(&self, words: &[&str]) -> impl Iterator<Item = &'s Line> {
        self.lines.iter().copied().filter(|line| line.begins(words))
    }

    /// Its lines without those of its defaults, which all stand before it.
    pub(super) fn own_lines(&self) -> impl Iterator<Item = &'s Line> {
        let head = self.head.number;
        self.lines.iter().copied().filter(move |line| line.number > head)
    }

    /// Whether `option NAME` holds, and the line that says so.
    pub(super) fn option(&self, name: &str) -> Option<&'s Line> {
        let told = |line: &&&Line| line.begins(&["option", name]) || line.begins(&["no", "option", name]);
        self.lines.iter().rfind(told).copied().filter(|line| line.keyword() == "option")
    }

    /// Whether it reads HTTP, as it does where nothing says `tcp` to HAProxy's default.
    pub(super) fn speaks_http(&self) -> bool {
        self.last(&["mode"]).is_some_and(|line| matches!(line.word(1), "http" | "health"))
    }

    pub(super) fn accepts(&self) -> bool {
        matches!(self.kind, Kind::Frontend | Kind::Listen)
    }

    pub(super) fn serves(&self) -> bool {
        matches!(self.kind, Kind::Backend | Kind::Listen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(text: &str) -> Result<Vec<Section>, Vec<Mistake>> {
        read(text, &|_| None)
    }

    #[test]
    fn proxies_inherit_from_the_defaults_before_them() {
        let text = "defaults base\n mode tcp\n option tcpka\ndefaults far from base\n retries 2\n\
                    frontend a\n no option tcpka\nfrontend b from base\n bind :1\nlisten c from far\n mode http\n";
        let sections = sections(text).unwrap();
        let proxies = proxies(&sections).unwrap();
        let numbers = |place: usize| proxies[place].lines.iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!((numbers(0), numbers(1), numbers(2)), (vec![2, 3, 5, 7], vec![2, 3, 9], vec![2, 3, 5, 11]));
        assert!(proxies[0].option("tcpka").is_none() && proxies[1].option("tcpka").is_some());
        assert!(!proxies[1].speaks_http() && proxies[2].speaks_http());
    }

    #[test]
    fn what_cannot_be_read_has_its_line() {
        let wrong = |text: &str| {
            let mistakes = match sections(text) {
                Ok(sections) => proxies(&sections).unwrap_err(),
                Err(mistakes) => mistakes,
            };
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            (mistakes[0].line, mistakes[0].message.clone())
        };
        assert_eq!(wrong("\nlisteners:\n").0, 2);
        assert!(wrong("frontend a\n.if defined(X)\n").1.contains("keep the lines that hold"));
        assert!(wrong("frontend\n").1.contains("no name"));
        assert!(wrong("frontend a from b\n").1.contains("no `defaults b`"));
        assert_eq!(wrong("backend a\nlisten a\n").0, 2);
        assert!(wrong("global\n setenv A 1\nfrontend a\n bind \":$A\"\n bind \":$B\"\n").1.contains("B is not set"));
    }
}
