//! `acl` lines and `if { … }` → conditions of tests, and whom of a region of names they select.

use std::collections::HashMap;
use std::net::IpAddr;

use super::names::{NameMatch, Share};
use super::sources::SourceSet;
use crate::routing::Claim;

/// One thing that is tested of a connection.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    /// The server name that the client sent, seen in the hello or after HAProxy ended TLS.
    Name {
        ended: bool,
        matches: Vec<NameMatch>,
    },
    Source(SourceSet),
    Destination(SourceSet),
    DestinationPort(Numbers),
    /// Whether HAProxy ended TLS.
    Ended,
    /// What holds for a ClientHello, and for nothing that HAProxy decrypted.
    Hello,
    /// What may hold for what HAProxy decrypted, and never for a ClientHello.
    Request(String),
    Constant(bool),
    /// What cannot be known here, and why.
    Unknown(String),
}

/// Numbers of which one must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers(pub(super) Vec<(u64, u64)>);

impl Numbers {
    pub(super) fn hold(&self, number: u64) -> bool {
        self.0.iter().any(|(least, most)| (*least..=*most).contains(&number))
    }
}

/// Tests of which one must hold, or with a `!` none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    pub(super) negated: bool,
    pub(super) tests: Vec<Test>,
}

/// Terms that must all hold, in one of several groups; `unless` turns the whole around.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) unless: bool,
    pub(super) groups: Vec<Vec<Term>>,
}

/// Named tests of one proxy.
pub(super) type Acls = HashMap<String, Vec<Test>>;

/// The socket that a client came to, as far as conditions see it.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    /// Where it listens; unspecified for every address.
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    /// Whether HAProxy ended TLS there.
    pub(super) ended: bool,
    /// Whether a PROXY header said where the client went.
    pub(super) proxied: bool,
}

/// Who is selected for sure, and who may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) surely: SourceSet,
    pub(super) perhaps: SourceSet,
}

impl Selected {
    pub(super) fn everybody() -> Self {
        Self { surely: SourceSet::everybody(), perhaps: SourceSet::everybody() }
    }

    fn nobody() -> Self {
        Self { surely: SourceSet::nobody(), perhaps: SourceSet::nobody() }
    }

    fn somebody() -> Self {
        Self { surely: SourceSet::nobody(), perhaps: SourceSet::everybody() }
    }

    fn exactly(set: SourceSet) -> Self {
        Self { surely: set.clone(), perhaps: set }
    }

    fn either(all: bool) -> Self {
        if all { Self::everybody() } else { Self::nobody() }
    }

    fn not(self) -> Self {
        let everybody = SourceSet::everybody();
        Self { surely: everybody.without(&self.perhaps), perhaps: everybody.without(&self.surely) }
    }

    fn and(self, other: &Self) -> Self {
        Self { surely: self.surely.and(&other.surely), perhaps: self.perhaps.and(&other.perhaps) }
    }

    fn or(self, other: &Self) -> Self {
        Self { surely: self.surely.or(&other.surely), perhaps: self.perhaps.or(&other.perhaps) }
    }
}

impl From<Share> for Selected {
    fn from(share: Share) -> Self {
        match share {
            Share::All => Self::everybody(),
            Share::Nothing => Self::nobody(),
            Share::Part => Self::somebody(),
        }
    }
}

impl Test {
    fn select(&self, region: &Claim, entrance: &Entrance) -> Selected {
        match self {
            Self::Name { ended, .. } if *ended != entrance.ended => Selected::nobody(),
            Self::Name { matches, .. } => {
                let each = matches.iter().map(|one| Selected::from(one.share(region)));
                each.fold(Selected::nobody(), |all, one| all.or(&one))
            }
            Self::Source(sources) => Selected::exactly(sources.clone()),
            Self::Destination(_) | Self::DestinationPort(_) if entrance.proxied => Selected::somebody(),
            Self::Destination(networks) if entrance.ip.is_unspecified() => {
                if networks.is_everybody() {
                    Selected::everybody()
                } else {
                    Selected::somebody()
                }
            }
            Self::Destination(networks) => {
                Selected::either(networks.networks().iter().any(|network| network.contains(&entrance.ip)))
            }
            Self::DestinationPort(ports) => Selected::either(ports.hold(entrance.port.into())),
            Self::Ended => Selected::either(entrance.ended),
            Self::Hello => Selected::either(!entrance.ended),
            Self::Request(_) if entrance.ended => Selected::somebody(),
            Self::Request(_) => Selected::nobody(),
            Self::Constant(value) => Selected::either(*value),
            Self::Unknown(_) => Selected::somebody(),
        }
    }
}

impl Condition {
    /// Whom it selects of those who send a name of `region`, or none, to `entrance`.
    pub(super) fn select(&self, region: &Claim, entrance: &Entrance) -> Selected {
        let of_term = |term: &Term| {
            let tests = term.tests.iter().map(|test| test.select(region, entrance));
            let any = tests.fold(Selected::nobody(), |all, one| all.or(&one));
            if term.negated { any.not() } else { any }
        };
        let groups = self
            .groups
            .iter()
            .map(|terms| terms.iter().map(of_term).fold(Selected::everybody(), |all, one| all.and(&one)));
        let any = groups.fold(Selected::nobody(), |all, one| all.or(&one));
        if self.unless { any.not() } else { any }
    }

