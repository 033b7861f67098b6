//! Paths of files and sockets.

use std::path::PathBuf;

use serde_yaml::Value;

use super::values::text;

/// A file, wherever the process was started.
pub(super) fn file_path(value: &Value) -> Result<PathBuf, String> {
    let text = text(value)?;
    if !text.starts_with('/') {
        return Err(format!("{text:?} is no absolute path: it would depend on the folder that snigate is started in"));
    }
    Ok(text.into())
}

/// Where a unix socket is to be.
pub(super) fn socket_path(value: &Value) -> Result<PathBuf, String> {
    /// An address has room for 107 bytes (unix(7)), also for the name that the socket has before it gets its own.
    const LONGEST: usize = 95;
    let path = file_path(value)?;
    match path.as_os_str().len() {
        ..=LONGEST if path.file_name().is_some() => Ok(path),
        ..=LONGEST => Err(format!("{} names no file", path.display())),
        length => Err(format!("has {length} bytes, and the path of a socket has {LONGEST} at most")),
    }
}
