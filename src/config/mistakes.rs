//! [`Mistakes`]: everything wrong with a configuration, each with its place and its remedy.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where: a path such as `routes[2].upstream`, a line for syntax errors, empty for the whole document.
    pub path: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// The file that it names and that must not be read, if it is that.
    pub denied: Option<PathBuf>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every mistake of one configuration; never empty. Displays one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes, those of reading first, those between parts last.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Why a configuration file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no text to read.
    #[error("cannot read the configuration {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The text is wrong.
    #[error("{} has {}:\n{mistakes}", path.display(), counted(mistakes.count(), "mistake"))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        mistakes: Mistakes,
    },
}

impl LoadError {
    /// The files that must not be read: that of the configuration, or some that it names.
    pub fn denied(&self) -> Vec<&Path> {
        match self {
            Self::Unreadable { path, reason } if reason.kind() == io::ErrorKind::PermissionDenied => vec![path],
            Self::Unreadable { .. } => Vec::new(),
            Self::Wrong { mistakes, .. } => mistakes.iter().filter_map(|mistake| mistake.denied.as_deref()).collect(),
        }
    }
}

/// `1 mistake`, `2 mistakes`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Gathers mistakes while a configuration is read, so that one of them does not hide the others.
#[derive(Default)]
pub(super) struct Collector(RefCell<Vec<Mistake>>);

impl Collector {
    pub(super) fn add(&self, path: impl Into<String>, message: impl Into<String>) {
        self.0.borrow_mut().push(Mistake { path: path.into(), message: message.into(), denied: None });
    }

    pub(super) fn add_denied(&self, path: impl Into<String>, message: impl Into<String>, file: &Path) {
        let denied = Some(file.to_owned());
        self.0.borrow_mut().push(Mistake { path: path.into(), message: message.into(), denied });
    }

    /// As [`suggestion`], while somebody may still read it: to search for every one of thousands of names takes minutes.
    pub(super) fn suggestion<'k>(&self, word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> String {
        const READ: usize = 100;
        if self.count() < READ { suggestion(word, known) } else { "look at the mistakes before this one".to_owned() }
    }

    pub(super) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// `value` if nothing was wrong, else everything that was.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Mistakes> {
        match (self.0.into_inner(), value) {
            (mistakes, Some(value)) if mistakes.is_empty() => Ok(value),
            (mistakes, _) => Err(Mistakes(mistakes)),
        }
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let typed = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&typed, &candidate.to_lowercase()), candidate))
        // One slip in three letters: more is another word, and so is one that has no letter in common.
        .filter(|(distance, candidate)| {
            let length = candidate.chars().count();
            distance * 3 <= length.max(3) && *distance < length
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The end of a message about an unknown `word`: the nearest known one, or a list of them.
pub(crate) fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> String {
    if let Some(near) = nearest(word, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<String> = known.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    match all.len() {
        0 => "there is none".to_owned(),
        1..=16 => format!("known here: {}", all.join(", ")),
        // A long list hides the message.
        more => format!("known here: {} and {} more", all[..16].join(", "), more - 16),
    }
}
