//! What a probe reports.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::tls::{HandshakeFailure, Refusal};
use crate::upstream::certificate::Certificate;
use crate::upstream::health::Proof;

/// What one probe found.
#[derive(Debug)]
pub struct Report {
    /// Whether the endpoint is well.
    pub outcome: Result<(), ProbeFailure>,
    /// Who answered.
    pub identity: Identity,
    /// The certificate that was shown, believed or not.
    pub certificate: Option<Arc<Certificate>>,
    /// The certificates that came behind it.
    pub chain: Vec<Certificate>,
}

/// Who answered a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody was asked for proof.
    NotAsked,
    /// No certificate was shown: the probe did not get so far, or went over a connection that was there.
    NotSeen,
    /// The endpoint is who it should be.
    Verified,
    /// It is not, or cannot show that it is.
    Refused(Refusal),
}

/// Why an endpoint is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeFailure {
    /// The files that say whom to believe were never readable.
    #[error("cannot verify anybody: {0}")]
    Files(String),
    /// The time was over.
    #[error("no answer within {}: {stage}", humantime::format_duration(*.limit))]
    TimedOut {
        /// What it was waiting for.
        stage: Stage,
        /// How long it waited in all.
        limit: Duration,
    },
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// A connection, but no TLS.
    #[error("no TLS handshake: {why}{}", doubt(*.announced))]
    Handshake {
        /// What happened.
        why: HandshakeFailure,
        /// Whether a PROXY header came first.
        announced: bool,
    },
    /// TLS with somebody else.
    #[error("not who it should be: {0}")]
    Refused(Refusal),
    /// TLS, but no answer to the request.
    #[error("no HTTP answer: {0}")]
    NoAnswer(String),
    /// An answer, and the wrong one.
    #[error("answered with status {0}")]
    Status(u16),
}

fn doubt(announced: bool) -> &'static str {
    if announced { "; does it expect a PROXY header, as `proxy_protocol` says?" } else { "" }
}

/// How far a probe came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for TCP.
    #[default]
    Connecting,
    /// Waiting for TLS.
    Handshaking,
    /// Waiting for the answer.
    Asking,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "it does not accept",
            Self::Handshaking => "it accepts, but does not complete a TLS handshake",
            Self::Asking => "it does not answer the request",
        })
    }
}

impl Report {
    /// Whether the endpoint is ready, for [`Health::note`](crate::upstream::health::Health::note); `None` if it was not
    /// asked, for want of proof.
    pub fn passed(&self) -> Option<bool> {
        match self.outcome {
            Err(ProbeFailure::Refused(_)) => None,
            _ => Some(self.outcome.is_ok()),
        }
    }

    /// What is said about identity, likewise.
    pub fn proof(&self) -> Proof {
        match self.identity {
            Identity::NotAsked | Identity::NotSeen => Proof::None,
            Identity::Verified => Proof::Given,
            Identity::Refused(_) => Proof::Failed,
        }
    }
}
