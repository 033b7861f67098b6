//! The words of an `acl`, or between braces → a [`Test`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::conditions::{Numbers, Test};
use super::names::{How, NameMatch};
use super::sources::SourceSet;

/// What the files that the configuration names have in them, by the names that it gives them.
pub type Files = HashMap<String, String>;

/// Flags and patterns after a criterion.
struct Patterns {
    any_case: bool,
    method: Option<String>,
    texts: Vec<String>,
}

const WELL: &str = "is taken to be as when all is well and quiet: endpoints up, counters at zero. Failing endpoints are \
                    left out here by themselves, with `backup` ones behind them, and `limits` count connections";

/// Reads a criterion with its flags and patterns; what is to be said of it goes to `remarks`.
///
/// # Errors
/// What is wrong with it, and what to do about it.
pub(super) fn read(words: &[String], files: &Files, remarks: &mut Vec<String>) -> Result<Test, String> {
    let (criterion, rest) = words.split_first().ok_or("a condition is empty: write what must hold")?;
    let patterns = patterns(rest, files)?;
    let parts = parts(criterion);
    let (fetch, converters) = parts.split_first().map_or((criterion.as_str(), &[][..]), |(one, rest)| (*one, rest));
    let bare = fetch.split('(').next().unwrap_or_default();
    let lowered = converters.contains(&"lower");
    if let Some(converter) = converters.iter().find(|converter| **converter != "lower") {
        return Ok(Test::Unknown(format!("`,{converter}` is not worked out here")));
    }
    if let Some((ended, how)) = server_name(bare) {
        return Ok(name_test(ended, how, lowered, &patterns, remarks));
    }
    Ok(match bare {
        "src" => networks(&patterns).map_or_else(Test::Unknown, Test::Source),
        "dst" => networks(&patterns).map_or_else(Test::Unknown, Test::Destination),
        "dst_port" => Test::DestinationPort(numbers(&patterns)?),
        "ssl_fc" => Test::Ended,
        "always_true" => Test::Constant(true),
        "always_false" => Test::Constant(false),
        "req_ssl_hello_type" | "req.ssl_hello_type" if numbers(&patterns)?.hold(1) => Test::Hello,
        "req_ssl_hello_type" | "req.ssl_hello_type" => Test::Constant(false),
        "req_len" | "req.len" if numbers(&patterns)?.hold(u64::MAX) => Test::Constant(true),
        "req_proto_http" | "req.proto_http" => Test::Request(unseen(bare).to_owned()),
        _ => match counted(bare) {
            None => Test::Unknown(format!("`{fetch}` {}", unseen(bare))),
            Some(nominal) => {
                remarks.push(format!("`{fetch}` {WELL}"));
                let told = if patterns.texts.is_empty() { nominal > 0 } else { numbers(&patterns)?.hold(nominal) };
                Test::Constant(told)
            }
        },
    })
}

/// A sample with its converters, taken apart at commas outside of parentheses.
pub(super) fn parts(criterion: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let at_comma = move |character: char| {
        depth = match character {
            '(' => depth + 1,
            ')' => depth.saturating_sub(1),
            _ => depth,
        };
        character == ',' && depth == 0
    };
    criterion.split(at_comma).collect()
}

/// Whether this samples the server name: after TLS was ended or from the hello, and how it is compared unless `-m` says.
pub(super) fn server_name(fetch: &str) -> Option<(bool, How)> {
    if fetch == "ssl_fc_has_sni" {
        return Some((true, How::Found));
    }
    let (ended, suffix) = match fetch.strip_prefix("ssl_fc_sni") {
        Some(suffix) => (true, suffix),
        None => (false, fetch.strip_prefix("req.ssl_sni").or_else(|| fetch.strip_prefix("req_ssl_sni"))?),
    };
    Some((ended, method(suffix.strip_prefix('_').unwrap_or(suffix))))
}

fn method(name: &str) -> How {
    match name {
        "" | "str" => How::Exact,
        "beg" => How::Beginning,
        "end" => How::End,
        "sub" => How::Anywhere,
        "dom" => How::Labels,
        "found" => How::Found,
        _ => How::Unclear,
    }
}

