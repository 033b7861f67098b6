//! The rules of a frontend or backend, in the order in which HAProxy asks them.

use std::collections::HashMap;

use super::conditions::{self, Acls, Condition, Test};
use super::criteria::{self, Files};
use super::names::{How, NameMatch};
use super::notes::Notes;
use super::sections::{Line, Mistake, Proxy};

/// What a rule does with the clients that it selects.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// No more rules of its kind are asked.
    Accept,
    Reject,
    /// To this backend.
    Backend(String),
    /// To a backend that depends on the server name.
    Lookup(Lookup),
    /// To this server alone.
    Server(String),
    /// It cannot be known.
    Unknown,
}

/// A table of server names.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// Whether the name is seen only where HAProxy ended TLS.
    pub(super) ended: bool,
    /// The first that matches counts.
    pub(super) entries: Vec<(NameMatch, String)>,
    pub(super) default: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Rule<'s> {
    pub(super) line: &'s Line,
    pub(super) action: Action,
    /// Without one, everybody is selected.
    pub(super) condition: Option<Condition>,
}

/// The rules of one proxy, each kind in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules<'s> {
    /// Those that accept or reject: of the connection, the session, its content, its requests.
    pub(super) admission: [Vec<Rule<'s>>; 4],
    pub(super) backends: Vec<Rule<'s>>,
    pub(super) servers: Vec<Rule<'s>>,
    /// `default_backend`, and its line.
    pub(super) default: Option<(&'s Line, String)>,
}

/// What rules are read with.
pub(super) struct Reader<'r> {
    pub(super) files: &'r Files,
    /// The names of all backends.
    pub(super) backends: &'r [&'r str],
    pub(super) notes: &'r mut Notes,
    pub(super) mistakes: &'r mut Vec<Mistake>,
}

impl Rules<'_> {
    /// Whether only TLS was let in.
    pub(super) fn asks_for_a_hello(&self) -> bool {
        let conditions = self.admission.iter().flatten().filter_map(|rule| rule.condition.as_ref());
        conditions.flat_map(Condition::tests).any(|test| *test == Test::Hello)
    }

    /// Every comparison of the server name in them.
    pub(super) fn names(&self) -> impl Iterator<Item = &NameMatch> {
        let all = self.admission.iter().flatten().chain(&self.backends).chain(&self.servers);
        all.flat_map(|rule| {
            let looked_up: &[(NameMatch, String)] = match &rule.action {
                Action::Lookup(lookup) => &lookup.entries,
                _ => &[],
            };
            rule.condition.iter().flat_map(Condition::names).chain(looked_up.iter().map(|(name, _)| name))
        })
    }
}

