//! The ClientHello: from raw bytes to the few things that routing and the log need of it.
//!
//! [`HelloReader`] follows the TLS records of a connection's first bytes until the hello is complete, whatever reads and
//! records it is cut into; a strict parser then turns it into a [`ClientHello`]. "Need more bytes" is not an error, and
//! "no server name" is not one either.
//!
//! Strict means: every vector is consumed exactly, and what one reader could take differently from another is refused.
//! A lenient proxy in front of a server with its own idea of the same bytes would route one name and serve another.

pub mod alert;
mod client_hello;
mod ja4;
mod records;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use ja4::ja4;
pub use records::HelloReader;

use crate::outcome::Reason;
use crate::server_name::ServerName;

/// The largest `max_client_hello` that makes sense: post-quantum key shares and a full session ticket stay far below.
pub const LARGEST_CLIENT_HELLO: usize = 64 * 1024;

/// What routing and the log need of one ClientHello. Owned, small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// What the client says it wants to reach.
    pub server_name: Sni,
    /// The application protocols it offers, in its order.
    pub alpn: Vec<AlpnProtocol>,
    /// Whether it carries `encrypted_client_hello`, real or as GREASE. The server name is the outer one then.
    pub ech: bool,
    /// The `legacy_version` field; TLS 1.3 clients say 0x0303 here.
    pub legacy_version: u16,
    /// TLS records it spans.
    pub records: usize,
    /// Handshake bytes, the 4-byte header included.
    pub len: usize,
}

/// The server name of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// None, or an IP literal, which counts as none.
    Absent,
    /// An acceptable name.
    Name(ServerName),
    /// A well-formed extension with a name that breaks the rules of [`ServerName`]; its raw bytes, for the log.
    Invalid(Box<[u8]>),
}

impl Sni {
    /// What a host name counts as, in the bytes in which a client sends it.
    pub fn from_wire(raw: &[u8]) -> Self {
        match ServerName::from_wire(raw) {
            Ok(Some(name)) => Self::Name(name),
            Ok(None) => Self::Absent,
            Err(_) => Self::Invalid(raw.into()),
        }
    }
}

/// A protocol name of ALPN (RFC 7301): 1 to 255 bytes, any bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlpnProtocol(Box<[u8]>);

/// Why some text is no protocol name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not 1 to 255 bytes long")]
pub struct InvalidAlpnProtocol;

impl AlpnProtocol {
    /// The name as it is on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for AlpnProtocol {
    type Error = InvalidAlpnProtocol;

    fn try_from(name: &[u8]) -> Result<Self, Self::Error> {
        if (1..=255).contains(&name.len()) { Ok(Self(name.into())) } else { Err(InvalidAlpnProtocol) }
    }
}

impl FromStr for AlpnProtocol {
    type Err = InvalidAlpnProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.as_bytes().try_into()
    }
}

/// Escaped, so that no client writes control bytes into a log.
impl fmt::Display for AlpnProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for AlpnProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Why some bytes are no acceptable hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first bytes are not those of a TLS handshake record.
    #[error("not TLS")]
    NotTls,
    /// Longer than `max_client_hello`, or more than twice that in raw bytes.
    #[error("ClientHello too large")]
    TooLarge,
    /// A rule of the format is broken.
    #[error("malformed ClientHello: {0}")]
    Malformed(#[from] Malformed),
}

impl HelloError {
    /// The reason that log and metrics give.
    pub fn reason(self) -> Reason {
        match self {
            Self::NotTls => Reason::NotTls,
            Self::TooLarge => Reason::HelloTooLarge,
            Self::Malformed(_) => Reason::HelloMalformed,
        }
    }
}

/// The rule that a malformed hello breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A later record is no handshake record.
    #[error("another record type before the hello is complete")]
    RecordType,
    /// A later record's major version is not 3.
    #[error("record version is not 3.x")]
    RecordVersion,
    /// A record is empty or longer than 2^14 bytes.
    #[error("record length is not 1 to 16384")]
    RecordLength,
    /// The first handshake message is not a ClientHello.
    #[error("the first handshake message is not a ClientHello")]
    HandshakeType,
    /// The hello does not end where a record ends.
    #[error("handshake bytes follow the hello in its last record")]
    TrailingBytes,
    /// The fields up to the extensions do not fit the message, or bytes follow the extensions.
    #[error("its fields do not fill the message")]
    Fields,
    /// No cipher suite.
    #[error("no cipher suite")]
    CipherSuites,
    /// No null compression.
    #[error("no null compression method")]
    Compression,
    /// The extensions do not fill their block.
    #[error("its extensions do not fill their block")]
    Extensions,
    /// Two extensions of one type.
    #[error("an extension occurs twice")]
    DuplicateExtension,
    /// `pre_shared_key` is not the last extension.
    #[error("pre_shared_key is not the last extension")]
    PreSharedKey,
    /// `server_name` is not exactly one `host_name`.
    #[error("server_name is not a list of exactly one host_name")]
    ServerName,
    /// The ALPN list is broken.
    #[error("broken ALPN list")]
    Alpn,
    /// The `supported_versions` list is broken.
    #[error("broken supported_versions list")]
    SupportedVersions,
    /// A list of signature algorithms is broken.
    #[error("broken list of signature algorithms")]
    SignatureAlgorithms,
}