fn name_test(ended: bool, how: How, lowered: bool, patterns: &Patterns, remarks: &mut Vec<String>) -> Test {
    let (method, is_regex) = match patterns.method.as_deref() {
        Some("reg") => (How::Unclear, true),
        Some(other) => (method(other), false),
        None => (how, false),
    };
    if method == How::Found {
        return Test::Name { ended, matches: vec![NameMatch::new(How::Found, "", true)] };
    }
    let any_case = patterns.any_case;
    let mut matches = Vec::with_capacity(patterns.texts.len());
    for text in &patterns.texts {
        // A name in lower case has no capitals to be found.
        if lowered && !any_case && text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            remarks.push(format!("`{text}` has capitals and never matched what `,lower` makes"));
            continue;
        }
        let one = match method {
            // `ssl_fc_sni_reg` is the other way to say so.
            How::Unclear if is_regex || patterns.method.is_none() => NameMatch::of_regex(text, any_case),
            method => NameMatch::new(method, text, any_case),
        };
        remarks.extend(remark(text, &one));
        matches.push(one);
    }
    Test::Name { ended, matches }
}

/// What is to be known of a comparison that patterns do not make.
fn remark(text: &str, one: &NameMatch) -> Option<String> {
    if one.is_impossible() {
        let star = match text.contains('*') {
            true => ": to HAProxy `*` is a letter like others; `-m end` may have been meant",
            false => "",
        };
        return Some(format!("no client can send the server name `{text}`, so that it never matched{star}"));
    }
    if one.tells_capitals() {
        return Some(format!(
            "`{text}` took only clients that write it with these capitals, and here there are none: its name is left out"
        ));
    }
    (!one.is_expressible()).then(|| {
        format!(
            "a route takes whole names, or `*.` and the end of them, and not a part such as `{text}`: names that no \
             pattern tells apart are left out"
        )
    })
}

fn patterns(words: &[String], files: &Files) -> Result<Patterns, String> {
    let mut patterns = Patterns { any_case: false, method: None, texts: Vec::new() };
    let (mut flags, mut is_map) = (true, false);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-i" if flags => patterns.any_case = true,
            "-n" if flags => {}
            "-M" if flags => is_map = true,
            "-u" if flags => _ = rest.next(),
            "-m" if flags => patterns.method = rest.next().cloned(),
            "-f" if flags => {
                let name = rest.next().ok_or("`-f` needs a file: name it")?;
                let text = files.get(name).ok_or_else(|| format!("the file {name} was not read"))?;
                let key = |line: &str| {
                    if is_map { line.split_whitespace().next().unwrap_or_default().to_owned() } else { line.to_owned() }
                };
                patterns.texts.extend(file_lines(text).map(key));
            }
            "--" if flags => flags = false,
            _ => {
                flags = false;
                patterns.texts.push(word.clone());
            }
        }
    }
    Ok(patterns)
}

/// The lines of a file of patterns or of a map that are neither empty nor comments.
pub(super) fn file_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn networks(patterns: &Patterns) -> Result<SourceSet, String> {
    let networks: Result<Vec<_>, _> = patterns.texts.iter().map(|text| network(text)).collect();
    networks.map(|networks| SourceSet::of(&networks))
}

fn network(text: &str) -> Result<IpNet, String> {
    let masked = || {
        let (address, mask) = text.split_once('/')?;
        let (address, mask): (Ipv4Addr, Ipv4Addr) = (address.parse().ok()?, mask.parse().ok()?);
        Ipv4Net::with_netmask(address, mask).ok().map(IpNet::V4)
    };
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).or_else(masked);
    network.map(|network| network.trunc()).ok_or_else(|| format!("`{text}` is no network"))
}

fn numbers(patterns: &Patterns) -> Result<Numbers, String> {
    let mut numbers = Numbers::default();
    let mut operator = "eq";
    for text in &patterns.texts {
        if ["eq", "ge", "gt", "le", "lt"].contains(&text.as_str()) {
            operator = text;
            continue;
        }
        let wrong = || format!("`{text}` is no number: write one, or a range such as 1:1024");
        let read = |text: &str, absent| if text.is_empty() { Ok(absent) } else { text.parse().map_err(|_| wrong()) };
        numbers.0.push(match text.split_once(':') {
            Some((least, most)) => (read(least, 0)?, read(most, u64::MAX)?),
            None => {
                let number: u64 = text.parse().map_err(|_| wrong())?;
                match operator {
                    "ge" => (number, u64::MAX),
                    "gt" => (number.saturating_add(1), u64::MAX),
                    "le" => (0, number),
                    // Less than zero is nothing.
                    "lt" if number == 0 => (1, 0),
                    "lt" => (0, number - 1),
                    _ => (number, number),
                }
            }
        });
    }
    Ok(numbers)
}