impl Reader<'_> {
    pub(super) fn read<'s>(&mut self, proxy: &Proxy<'s>) -> Rules<'s> {
        let (acls, lines) = self.acls(proxy);
        let mut rules = Rules::default();
        for line in &proxy.lines {
            let Some((place, action, words)) = self.action(proxy, line) else { continue };
            let Some(condition) = self.condition(line, words, &acls) else { continue };
            for word in words {
                let used = lines.get(word.trim_start_matches('!')).into_iter().flatten();
                used.for_each(|line| self.notes.carried(line));
            }
            self.notes.carried(line);
            let rule = Rule { line, action, condition };
            match place {
                Place::Admission(kind) => rules.admission[kind].push(rule),
                Place::Backends => rules.backends.push(rule),
                Place::Servers => rules.servers.push(rule),
            }
        }
        rules.default = proxy.last(&["default_backend"]).map(|line| {
            self.notes.carried(line);
            (line, line.word(1).to_owned())
        });
        rules
    }

    /// The named tests, and the lines that they are in.
    fn acls<'s>(&mut self, proxy: &Proxy<'s>) -> (Acls, HashMap<String, Vec<&'s Line>>) {
        let (mut acls, mut lines): (Acls, HashMap<_, Vec<_>>) = (Acls::new(), HashMap::new());
        for line in proxy.all(&["acl"]) {
            let mut remarks = Vec::new();
            let words = line.words.get(2..).unwrap_or_default();
            let test = criteria::read(words, self.files, &mut remarks).unwrap_or_else(Test::Unknown);
            remarks.into_iter().for_each(|remark| self.notes.say(line, remark));
            acls.entry(line.word(1).to_owned()).or_default().push(test);
            lines.entry(line.word(1).to_owned()).or_default().push(line);
        }
        (acls, lines)
    }

    /// The condition at the end of a line, `Some(None)` without one; `None` if it cannot be read, which is a mistake.
    fn condition(&mut self, line: &Line, words: &[String], acls: &Acls) -> Option<Option<Condition>> {
        let (_, Some((unless, words))) = conditions::split(words) else { return Some(None) };
        let mut remarks = Vec::new();
        let test = |words: &[String]| Ok(criteria::read(words, self.files, &mut remarks).unwrap_or_else(Test::Unknown));
        let condition = conditions::read(unless, words, acls, test);
        remarks.into_iter().for_each(|remark| self.notes.say(line, remark));
        match condition {
            Ok(condition) => {
                let mut doubts: Vec<&str> = condition.doubts().collect();
                doubts.dedup();
                if !doubts.is_empty() {
                    self.notes.say(line, format!("cannot be decided here: {}", doubts.join("; ")));
                }
                Some(Some(condition))
            }
            Err(message) => {
                self.mistakes.push(Mistake { line: line.number, message });
                None
            }
        }
    }

    /// What a line does, if it is a rule, and the words that its condition stands in.
    fn action<'l>(&mut self, proxy: &Proxy<'_>, line: &'l Line) -> Option<(Place, Action, &'l [String])> {
        let (words, after) = (&line.words[1..], line.words.get(2..).unwrap_or_default());
        match line.keyword() {
            "use_backend" => Some((Place::Backends, self.target(line), words)),
            "use-server" => Some((Place::Servers, Action::Server(line.word(1).to_owned()), words)),
            "tcp-request" => {
                let kind = ["connection", "session", "content"].iter().position(|kind| *kind == line.word(1))?;
                let action = match line.word(2) {
                    "accept" => Action::Accept,
                    "reject" | "silent-drop" => Action::Reject,
                    // Another service answers in place of a backend.
                    "use-service" => Action::Reject,
                    _ => return None,
                };
                Some((Place::Admission(kind), action, after))
            }
            "http-request" | "block" | "redirect" | "reqdeny" | "reqideny" | "reqtarpit" | "reqitarpit" => {
                let action = request_action(line)?;
                if !proxy.speaks_http() {
                    self.notes.say(line, "does nothing in `mode tcp`");
                    return None;
                }
                if line.word(1) == "auth" {
                    self.notes.say(line, "passwords are inside TLS: the upstream has to ask for them");
                }
                Some((Place::Admission(3), action, words))
            }
            _ => None,
        }
    }

    /// The backend that `use_backend` names, or how it is found.
    fn target(&mut self, line: &Line) -> Action {
        let target = line.word(1);
        let Some((before, rest)) = target.split_once("%[") else {
            if !self.backends.contains(&target) {
                let message = format!("there is no backend `{target}`: write its name right, or leave the line out");
                self.mistakes.push(Mistake { line: line.number, message });
            }
            return Action::Backend(target.to_owned());
        };
        let lookup = rest.rsplit_once(']').and_then(|(sample, after)| self.lookup(line, before, sample, after));
        lookup.map_or_else(
            || {
                let why = "its backend depends on what is not worked out here: write a route for each";
                self.notes.say(line, why);
                Action::Unknown
            },
            Action::Lookup,
        )
    }

    fn lookup(&mut self, line: &Line, before: &str, sample: &str, after: &str) -> Option<Lookup> {
        let parts = criteria::parts(sample);
        let (fetch, converters) = parts.split_first()?;
        let (ended, How::Exact) = criteria::server_name(fetch)? else { return None };
        let lowered = converters.first() == Some(&"lower");
        let converters = if lowered { &converters[1..] } else { converters };
        let named = |value: &str| format!("{before}{value}{after}");
        let Some((map, rest)) = converters.split_first() else {
            // The name itself is that of a backend.
            let of_backend = |backend: &&str| {
                let name = backend.strip_prefix(before)?.strip_suffix(after)?;
                Some((NameMatch::new(How::Exact, name, false), (*backend).to_owned()))
            };
            let entries = self.backends.iter().filter_map(of_backend).collect();
            return Some(Lookup { ended, entries, default: None });
        };
        let (kind, arguments) = map.strip_suffix(')')?.split_once('(')?;
        let (file, default) = arguments.split_once(',').map_or((arguments, None), |(file, value)| (file, Some(value)));
        let how = match kind.strip_prefix("map").filter(|_| rest.is_empty())?.trim_end_matches("_str") {
            "" => How::Exact,
            "_beg" => How::Beginning,
            "_end" => How::End,
            "_sub" => How::Anywhere,
            "_dom" => How::Labels,
            "_reg" => How::Unclear,
            _ => return None,
        };
        let entries = self.entries(line, file, how, lowered)?;
        let entries = entries.into_iter().map(|(one, value)| (one, named(&value))).collect();
        Some(Lookup { ended, entries, default: default.map(named) })
    }

    /// The lines of a map in the order in which HAProxy tries them.
    fn entries(&mut self, line: &Line, file: &str, how: How, lowered: bool) -> Option<Vec<(NameMatch, String)>> {
        let mut entries = Vec::new();
        for entry in criteria::file_lines(self.files.get(file)?) {
            let (key, value) = entry.split_once(char::is_whitespace).unwrap_or((entry, ""));
            let one = match how {
                How::Unclear => NameMatch::of_regex(key, false),
                how => NameMatch::new(how, key, false),
            };
            let why = match lowered && one.tells_capitals() || one.is_impossible() {
                true => Some("never matched: no client sends such a name"),
                false if !one.is_expressible() => Some("takes parts of names, which no pattern does"),
                false => None,
            };
            why.into_iter().for_each(|why| self.notes.say(line, format!("the key `{key}` of {file} {why}")));
            // What never matched would stand in the way of nobody, or of those who come as small letters.
            if !(lowered && one.tells_capitals()) {
                entries.push((key.len(), one, value.trim().to_owned()));
            }
        }
        if how == How::Beginning {
            // HAProxy keeps beginnings in a tree, and finds the longest.
            entries.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
        }
        Some(entries.into_iter().map(|(_, one, value)| (one, value)).collect())
    }
}

