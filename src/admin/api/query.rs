//! The question of `explain`, as a URL has it.

use std::str::FromStr;

use crate::config::explain::{Client, SOMEWHERE};
use crate::config::suggestion;
use crate::hello::Sni;

/// A client, and the listener that it comes to, if not to each.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) client: Client,
    pub(super) listener: Option<String>,
}

const KEYS: [&str; 4] = ["server_name", "alpn", "source", "listener"];

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let client = Client { server_name: Sni::Absent, alpn: Vec::new(), source: SOMEWHERE };
        let mut query = Self { client, listener: None };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| format!("{value:?} is not encoded as URLs are"))?;
            let text = || String::from_utf8(value.clone()).map_err(|_| format!("`{key}` is not text"));
            let wrong = |value: &str, why: &dyn std::fmt::Display| format!("{key}: {value:?} {why}");
            match key {
                "server_name" => query.client.server_name = Sni::from_wire(&value),
                "alpn" => {
                    let text = text()?;
                    query.client.alpn.push(text.parse().map_err(|error| wrong(&text, &error))?);
                }
                "source" => {
                    let text = text()?;
                    query.client.source = text.parse().map_err(|_| wrong(&text, &"is no IP address"))?;
                }
                "listener" => query.listener = Some(text()?),
                _ => return Err(format!("{key:?} is unknown; {}", suggestion(key, KEYS.into_iter()))),
            }
        }
        Ok(query)
    }
}

/// The bytes of a value in a URL.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            // `u8` would also take a plus sign.
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_from_a_url() {
        let query: Query =
            "server_name=a.test&alpn=h2&alpn=http%2F1.1&source=2001%3adb8::1&listener=k%25".parse().unwrap();
        assert_eq!(query.client.server_name, Sni::Name("a.test".parse().unwrap()));
        assert_eq!(query.client.alpn, ["h2", "http/1.1"].map(|text| text.parse().unwrap()));
        assert_eq!((query.client.source, query.listener.as_deref()), ("2001:db8::1".parse().unwrap(), Some("k%")));
        let nobody: Query = "".parse().unwrap();
        assert_eq!((nobody.client.server_name, nobody.client.source), (Sni::Absent, SOMEWHERE));
        let odd: Query = "server_name=%ff%0a".parse().unwrap();
        assert!(matches!(odd.client.server_name, Sni::Invalid(_)));
    }

    #[test]
    fn what_is_wrong_with_a_question_is_told() {
        for (text, wrong) in [
            ("name=a.test", "\"name\" is unknown; known here: `server_name`, `alpn`"),
            ("source=here", "source: \"here\" is no IP address"),
            ("listener=%ff", "`listener` is not text"),
            ("server_name=%f", "\"%f\" is not encoded as URLs are"),
            ("server_name=%+f", "\"%+f\" is not encoded as URLs are"),
            ("alpn=", "alpn: \"\" "),
        ] {
            let error = text.parse::<Query>().unwrap_err();
            assert!(error.starts_with(wrong), "{text}: {error}");
        }
    }
}
