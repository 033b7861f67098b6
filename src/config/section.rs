//! Reading mappings key by key: what is read is what is known, so that a key is named in one place only.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::mistakes::{Collector, nearest, suggestion};
use super::tree::join;
use super::values::found;

/// A value of the document, and where it stands.
pub(super) struct Node<'d> {
    pub(super) path: String,
    value: &'d Value,
    collector: &'d Collector,
}

impl<'d> Node<'d> {
    pub(super) fn root(value: &'d Value, collector: &'d Collector) -> Self {
        Self { path: String::new(), value, collector }
    }

    pub(super) fn mistaken(&self, message: impl Into<String>) {
        self.collector.add(self.path.clone(), message);
    }

    /// Names a file that we must not read.
    pub(super) fn denied(&self, file: &Path, message: impl Into<String>) {
        self.collector.add_denied(self.path.clone(), message, file);
    }

    pub(super) fn is_text(&self) -> bool {
        self.value.is_string()
    }

    pub(super) fn is_section(&self) -> bool {
        self.value.is_mapping()
    }

    /// The value as `parse` understands it. `None`: it does not, which is reported.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        parse(self.value).map_err(|message| self.mistaken(message)).ok()
    }

    /// Reads a mapping. A key that `fields` does not ask for is a mistake, as is a needed one that is absent.
    pub(super) fn section<T>(&self, fields: impl FnOnce(&mut Section<'d>) -> T) -> Option<T> {
        let Value::Mapping(entries) = self.value else {
            self.mistaken(format!("expected `key: value` lines, found {}", found(self.value)));
            return None;
        };
        let mut section = Section {
            path: self.path.clone(),
            entries,
            collector: self.collector,
            known: Vec::new(),
            missing: Vec::new(),
        };
        let value = fields(&mut section);
        section.close();
        Some(value)
    }

    /// The entries of a mapping whose keys are the operator's own words.
    pub(super) fn entries(&self) -> Vec<(&'d str, Node<'d>)> {
        let Value::Mapping(entries) = self.value else {
            self.mistaken(format!("expected `name:` entries, found {}", found(self.value)));
            return Vec::new();
        };
        if entries.is_empty() {
            self.mistaken("has no entry");
        }
        let named = entries.iter().filter_map(|(key, value)| Some((key.as_str()?, value)));
        named.map(|(key, value)| (key, self.below(join(&self.path, key), value))).collect()
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<Node<'d>> {
        let Value::Sequence(items) = self.value else {
            self.mistaken(format!("expected a list, found {}", found(self.value)));
            return Vec::new();
        };
        let numbered = items.iter().enumerate();
        numbered.map(|(index, value)| self.below(format!("{}[{index}]", self.path), value)).collect()
    }

    /// The items of a list that may not be empty; `remedy` says what to do when it is.
    pub(super) fn some_items(&self, remedy: &str) -> Vec<Node<'d>> {
        if matches!(self.value, Value::Sequence(items) if items.is_empty()) {
            self.mistaken(format!("is an empty list: {remedy}"));
        }
        self.items()
    }

    fn below(&self, path: String, value: &'d Value) -> Node<'d> {
        Node { path, value, collector: self.collector }
    }
}

/// A mapping of the document while its keys are read.
pub(super) struct Section<'d> {
    path: String,
    entries: &'d Mapping,
    collector: &'d Collector,
    known: Vec<&'static str>,
    missing: Vec<&'static str>,
}

impl<'d> Section<'d> {
    /// The value of `key`, if it is there.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Node<'d>> {
        self.known.push(key);
        let value = self.entries.get(key)?;
        Some(Node { path: join(&self.path, key), value, collector: self.collector })
    }

    /// The value of `key`, which must be there.
    pub(super) fn needed(&mut self, key: &'static str) -> Option<Node<'d>> {
        let node = self.optional(key);
        if node.is_none() {
            self.missing.push(key);
        }
        node
    }

    /// The value of `key` as `parse` understands it, or `default` when it is absent (or wrong, which is reported).
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        self.optional(key).and_then(|node| node.read(parse)).unwrap_or(default)
    }

    fn close(self) {
        let mut suggested = Vec::new();
        let unknown = self.entries.keys().filter_map(Value::as_str).filter(|key| !self.known.contains(key));
        for key in unknown {
            suggested.extend(nearest(key, self.known.iter().copied()));
            let remedy = suggestion(key, self.known.iter().copied());
            self.collector.add(join(&self.path, key), format!("unknown key; {remedy}"));
        }
        // A needed key that is only misspelt was reported just now.
        for key in self.missing.into_iter().filter(|key| !suggested.contains(key)) {
            self.collector.add(join(&self.path, key), "is missing");
        }
    }
}
