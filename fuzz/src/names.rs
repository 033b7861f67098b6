//! Names and patterns: the rules as the documentation has them, and one meaning on the wire and in the configuration.

use snigate::server_name::{InvalidServerName, ServerName, ServerNamePattern};

/// Checks the name behind the first newline against the pattern before it.
pub fn check(data: &[u8]) {
    let place = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (pattern, raw) = (&data[..place], data.get(place + 1..).unwrap_or_default());
    let name = check_name(raw);
    if let Ok(text) = std::str::from_utf8(pattern) {
        check_name(pattern);
        check_pattern(text, name.as_ref());
    }
}

fn check_name(raw: &[u8]) -> Option<ServerName> {
    let on_the_wire = ServerName::from_wire(raw);
    if let Ok(text) = std::str::from_utf8(raw) {
        let written = on_the_wire.clone().and_then(|name| name.ok_or(InvalidServerName::IpLiteral));
        assert_eq!(text.parse::<ServerName>(), written);
    }
    let name = on_the_wire.ok()??;
    let text = name.as_str();
    assert!((1..=253).contains(&text.len()));
    assert!(text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')), "{text}");
    for label in text.split('.') {
        assert!((1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-'), "{text}");
    }
    let last = text.rsplit('.').next().unwrap();
    assert!(!last.starts_with("0x") && last.bytes().any(|byte| !byte.is_ascii_digit()), "{text}");
    assert!(raw.eq_ignore_ascii_case(text.as_bytes()) || raw.eq_ignore_ascii_case(format!("{text}.").as_bytes()));
    assert_eq!(ServerName::from_wire(text.as_bytes()), Ok(Some(name.clone())), "its normal form is itself");
    Some(name)
}

fn check_pattern(text: &str, name: Option<&ServerName>) {
    let Ok(pattern) = text.parse::<ServerNamePattern>() else { return };
    let written = pattern.to_string();
    assert_eq!(written.parse(), Ok(pattern.clone()), "{text}");
    if let Some(name) = name {
        let expected = match written.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => name.as_str().ends_with(suffix),
            None => name.as_str() == written,
        };
        assert_eq!(pattern.matches(name), expected, "{pattern} and {name}");
    }
}