    pub(super) fn tests(&self) -> impl Iterator<Item = &Test> {
        self.groups.iter().flatten().flat_map(|term| &term.tests)
    }

    /// Every comparison of the server name in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &NameMatch> {
        self.tests().flat_map(|test| match test {
            Test::Name { matches, .. } => &matches[..],
            _ => &[],
        })
    }

    /// Why parts of it cannot be known here.
    pub(super) fn doubts(&self) -> impl Iterator<Item = &str> {
        self.tests().filter_map(|test| match test {
            Test::Unknown(why) | Test::Request(why) => Some(why.as_str()),
            _ => None,
        })
    }
}

/// Splits the words after a rule into the rule's own and its condition.
pub(super) fn split(words: &[String]) -> (&[String], Option<(bool, &[String])>) {
    match words.iter().position(|word| word == "if" || word == "unless") {
        Some(place) => (&words[..place], Some((words[place] == "unless", &words[place + 1..]))),
        None => (words, None),
    }
}

/// Reads the words of a condition; `test` reads those within braces.
///
/// # Errors
/// What is wrong with it, and what to do about it.
pub(super) fn read(
    unless: bool,
    words: &[String],
    acls: &Acls,
    mut test: impl FnMut(&[String]) -> Result<Test, String>,
) -> Result<Condition, String> {
    let mut groups = vec![Vec::new()];
    let mut negated = false;
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        let bare = word.trim_start_matches('!');
        negated ^= (word.len() - bare.len()) % 2 == 1;
        let tests = match bare {
            "" => continue,
            "or" | "||" => {
                groups.push(Vec::new());
                continue;
            }
            "{" => {
                let end = rest.iter().position(|word| word == "}").ok_or("a `{` has no `}`: close it")?;
                let inner = &rest[..end];
                rest = &rest[end + 1..];
                vec![test(inner)?]
            }
            name => match acls.get(name) {
                Some(tests) => tests.clone(),
                None => vec![predefined(name).ok_or_else(|| {
                    format!("there is no `acl {name}` in its section: write the name right, with spaces around braces")
                })?],
            },
        };
        groups.last_mut().into_iter().for_each(|group| group.push(Term { negated, tests: tests.clone() }));
        negated = false;
    }
    if groups.iter().any(Vec::is_empty) {
        return Err("a condition is empty: write what must hold".to_owned());
    }
    Ok(Condition { unless, groups })
}

/// The tests that HAProxy brings along.
fn predefined(name: &str) -> Option<Test> {
    let request = || Some(Test::Request(format!("`{name}` looks into requests, which are inside TLS")));
    match name {
        "TRUE" | "WAIT_END" => Some(Test::Constant(true)),
        "FALSE" => Some(Test::Constant(false)),
        "REQ_CONTENT" => Some(Test::Constant(true)),
        "LOCALHOST" => Some(Test::Source(SourceSet::of(&["127.0.0.0/8".parse().ok()?]))),
        "HTTP" | "HTTP_1.0" | "HTTP_1.1" | "HTTP_2.0" | "HTTP_CONTENT" | "RDP_COOKIE" => request(),
        _ if name.starts_with("METH_") || name.starts_with("HTTP_URL_") => request(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::How;
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn select(text: &str) -> Result<Selected, String> {
        let name = |text: &str| Test::Name { ended: false, matches: vec![NameMatch::new(How::Exact, text, false)] };
        let ten = Test::Source(SourceSet::of(&["10.0.0.0/8".parse().unwrap()]));
        let acls = Acls::from([("here".into(), vec![name("a.test"), name("b.test")]), ("ten".into(), vec![ten])]);
        let condition = read(false, &words(text), &acls, |words| match words {
            [one] if one == "unknown" => Ok(Test::Unknown("why".into())),
            _ => Err("what?".into()),
        })?;
        let ip = IpAddr::from([0, 0, 0, 0]);
        let entrance = Entrance { ip, port: 443, ended: false, proxied: false };
        Ok(condition.select(&Claim::Pattern("b.test".parse().unwrap()), &entrance))
    }

    #[test]
    fn conditions_select_sources() {
        let everybody = SourceSet::everybody();
        let ten = SourceSet::of(&["10.0.0.0/8".parse().unwrap()]);
        for (text, surely, perhaps) in [
            ("here", &everybody, &everybody),
            ("!here", &SourceSet::nobody(), &SourceSet::nobody()),
            ("here ten", &ten, &ten),
            ("here !ten", &everybody.without(&ten), &everybody.without(&ten)),
            ("! here or ten", &ten, &ten),
            ("{ unknown } ten", &SourceSet::nobody(), &ten),
            ("ten || !{ unknown }", &ten, &everybody),
            ("here TRUE !FALSE", &everybody, &everybody),
            ("HTTP", &SourceSet::nobody(), &SourceSet::nobody()),
        ] {
            let selected = select(text).unwrap();
            assert_eq!((&selected.surely, &selected.perhaps), (surely, perhaps), "{text}");
        }
    }

    #[test]
    fn broken_conditions_are_told() {
        for (text, told) in
            [("{ unknown", "close it"), ("", "is empty"), ("here or", "is empty"), ("her", "no `acl her`")]
        {
            assert!(select(text).unwrap_err().contains(told), "{text}");
        }
    }
}
