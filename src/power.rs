//! Less power: a process that reads what strangers send gives up what it does not need, before it reads the first byte.
//!
//! [`give_up`] does it in this order: `user` takes another user and drops capabilities; then, the sandbox, no program
//! that this one starts may gain any, `files` leaves Landlock's short list of files that can be opened, and `calls` leaves
//! seccomp's list of system calls. All of it holds for the thread that asks for it and for those that it starts
//! afterwards: so there must not be any other yet. Sockets are bound later, by the user that was taken, since only one
//! user's sockets can share a port.

mod calls;
mod files;
mod user;

use std::io;
use std::path::Path;

use rustix::process::geteuid;
use rustix::thread::set_no_new_privs;

use crate::config::{Config, LoadError, Sandbox, User};
use files::{Ports, Reach};

/// Why a process keeps its power, and does not start.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// There is no such user.
    #[error("user: /etc/passwd has no `{0}`: write another, or its numbers, such as `65534:65534`")]
    UnknownUser(User),
    /// The process may not become another user.
    #[error("user: cannot become `{user}`{}", remedy(source))]
    User {
        /// The one that was to be taken.
        user: User,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel lacks a part of the sandbox.
    #[error("`sandbox: require` cannot be kept: {}", .0.join("; "))]
    Missing(Vec<String>),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (start as root, with CAP_SETUID and CAP_SETGID, or as that user)",
        _ => "",
    }
}

/// What was given up.
#[derive(Debug, Default)]
pub struct GivenUp {
    /// The user that was taken.
    user: Option<User>,
    /// The parts of the sandbox that hold.
    parts: Vec<String>,
    /// Those that do not, and why.
    missing: Vec<String>,
    /// Files that cannot be read again once they are replaced.
    fixed: Vec<String>,
    /// What can be read still, where that is bounded.
    reach: Option<Reach>,
    /// The TCP ports that can be used still, where they are bounded.
    ports: Option<Ports>,
}

/// Gives up what `config`, read from the file at `path`, does not need. To be called while there is one thread only.
///
/// # Errors
/// When the user cannot be taken, or the kernel lacks what is required.
pub fn give_up(config: &Config, path: &Path) -> Result<GivenUp, PowerError> {
    let mut given_up = GivenUp::default();
    if let Some(user) = &config.power.user {
        let account = user::find(user).ok_or_else(|| PowerError::UnknownUser(user.clone()))?;
        user::take(&account).map_err(|source| PowerError::User { user: user.clone(), source })?;
        given_up.user = Some(user.clone());
    }
    if config.power.sandbox != Sandbox::Off {
        given_up.enter_sandbox(config, path);
    }
    if config.power.sandbox == Sandbox::Require && !given_up.missing.is_empty() {
        return Err(PowerError::Missing(given_up.missing));
    }
    Ok(given_up)
}

impl GivenUp {
    fn enter_sandbox(&mut self, config: &Config, path: &Path) {
        let held = user::keep_only_binding().map(|()| "capabilities".to_owned());
        self.note("capabilities cannot be dropped", held);
        let held = set_no_new_privs(true).map(|()| "no_new_privs".to_owned());
        self.note("privileges can be gained by starting programs", held);
        let reach = Reach::of(config, path);
        let ports = config.power.sandbox_ports.then(|| Ports::of(config));
        self.fixed = reach.fixed();
        let version = files::restrict(&reach, ports.as_ref());
        self.reach = version.is_ok().then_some(reach);
        if let Some(ports) = ports {
            let held = version.clone().and_then(files::with_ports);
            self.ports = held.is_ok().then_some(ports);
            self.note("any TCP port can be used", held);
        }
        self.note("any file can be opened", version.map(|version| format!("Landlock {version}")));
        self.note("any system call can be made", calls::restrict().map(|()| "seccomp".to_owned()));
    }

    fn note(&mut self, otherwise: &str, held: Result<String, impl std::fmt::Display>) {
        match held {
            Ok(part) => self.parts.push(part),
            Err(why) => self.missing.push(format!("{otherwise}: {why}")),
        }
    }

    /// What a configuration that was read later needs and cannot have any more, each with its remedy.
    pub fn beyond_reach(&self, loaded: &Result<Config, LoadError>) -> Vec<String> {
        const REMEDY: &str = "the sandbox is made at the start, so a restart is needed";
        match loaded {
            Ok(config) => {
                let lacking = self.ports.as_ref().map(|ports| ports.lacking(&Ports::of(config))).unwrap_or_default();
                lacking
                    .iter()
                    .map(|port| format!("{port} is none of those that `sandbox_ports` left: {REMEDY}"))
                    .collect()
            }
            Err(error) => {
                let lacks = |path: &&Path| self.reach.as_ref().is_some_and(|reach| reach.lacks(path));
                let denied = error.denied().into_iter().filter(lacks);
                denied.map(|path| format!("{} lies outside the sandbox: {REMEDY}", path.display())).collect()
            }
        }
    }

    /// Whether anything was given up.
    pub fn anything(&self) -> bool {
        self.user.is_some() || !self.parts.is_empty()
    }

    /// Tells the log.
    pub fn log(&self) {
        if self.anything() {
            let user = self.user.as_ref().map(tracing::field::display);
            tracing::info!(user, sandbox = self.parts.join(", "), "power given up");
        }
        for missing in &self.missing {
            tracing::warn!("not in the sandbox: {missing}");
        }
        for fixed in &self.fixed {
            tracing::warn!("{fixed}");
        }
        if self.user.is_none() && geteuid().is_root() {
            tracing::warn!("runs as root: `user: nobody`, or a user of its own, needs no more than it does");
        }
    }
}
