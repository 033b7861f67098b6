//! What is told about connections: the table of live ones, what is counted of them, the access log, word to them, and the
//! lines of both logs on their way out.

pub mod access_log;
mod fields;
pub mod ids;
pub mod lines;
pub mod live;
pub mod metrics;
pub mod notice;
pub mod said;
pub mod story;
pub mod troubles;
