//! A line of HAProxy's configuration → its words: quotes, escapes, comments, variables of the environment.

use std::iter::Peekable;
use std::str::Chars;
use std::time::Duration;

/// Values of environment variables.
pub(super) type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// The words of `line`; none if it is empty or a comment.
///
/// # Errors
/// What is wrong with it, and what to do about it.
pub(super) fn split(line: &str, environment: &Environment<'_>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push_str(&escaped(&mut rest)),
            ('$', Some('"')) => word.get_or_insert_default().push_str(&variable(&mut rest, environment)?),
            (closing, Some(open)) if closing == open => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(character);
            }
            ('#', None) => break,
            (blank, None) if blank.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a quotation mark {open} is not closed: close it on the same line"));
    }
    words.extend(word);
    Ok(words)
}

/// What follows a backslash. Before other characters it stands for itself, as regular expressions need it.
fn escaped(rest: &mut Peekable<Chars<'_>>) -> String {
    let plain = match rest.peek() {
        Some(&character @ (' ' | '\\' | '#' | '\'' | '"' | '$')) => character,
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        _ => return "\\".to_owned(),
    };
    rest.next();
    plain.to_string()
}

/// The value of `NAME` or `{NAME}`, after its dollar sign.
fn variable(rest: &mut Peekable<Chars<'_>>, environment: &Environment<'_>) -> Result<String, String> {
    let braces = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(character) = rest.next_if(|&next| next.is_ascii_alphanumeric() || next == '_') {
        name.push(character);
    }
    if name.is_empty() && !braces {
        return Ok("$".to_owned());
    }
    // `${NAME-default}` came with HAProxy 2.9.
    let default = rest.next_if_eq(&'-').filter(|_| braces).map(|_| {
        let mut default = String::new();
        while let Some(character) = rest.next_if(|&next| next != '}') {
            default.push(character);
        }
        default
    });
    if braces && rest.next_if_eq(&'}').is_none() {
        return Err(format!("`${{{name}` is no variable that can be read here: write its value"));
    }
    let value = environment(&name).or(default);
    value
        .ok_or_else(|| format!("the variable {name} is not set: set it as HAProxy sees it, as in `{name}=… snigate …`"))
}

/// `text` with the variables in it, as addresses may have them outside of quotes too.
///
/// # Errors
/// Which one is not set.
pub(super) fn expanded(text: &str, environment: &Environment<'_>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '$' => expanded.push_str(&variable(&mut rest, environment)?),
            other => expanded.push(other),
        }
    }
    Ok(expanded)
}

/// A time as HAProxy writes it: a number and perhaps a unit, milliseconds without one.
pub(super) fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let microseconds = match &text[digits..] {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(microseconds).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, String> {
        split(line, &|name| (name == "PORT").then(|| "6443".to_owned()))
    }

    #[test]
    fn words_are_split_as_haproxy_splits_them() {
        for (line, expected) in [
            ("", &[][..]),
            ("   # only a comment", &[]),
            ("  bind :6443   ssl # a comment", &["bind", ":6443", "ssl"]),
            ("acl a req.ssl_sni -m reg ^a\\.b$", &["acl", "a", "req.ssl_sni", "-m", "reg", "^a\\.b$"]),
            ("a 'b c' \"d # e\" f\\ g h\\#i", &["a", "b c", "d # e", "f g", "h#i"]),
            ("bind \":$PORT\" \"${PORT}0\" ':$PORT'", &["bind", ":6443", "64430", ":$PORT"]),
            ("a \"${NONE-x}\" \"\" \"a$\"", &["a", "x", "", "a$"]),
            ("{ a }\t{b}", &["{", "a", "}", "{b}"]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_remedy() {
        assert!(words("a 'b").unwrap_err().contains("not closed"));
        assert!(words("bind \":$OTHER\"").unwrap_err().contains("OTHER is not set"));
        assert!(words("bind \":${PORT[0]}\"").unwrap_err().contains("write its value"));
        assert_eq!(expanded(":$PORT", &|_| Some("1".into())).unwrap(), ":1");
    }

    #[test]
    fn times_are_in_milliseconds_unless_they_say() {
        for (text, expected) in
            [("5000", 5_000), ("86400s", 86_400_000), ("1d", 86_400_000), ("2m", 120_000), ("500ms", 500)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(expected)), "{text}");
        }
        assert!(time("5x").is_none() && time("s").is_none());
    }
}
