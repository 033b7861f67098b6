//! What holds for every input: one module a fuzz target, each with a `check` that panics when it does not.

#![allow(clippy::unwrap_used)] // a failed unwrap is a finding

pub mod config;
pub mod connection;
pub mod differential;
pub mod hello;
pub mod names;
pub mod proxy_header;
pub mod seeds;
mod streams;
