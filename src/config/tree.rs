//! Text → YAML tree: syntax errors by line, repeated keys by path.
//!
//! `serde_yaml::Value` stops at the first repeated key and knows only where its mapping began, so the tree is built
//! here.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::{Error, Mapping, Value};

use super::mistakes::Collector;

/// Reads the whole text. `None`: not even YAML, which is among the mistakes then.
pub(super) fn read(text: &str, collector: &Collector) -> Option<Value> {
    let root = Subtree { path: String::new(), collector };
    match root.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(tree) => Some(tree),
        Err(error) => {
            report_syntax(text, &error, collector);
            None
        }
    }
}

/// The path of `key` below `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

struct Subtree<'c> {
    path: String,
    collector: &'c Collector,
}

impl Subtree<'_> {
    fn below(&self, path: String) -> Subtree<'_> {
        Subtree { path, collector: self.collector }
    }
}

impl<'de> DeserializeSeed<'de> for Subtree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Subtree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok((value as f64).into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok((value as f64).into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(format!("{}[{}]", self.path, list.len())))? {
            list.push(item);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut mapping = Mapping::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = join(&self.path, &key);
            let value = entries.next_value_seed(self.below(path.clone()))?;
            if mapping.contains_key(&key) {
                self.collector.add(path, "is given twice: keep one of them");
            } else {
                mapping.insert(key.into(), value);
            }
        }
        Ok(Value::Mapping(mapping))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        self.collector
            .add(self.path.clone(), format!("has a YAML tag, `!{tag}`, which means nothing here: leave it out"));
        content.newtype_variant_seed(self)
    }
}

fn report_syntax(text: &str, error: &Error, collector: &Collector) {
    let message = error.to_string();
    let Some(location) = error.location() else {
        collector.add("", message);
        return;
    };
    let (line, column) = (location.line(), location.column());
    let place = format!("line {line}, column {column}");
    let written = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let unquoted = unquoted(written, column, &message);
    collector
        .add(place, unquoted.unwrap_or_else(|| message.replacen(&format!(" at line {line} column {column}"), "", 1)));
}

/// What to write instead, where a value of this configuration needs quotes to be no YAML syntax.
fn unquoted(line: &str, column: usize, message: &str) -> Option<String> {
    let at = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    if message.contains("alias") || message.contains("unknown anchor") {
        // The error stands at the `*` or some letters behind it.
        let asterisk = line[..at].rfind('*').filter(|_| !line[at..].starts_with('*')).unwrap_or(at);
        let pattern = line[asterisk..].split([' ', ',', ']', '}']).next()?;
        return Some(format!("an unquoted `*` is a YAML alias; if a pattern is meant, quote it: \"{pattern}\""));
    }
    (message.contains("node content") && line[at..].starts_with(':'))
        .then(|| "an address that begins with `:` or `[` needs quotes here".to_owned())
}