/// What a counter shows when all is well and quiet.
fn counted(fetch: &str) -> Option<u64> {
    /// More servers than any condition asks for.
    const ENOUGH: u64 = 1_000_000;
    let quiet = ["sc_", "sc0_", "sc1_", "sc2_", "fe_", "be_", "srv_", "table_", "queue", "avg_queue"];
    match fetch {
        "src_port" | "src_is_local" | "fe_id" | "fe_name" | "be_id" | "be_name" | "srv_id" | "srv_name" => None,
        "nbsrv" | "connslots" | "be_conn_free" | "srv_is_up" => Some(ENOUGH),
        _ if fetch.starts_with("src_") || quiet.iter().any(|start| fetch.starts_with(start)) => Some(0),
        _ => None,
    }
}

/// Why a sample cannot be had here.
fn unseen(fetch: &str) -> &'static str {
    if fetch.starts_with("ssl_c_") {
        "is about certificates that clients show, which the upstream sees and nobody before it"
    } else if fetch.starts_with("ssl_fc") {
        "is about the TLS that HAProxy ended; here it goes through to the upstream"
    } else if fetch.contains("alpn") {
        "compares the client's whole list of protocols; `alpn` of a route takes who offers one of some, so write it by hand"
    } else if fetch.starts_with("req.ssl") || fetch.starts_with("req_ssl") || fetch.starts_with("req.payload") {
        "looks at a part of the hello that routes do not"
    } else if fetch.contains("hdr") {
        "reads headers, which are inside TLS; clients that ask for a host send the same name as their server name, so \
         write `server_names` for it by hand"
    } else {
        "is not seen here: requests are inside TLS"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(text: &str) -> Test {
        let files = Files::from([
            ("names".into(), "# comment\nA.test\n\nb.test\n".into()),
            ("map".into(), "a.test x\n".into()),
        ]);
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        read(&words, &files, &mut Vec::new()).unwrap()
    }

    fn name(ended: bool, how: How, texts: &[&str], any_case: bool) -> Test {
        Test::Name { ended, matches: texts.iter().map(|text| NameMatch::new(how, text, any_case)).collect() }
    }

    #[test]
    fn server_names_are_read_in_every_form() {
        for (text, expected) in [
            ("ssl_fc_sni a.test", name(true, How::Exact, &["a.test"], false)),
            ("ssl_fc_sni_end .a.test", name(true, How::End, &[".a.test"], false)),
            ("ssl_fc_sni_reg \\.a\\.test$", name(true, How::End, &[".a.test"], false)),
            ("ssl_fc_has_sni", name(true, How::Found, &[""], true)),
            ("req.ssl_sni -i A.test b.test", name(false, How::Exact, &["A.test", "b.test"], true)),
            ("req_ssl_sni -m end -i .a.test", name(false, How::End, &[".a.test"], true)),
            ("req.ssl_sni,lower -m beg a", name(false, How::Beginning, &["a"], false)),
            ("req.ssl_sni,lower A.test b.test", name(false, How::Exact, &["b.test"], false)),
            ("req.ssl_sni -m found", name(false, How::Found, &[""], true)),
            ("req.ssl_sni -m reg -i ^A\\.test$", name(false, How::Exact, &["a.test"], true)),
            ("req.ssl_sni -i -f names -- -x", name(false, How::Exact, &["A.test", "b.test", "-x"], true)),
            ("req.ssl_sni -M -f map", name(false, How::Exact, &["a.test"], false)),
        ] {
            assert_eq!(test(text), expected, "{text}");
        }
    }

    #[test]
    fn other_samples_are_known_or_told() {
        let ten = SourceSet::of(&["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(test("src 10.1.2.3/8"), Test::Source(ten.clone()));
        assert_eq!(test("src 10.0.0.0/255.0.0.0"), Test::Source(ten));
        assert!(matches!(test("src office.test"), Test::Unknown(_)));
        assert_eq!(test("dst_port ge 10"), Test::DestinationPort(Numbers(vec![(10, u64::MAX)])));
        assert_eq!(test("dst_port 1:3 7"), Test::DestinationPort(Numbers(vec![(1, 3), (7, 7)])));
        assert_eq!(test("req.ssl_hello_type 1"), Test::Hello);
        assert_eq!(test("req.ssl_hello_type 2"), Test::Constant(false));
        assert_eq!(test("req.len gt 0"), Test::Constant(true));
        assert_eq!(test("nbsrv(other) lt 1"), Test::Constant(false));
        assert_eq!(test("src_conn_rate gt 100"), Test::Constant(false));
        for text in ["hdr(host) -i a.test", "ssl_c_used", "req.ssl_alpn h2", "path_beg /x", "req.ssl_sni,field(1,.) a"]
        {
            assert!(matches!(test(text), Test::Unknown(_)), "{text}");
        }
    }
}
