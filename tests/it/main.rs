//! Everything that is tested from outside the library, in one binary: real sockets, real TLS, real tools.
//!
//! Rules of the house: no fixed ports, no bare sleeps (wait for a condition, with a deadline), no Internet. A test whose
//! tool is missing says so and passes, unless `SNIGATE_REQUIRE_TOOLS=1`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
#![allow(unreachable_pub)] // in one binary `pub` means the same everywhere

mod access_log;
mod addresses;
mod admin;
mod announced;
mod check_probe;
mod cli;
mod corpus;
mod corpus_gate;
mod curl;
mod demo;
mod descriptors;
mod docs;
mod draining;
mod endpoints;
mod exhaustion;
mod half_close;
mod haproxy;
mod harness;
mod health;
mod hello;
mod import;
mod kubeconfig;
mod kubectl;
mod limits;
mod listeners;
mod live;
mod memory;
mod metrics;
mod names;
mod network;
mod openssl;
mod packages;
mod peers;
mod pipes;
mod power;
mod probes;
mod proxy_protocol;
mod refusals;
mod reload;
mod resets;
mod revocation;
mod soak;
mod spreading;
mod stopping;
mod supervision;
mod support;
mod tls;
mod transfers;
mod turnover;
mod upgrade;
