//! snigate routes TLS by server name without decrypting it.
//!
//! One connection's way, top to bottom, is [`connection`]. Modules stand in layers; imports go downward only:
//!
//! ```text
//! main.rs            argv → command, exit code
//!  7  cli            one file a command
//!  6  admin          HTTP: health, metrics, API
//!  5  server         the process: configuration → running upstreams, workers, signals
//!     reload         from one configuration to the next
//!     control        one thread: what is not a connection; upstreams kept up to date
//!     worker         one thread, one single-threaded runtime, its listeners and its connections
//!     listener       socket options, accept loop
//!     drain          the stages of a process that was told to stop
//!     upgrade        listening sockets from one process to the next
//!     given          listening sockets that others have bound
//!     crew           the workers as they see each other; hand-over
//!     revocation     deciding again on live connections
//!     watchdog       whether every thread gets to its work
//!     supervisor     the service manager that started the process
//!     power          user, capabilities, files, system calls: what a running process gives up
//!  4  snapshot       what is in force
//!     connection     the story: one connection from accept to outcome
//!  3  relay          two directions; half-close; resets; idle
//!     upstream       endpoints, picking, connecting
//!     limits         permits: all, undecided, per source, per route; what fits
//!     observe        access log, live connections
//!  2  config         YAML → `Config` of parsed types; all mistakes at once
//!  1  routing        route table, source lists, decision          pure: no I/O, no tokio
//!     proxy_protocol PROXY headers, read and written             pure
//!     hello          record reassembly, strict ClientHello, JA4   pure
//!  0  server_name    ServerName, ServerNamePattern                pure
//!     outcome        Reason, Phase                                pure
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("snigate runs on Linux only: it stands on SO_REUSEPORT, epoll and Linux's inherited socket options");

pub mod admin;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod crew;
pub mod drain;
pub mod given;
pub mod hello;
pub mod limits;
pub mod listener;
pub mod observe;
pub mod outcome;
pub mod power;
pub mod proxy_protocol;
pub mod relay;
pub mod reload;
pub mod revocation;
pub mod routing;
pub mod server;
pub mod server_name;
pub mod snapshot;
pub mod supervisor;
pub mod upgrade;
pub mod upstream;
pub mod watchdog;
pub mod worker;
