//! Hellos as clients send them, judged by outside readers: see the README beside the corpus.

use serde::Deserialize;
use snigate::hello::{ClientHello, HelloError, HelloReader, LARGEST_CLIENT_HELLO, Sni, ja4};

use crate::support::tools;

/// The default of `max_client_hello`.
const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// One file of the corpus.
#[derive(Deserialize)]
pub(crate) struct Sample {
    pub(crate) file: String,
    pub(crate) len: usize,
    pub(crate) suggested: Suggested,
    pub(crate) verdict: String,
    pub(crate) sni_normalized: Option<String>,
    alpn: Vec<String>,
    ja4: Option<String>,
    #[serde(skip)]
    pub(crate) bytes: Vec<u8>,
}

/// What a strict router must do with a sample.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Suggested {
    /// Reach the route of its name.
    Route,
    /// Reach nothing.
    Deny,
    /// One of the two, never another name.
    Either,
}

/// All samples, or nothing where the corpus is not there.
pub(crate) fn samples() -> Option<Vec<Sample>> {
    let folder = tools::corpus()?;
    let list = std::fs::read(folder.join("corpus.json")).expect("the corpus has its list");
    let mut samples: Vec<Sample> = serde_json::from_slice(&list).expect("corpus.json is a list of samples");
    for sample in &mut samples {
        sample.bytes = std::fs::read(folder.join(&sample.file)).expect("every listed sample is there");
        assert_eq!(sample.bytes.len(), sample.len, "{}", sample.file);
    }
    assert!(!samples.is_empty());
    Some(samples)
}

/// The reads a sample comes in: the position after each.
pub(crate) fn cuts(len: usize) -> [(&'static str, Vec<usize>); 4] {
    [
        ("one write", vec![len]),
        ("halves", vec![len / 2, len]),
        ("cut at 1400", vec![len.min(1400), len]),
        ("byte by byte", (1..=len).collect()),
    ]
}

fn read(bytes: &[u8], ends: &[usize], max_client_hello: usize) -> Result<Option<ClientHello>, HelloError> {
    let mut reader = HelloReader::new(max_client_hello);
    for &end in ends {
        if let Some(hello) = reader.advance(&bytes[..end])? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

#[test]
fn every_sample_gets_the_expected_answer_whatever_its_cut() {
    let mut wrong = Vec::new();
    for sample in samples().unwrap_or_default() {
        let answer = read(&sample.bytes, &[sample.len], MAX_CLIENT_HELLO);
        let name = match &answer {
            Ok(Some(ClientHello { server_name: Sni::Name(name), .. })) => Some(name.as_str()),
            _ => None,
        };
        let right = match sample.suggested {
            Suggested::Route => name.is_some() && name == sample.sni_normalized.as_deref(),
            Suggested::Deny => name.is_none(),
            Suggested::Either => name.is_none() || name == sample.sni_normalized.as_deref(),
        };
        if !right {
            wrong.push(format!("{}: {:?} but {answer:?}", sample.file, sample.suggested));
        }
        for (cut, ends) in cuts(sample.len) {
            let answer_by_cut = read(&sample.bytes, &ends, MAX_CLIENT_HELLO);
            if answer_by_cut != answer {
                wrong.push(format!("{}, {cut}: {answer_by_cut:?}, whole: {answer:?}", sample.file));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A verdict is finer than route or deny: what was refused must be refused as what it is.
#[test]
fn every_refusal_has_its_kind() {
    let mut wrong = Vec::new();
    for sample in samples().unwrap_or_default().iter().filter(|sample| sample.suggested == Suggested::Deny) {
        let answer = read(&sample.bytes, &[sample.len], LARGEST_CLIENT_HELLO);
        let right = match sample.verdict.as_str() {
            // Broken enough to tell before the end is there, some of them.
            "incomplete" => matches!(answer, Ok(None) | Err(HelloError::Malformed(_))),
            "not_tls" | "sslv2_hello" => answer == Err(HelloError::NotTls),
            // A NUL in the name is malformed to OpenSSL and an invalid name here; a wrong first version byte is not TLS.
            "malformed" => {
                let invalid_name = matches!(answer, Ok(Some(ClientHello { server_name: Sni::Invalid(_), .. })));
                invalid_name || answer.is_err()
            }
            "no_sni" => {
                let absent = matches!(answer, Ok(Some(ClientHello { server_name: Sni::Absent, .. })));
                absent || answer == Err(HelloError::TooLarge)
            }
            "empty_sni" => matches!(answer, Ok(Some(ClientHello { server_name: Sni::Invalid(_), .. }))),
            "sni" => matches!(answer, Ok(Some(ClientHello { server_name: Sni::Invalid(_) | Sni::Absent, .. }))),
            _ => false,
        };
        if !right {
            wrong.push(format!("{}: {} but {answer:?}", sample.file, sample.verdict));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn alpn_and_ja4_are_those_of_the_outside_readers() {
    let mut wrong = Vec::new();
    for sample in samples().unwrap_or_default() {
        let Ok(Some(hello)) = read(&sample.bytes, &[sample.len], LARGEST_CLIENT_HELLO) else { continue };
        let alpn: Vec<_> =
            hello.alpn.iter().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).collect();
        if alpn != sample.alpn {
            wrong.push(format!("{}: ALPN {alpn:?} but {:?}", sample.file, sample.alpn));
        }
        let fingerprint = ja4(&sample.bytes);
        if sample.ja4.is_some() && fingerprint != sample.ja4 {
            wrong.push(format!("{}: JA4 {fingerprint:?} but {:?}", sample.file, sample.ja4));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
