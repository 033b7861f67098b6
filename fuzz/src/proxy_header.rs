//! PROXY headers: one answer whatever comes behind, and nothing understood before the last byte that it takes.

use std::net::SocketAddr;

use snigate::proxy_protocol::{Details, Ends, Header, LONGEST_HEADER, Version, read};

/// Bytes as they came from a trusted proxy.
pub fn check(data: &[u8]) {
    match read(data) {
        Ok(Some(Header { ends, length })) => {
            assert!(length <= data.len().min(LONGEST_HEADER));
            for cut in 0..length {
                assert_eq!(read(&data[..cut]), Ok(None), "understood after {cut} of {length} bytes");
            }
            assert_eq!(read(&data[..length]), Ok(Some(Header { ends, length })), "what comes behind it counts");
            ends.iter().for_each(written_as_it_was_read);
        }
        Ok(None) => assert!(data.len() < LONGEST_HEADER, "waits for more than a header may have"),
        Err(error) => {
            let longer = [data, b"\r\n"].concat();
            assert_eq!(read(&longer), Err(error), "more bytes mend it");
        }
    }
}

fn written_as_it_was_read(ends: &Ends) {
    for address in [ends.source, ends.destination] {
        assert_eq!(SocketAddr::new(address.ip().to_canonical(), address.port()), address);
    }
    for version in [Version::V1, Version::V2] {
        let written = version.header(ends, &Details { authority: None, alpn: None, unique_id: "1" });
        assert_eq!(read(&written), Ok(Some(Header { ends: Some(*ends), length: written.len() })));
    }
}

/// Headers of both versions.
pub fn seeds() -> Vec<Vec<u8>> {
    let ends = |source: &str, destination: &str| Ends::new(source.parse().unwrap(), destination.parse().unwrap());
    let all = [ends("192.0.2.1:40000", "198.51.100.7:6443"), ends("[2001:db8::1]:40000", "[2001:db8::2]:6443")];
    let mut seeds = vec![Version::V1.header_of_our_own(), Version::V2.header_of_our_own()];
    for ends in &all {
        for version in [Version::V1, Version::V2] {
            let authority = "a.test".parse().ok();
            seeds.push(
                version.header(ends, &Details { authority: authority.as_ref(), alpn: None, unique_id: "5f-1-2" }),
            );
        }
    }
    seeds
}
