//! What became of each line: carried over, or not and why. A line that nobody speaks for is told of all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::reasons;
use super::sections::{Kind, Line, Section};

/// What is to be said of lines, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    said: BTreeMap<usize, Vec<String>>,
    carried: BTreeSet<usize>,
}

/// Something said of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which line of the source.
    pub line: usize,
    /// Its words, or the first of them.
    pub quoted: String,
    /// Why it is not there, or what is different.
    pub text: String,
}

impl Notes {
    /// The line means something in the result.
    pub(super) fn carried(&mut self, line: &Line) {
        self.carried.insert(line.number);
    }

    /// There is something to know about this line.
    pub(super) fn say(&mut self, line: &Line, text: impl Into<String>) {
        self.say_of(line.number, text);
    }

    /// [`say`](Self::say) by the line's number.
    pub(super) fn say_of(&mut self, line: usize, text: impl Into<String>) {
        let (texts, text) = (self.said.entry(line).or_default(), text.into());
        if !texts.contains(&text) {
            texts.push(text);
        }
    }

    /// Whether nothing is known of this line yet.
    fn is_silent(&self, line: &Line) -> bool {
        !self.carried.contains(&line.number) && !self.said.contains_key(&line.number)
    }

    /// Everything to be said, in the order of the source: of the lines that nobody spoke for too.
    pub(super) fn finish(mut self, sections: &[Section]) -> Vec<Note> {
        let mut notes = Vec::new();
        for section in sections {
            if section.kind == Kind::Other && self.is_silent(&section.head) {
                let what = format!("nothing in a section `{}` decides where connections go", section.head.keyword());
                self.say(&section.head, what);
                // What stands in it may be secret, and one word is enough for all of it.
                self.carried.extend(section.lines.iter().map(|line| line.number));
            }
            for line in std::iter::once(&section.head).chain(&section.lines) {
                if line != &section.head && self.is_silent(line) {
                    self.say(line, reasons::of(line, section.kind));
                }
                let texts = self.said.remove(&line.number).unwrap_or_default();
                notes.extend(texts.into_iter().map(|text| Note { line: line.number, quoted: quoted(line), text }));
            }
        }
        notes
    }
}

/// The line, shortened; of one that may hold a password, the first words.
fn quoted(line: &Line) -> String {
    const LONGEST: usize = 60;
    let known = ["bind", "server", "use_backend", "default_backend", "acl", "timeout", "balance", "use-server"];
    let open = known.contains(&line.keyword()) || line.keyword().ends_with("-request");
    let words = if open { &line.words[..] } else { &line.words[..line.words.len().min(2)] };
    let text: String = words.join(" ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let cut = text.chars().count() > LONGEST || words.len() < line.words.len();
    let short: String = text.chars().take(LONGEST).collect();
    if cut { format!("{} …", short.trim_end()) } else { short }
}