enum Place {
    Admission(usize),
    Backends,
    Servers,
}

/// What a rule on requests does, if it decides who reaches a backend.
fn request_action(line: &Line) -> Option<Action> {
    match line.keyword() {
        "http-request" => match line.word(1) {
            "allow" => Some(Action::Accept),
            "deny" | "reject" | "tarpit" | "silent-drop" | "auth" | "redirect" | "return" | "use-service" => {
                Some(Action::Reject)
            }
            _ => None,
        },
        // The old forms hold what they look for in their own words.
        "reqdeny" | "reqideny" | "reqtarpit" | "reqitarpit" => Some(Action::Unknown),
        _ => Some(Action::Reject),
    }
}

/// The files that conditions and maps name, each with the line that names it first.
pub(super) fn named_files<'s>(lines: impl Iterator<Item = &'s Line>) -> Vec<(usize, String)> {
    let mut files: Vec<(usize, String)> = Vec::new();
    for line in lines {
        let after_flag = line.words.windows(2).filter(|pair| pair[0] == "-f").map(|pair| pair[1].clone());
        let mapped = line.words.iter().flat_map(|word| {
            criteria::parts(word.trim_matches(['%', '[', ']'])).into_iter().filter_map(|part| {
                let (converter, arguments) = part.split_once('(')?;
                let file = arguments.trim_end_matches([')', ']']).split(',').next()?;
                converter.starts_with("map").then(|| file.to_owned())
            })
        });
        for file in after_flag.chain(mapped.collect::<Vec<_>>()) {
            if !files.iter().any(|(_, known)| *known == file) {
                files.push((line.number, file));
            }
        }
    }
    files
}
