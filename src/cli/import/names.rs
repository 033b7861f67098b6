//! What a match on the server name says of a whole region of names.
//!
//! A route takes an exact name, everything below a name, or any name; HAProxy compares strings. All the names that one
//! best pattern takes form a region. A match holds for all of a region, for none of it, or for a part that no pattern can
//! tell from the rest.

use std::collections::BTreeSet;

use crate::routing::Claim;
use crate::server_name::{ServerName, ServerNamePattern};

/// How much of a region a match takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    All,
    Nothing,
    /// Some of it, or nobody knows.
    Part,
}

/// How a name is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Exact,
    Beginning,
    End,
    Anywhere,
    /// As a part of the name between dots or its ends.
    Labels,
    /// There is a name.
    Found,
    /// By something that is not understood here.
    Unclear,
}

/// One comparison of the server name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameMatch {
    how: How,
    text: String,
    any_case: bool,
}

impl NameMatch {
    pub(super) fn new(how: How, text: &str, any_case: bool) -> Self {
        // Names are in lower case here; what tells capitals apart is kept apart below.
        let any_case = any_case || !text.bytes().any(|byte| byte.is_ascii_uppercase());
        Self { how, text: text.to_ascii_lowercase(), any_case }
    }

    /// A regular expression, as far as it is a plain name or the end of one.
    pub(super) fn of_regex(regex: &str, any_case: bool) -> Self {
        let unclear = Self::new(How::Unclear, "", true);
        let Some(text) = regex.strip_suffix('$') else { return unclear };
        let end = [("^.*", ""), ("^.+\\.", "."), (".*", ""), (".+\\.", "."), ("\\.", ".")];
        let (how, start, text) =
            match text.strip_prefix('^').filter(|text| !text.starts_with(".*") && !text.starts_with(".+")) {
                Some(text) => (How::Exact, "", text),
                None => match end.iter().find_map(|(regex, start)| Some((start, text.strip_prefix(regex)?))) {
                    Some((start, text)) => (How::End, *start, text),
                    None => (How::End, "", text),
                },
            };
        let plain = text.replace("\\.", ".").replace("\\-", "-");
        let literal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        // A dot without a backslash would be any character.
        let dots = text.matches('.').count() == text.matches("\\.").count();
        if dots && plain.bytes().all(literal) { Self::new(how, &format!("{start}{plain}"), any_case) } else { unclear }
    }

    /// What no client can send, and so never matched.
    pub(super) fn is_impossible(&self) -> bool {
        self.how == How::Exact && (self.text.ends_with('.') || self.text.parse::<ServerName>().is_err())
    }

    /// Whether it takes capitals as they are, which names have not here.
    pub(super) fn tells_capitals(&self) -> bool {
        !self.any_case
    }

    /// Whether patterns can say the same, at least of names that HAProxy would be asked for.
    pub(super) fn is_expressible(&self) -> bool {
        matches!((self.how, self.text.strip_prefix('.')), (How::Exact | How::Found, _) | (How::End, Some(_)))
    }

    /// The patterns that regions must be made of for this match to be told from others.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let name = |text: &str| text.parse::<ServerName>().ok().filter(|name| name.as_str() == text);
        let exact = |text: &str| name(text).map(|name| Claim::Pattern(ServerNamePattern::Exact(name)));
        let below = |text: &str| name(text).map(|name| Claim::Pattern(ServerNamePattern::Wildcard(name)));
        let claims = match (self.how, self.text.strip_prefix('.')) {
            (How::Exact, _) => [exact(&self.text), None],
            (How::End, Some(parent)) => [below(parent), None],
            (How::End | How::Labels, _) => {
                let text = self.text.trim_matches('.');
                [exact(text), below(text)]
            }
            _ => [None, None],
        };
        claims.into_iter().flatten().collect()
    }

    /// How much of `region` is matched, where regions are made of the [`claims`](Self::claims) of all matches.
    pub(super) fn share(&self, region: &Claim) -> Share {
        let share = match region {
            Claim::NoServerName => Share::Nothing,
            Claim::Pattern(ServerNamePattern::Exact(name)) => self.of_name(name.as_str()),
            Claim::Pattern(ServerNamePattern::Wildcard(parent)) => self.of_below(&format!(".{parent}")),
            Claim::Pattern(ServerNamePattern::Any) => self.of_below(""),
        };
        // Capitals are compared there and not here.
        if self.any_case || share == Share::Nothing { share } else { Share::Part }
    }

    fn of_name(&self, name: &str) -> Share {
        let all = match self.how {
            How::Exact => name == self.text,
            How::Beginning => name.starts_with(&self.text),
            How::End => name.ends_with(&self.text),
            How::Anywhere => name.contains(&self.text),
            How::Labels => has_labels(name, &self.text),
            How::Found => true,
            How::Unclear => return Share::Part,
        };
        if all { Share::All } else { Share::Nothing }
    }

    /// Of the names that end in `end`, which begins with a dot or is empty, and that are in no narrower region.
    fn of_below(&self, end: &str) -> Share {
        let all = |all: bool| if all { Share::All } else { Share::Part };
        match self.how {
            How::Exact => Share::Nothing,
            How::End if end.ends_with(&self.text) => Share::All,
            // The names below that are a region of their own.
            How::End if self.text.starts_with('.') && !self.claims().is_empty() => Share::Nothing,
            How::End if self.text.ends_with(end) => Share::Part,
            How::End => Share::Nothing,
            How::Beginning => all(self.text.is_empty()),
            How::Anywhere => all(end.contains(&self.text)),
            How::Labels => all(has_labels(end, &self.text)),
            How::Found => Share::All,
            How::Unclear => Share::Part,
        }
    }
}

/// Whether `labels` stands in `name` with dots or nothing around it.
fn has_labels(name: &str, labels: &str) -> bool {
    let labels = labels.trim_matches('.');
    !labels.is_empty() && format!(".{name}.").contains(&format!(".{labels}."))
}

/// The regions that these matches tell apart, narrow ones first.
pub(super) fn regions<'m>(matches: impl Iterator<Item = &'m NameMatch>) -> Vec<Claim> {
    let mut regions: BTreeSet<Claim> = matches.flat_map(NameMatch::claims).collect();
    regions.extend([Claim::Pattern(ServerNamePattern::Any), Claim::NoServerName]);
    regions.into_iter().collect()
}

/// The narrowest of `regions` that `region` lies in, itself left out.
pub(super) fn around<'r>(region: &Claim, regions: &'r [Claim]) -> Option<&'r Claim> {
    let (Claim::Pattern(pattern), own) = (region, region) else { return None };
    let inside = |wider: &&Claim| match (wider, pattern) {
        (Claim::Pattern(wider), ServerNamePattern::Exact(name)) => wider.matches(name),
        (Claim::Pattern(ServerNamePattern::Wildcard(wider)), ServerNamePattern::Wildcard(name)) => {
            name.parents().any(|parent| parent == wider.as_str())
        }
        (Claim::Pattern(ServerNamePattern::Any), ServerNamePattern::Wildcard(_)) => true,
        _ => false,
    };
    let labels = |claim: &&Claim| match claim {
        Claim::Pattern(ServerNamePattern::Wildcard(name)) => name.parents().count() + 1,
        _ => 0,
    };
    regions.iter().filter(|other| *other != own).filter(inside).max_by_key(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(text: &str) -> Claim {
        if text.is_empty() { Claim::NoServerName } else { Claim::Pattern(text.parse().unwrap()) }
    }

    #[test]
    fn matches_take_all_nothing_or_a_part_of_a_region() {
        use Share::{All, Nothing, Part};
        for (how, text, in_region, expected) in [
            (How::Exact, "a.test", "a.test", All),
            (How::Exact, "a.test", "b.test", Nothing),
            (How::Exact, "a.test", "*.test", Nothing),
            (How::Exact, "a.test", "", Nothing),
            (How::End, ".a.test", "*.a.test", All),
            (How::End, ".a.test", "x.a.test", All),
            (How::End, ".a.test", "a.test", Nothing),
            (How::End, ".a.test", "*.test", Nothing),
            (How::End, ".a.test", "*.b.a.test", All),
            (How::End, ".a.test", "*", Nothing),
            (How::End, "a.test", "a.test", All),
            (How::End, "a.test", "*.a.test", All),
            (How::End, "a.test", "*.test", Part),
            (How::End, "a.test", "*", Part),
            (How::End, "a.test", "nota.test", All),
            (How::End, "a.test", "*.b.test", Nothing),
            (How::Beginning, "kube", "kube.test", All),
            (How::Beginning, "kube", "*.test", Part),
            (How::Anywhere, "a.te", "*.a.test", All),
            (How::Anywhere, "kube", "*.a.test", Part),
            (How::Labels, "a.test", "*.a.test", All),
            (How::Labels, "a.test", "a.test", All),
            (How::Labels, "a.test", "*", Part),
            (How::Found, "", "*", All),
            (How::Found, "", "", Nothing),
            (How::Unclear, "", "a.test", Part),
        ] {
            let one = NameMatch::new(how, text, false);
            assert_eq!(one.share(&region(in_region)), expected, "{how:?} {text} in {in_region:?}");
        }
    }

    #[test]
    fn capitals_that_haproxy_tells_apart_are_never_taken_for_sure() {
        assert_eq!(NameMatch::new(How::Exact, "A.test", false).share(&region("a.test")), Share::Part);
        assert_eq!(NameMatch::new(How::Exact, "A.test", true).share(&region("a.test")), Share::All);
        assert_eq!(NameMatch::new(How::Exact, "A.test", false).share(&region("b.test")), Share::Nothing);
    }

    #[test]
    fn plain_regular_expressions_are_understood() {
        for (regex, how, text) in [
            ("^a\\.test$", How::Exact, "a.test"),
            ("\\.a\\.test$", How::End, ".a.test"),
            ("^.*\\.a\\.test$", How::End, ".a.test"),
            ("^.+\\.a\\.test$", How::End, ".a.test"),
            ("a\\.test$", How::End, "a.test"),
            ("^a.test$", How::Unclear, ""),
            ("^[^.]+\\.a\\.test$", How::Unclear, ""),
            ("^a\\.test", How::Unclear, ""),
            ("^(a|b)\\.test$", How::Unclear, ""),
        ] {
            assert_eq!(NameMatch::of_regex(regex, false), NameMatch::new(how, text, false), "{regex}");
        }
    }

    #[test]
    fn regions_lie_in_one_another() {
        let regions: Vec<_> = ["a.b.test", "*.b.test", "*.test", "*", ""].map(region).into();
        for (inner, outer) in [
            ("a.b.test", Some("*.b.test")),
            ("*.b.test", Some("*.test")),
            ("*.test", Some("*")),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(around(&region(inner), &regions), outer.map(region).as_ref(), "{inner}");
        }
    }
}
