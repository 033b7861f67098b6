//! [`Plan`]: what fits into the process. Every connection takes two descriptors, so there can be no more than the limit
//! of open files has room for; and what they may hold in memory follows from that.

use std::fmt;

use super::sources::Sources;
use crate::config::Config;

/// More than a host that does something else as well should be asked for without being told.
const MOST_BY_DEFAULT: usize = 20_000;
/// The client's socket and the upstream's.
const DESCRIPTORS_EACH: usize = 2;
/// Pipes a worker may have open: more bulk streams than that share a worker only in benchmarks, and then buffers serve.
const MOST_PIPES: usize = 128;
/// Of the limit of open files, what pipes may have at most: they are a convenience, connections are the purpose.
const PIPES_SHARE: usize = 8;
/// Standard streams, files that are read anew, what runtimes and the resolver need, and a margin.
const RESERVE: usize = 64;
/// What the runtime of a worker has open.
const RESERVE_WORKER: usize = 8;
/// A worker's socket of a listener and its copy, a client accepted and not yet served, and a spare for when there is none.
const RESERVE_SOCKET: usize = 4;
/// A probe of an endpoint, and a look-up of its name.
const RESERVE_ENDPOINT: usize = 2;

/// Connections to the admin server; who comes beyond takes the place of the oldest.
pub const ADMIN_CONNECTIONS: usize = 32;

/// What a connection takes by itself while it begins; later it is less than half of that.
const MEMORY_EACH: usize = 4 << 10;
/// What either direction of it may hold beyond `relay_memory`: one small read.
const MEMORY_BEYOND: usize = 2 * super::SCARCE_READ;
/// The program, its threads, and what both logs may have on their way to a slow place.
const MEMORY_PROGRAM: usize = 48 << 20;

/// How many connections there may be, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    workers: usize,
    connections: usize,
    pipes_a_worker: usize,
    reserve: usize,
    open_files: usize,
    undecided: usize,
    relay_memory: usize,
}

/// What one worker may have of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connections that have no route yet.
    pub undecided: usize,
    /// Bytes of their hellos.
    pub hello_memory: usize,
    /// Bytes that its relays may hold.
    pub relay_memory: usize,
    /// Pipes.
    pub pipes: usize,
}

/// `max_connections` is more than there is room for; or there is room for none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "limits.max_connections: {} is more than fits: {}, and there may be {}. Raise the limit of open files (`ulimit -n`, \
     LimitNOFILE= of a systemd unit, the nofile of a container), or {remedy}",
    .wanted.connections, .wanted.sum(), .wanted.open_files, remedy = match .fits {
        0 => "have fewer workers and listeners".to_owned(),
        fits => format!("write {fits} at most"),
    }
)]
pub struct DoesNotFit {
    wanted: Plan,
    fits: usize,
}

impl Plan {
    /// What a configuration comes to in a process that may have so many files open.
    ///
    /// # Errors
    /// When its number of connections does not fit, or not even one does.
    pub fn of(config: &Config, open_files: u64) -> Result<Self, DoesNotFit> {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let workers = config.workers.get();
        let pipes_a_worker = (open_files / PIPES_SHARE / 2 / workers).min(MOST_PIPES);
        let endpoints: usize = config.upstreams.iter().map(|upstream| upstream.endpoints.len()).sum();
        let reserve = RESERVE
            + workers * (RESERVE_WORKER + RESERVE_SOCKET * config.listeners.len())
            + RESERVE_ENDPOINT * endpoints
            // And its own socket.
            + config.admin.as_ref().map_or(0, |_| ADMIN_CONNECTIONS + 1);
        let left = open_files.saturating_sub(2 * workers * pipes_a_worker + reserve);
        let fits = left / DESCRIPTORS_EACH;
        let wanted = config.limits.max_connections.map_or(fits.clamp(1, MOST_BY_DEFAULT), |most| most.get());
        let plan = Self {
            workers,
            connections: wanted,
            pipes_a_worker,
            reserve,
            open_files,
            undecided: config.limits.undecided.get(),
            relay_memory: config.limits.relay_memory,
        };
        if wanted <= fits { Ok(plan) } else { Err(DoesNotFit { wanted: plan, fits }) }
    }

    /// How many connections there may be at once.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// How many descriptors there may be.
    pub fn open_files(&self) -> usize {
        self.open_files
    }

    /// What each worker gets; at least one of everything that is needed to serve anybody.
    pub fn share(&self) -> Share {
        Share {
            undecided: (self.undecided.min(self.connections) / self.workers).max(1),
            hello_memory: self.hello_memory() / self.workers,
            relay_memory: self.relay_memory / self.workers,
            pipes: self.pipes_a_worker,
        }
    }

    /// The hellos of those that have no upstream connection yet may take as much again as all relays.
    fn hello_memory(&self) -> usize {
        self.relay_memory
    }

    /// The descriptors that it takes, as a sum.
    pub fn sum(&self) -> String {
        let Self { workers, connections, pipes_a_worker: pipes, reserve, .. } = self;
        let all = connections * DESCRIPTORS_EACH + 2 * workers * pipes + reserve;
        format!(
            "{connections} connections × {DESCRIPTORS_EACH} + {workers} workers × {pipes} pipes × 2 + {reserve} in reserve = {all}"
        )
    }

    /// The memory that the process may come to take, as a sum; what the kernel takes for sockets is beside it.
    pub fn memory(&self) -> String {
        let sources = Sources::size_for(self.connections);
        let each = MEMORY_EACH + MEMORY_BEYOND;
        let all = self.relay_memory + self.hello_memory() + self.connections * each + sources + MEMORY_PROGRAM;
        let [relays, hellos, sources, program, all] =
            [self.relay_memory, self.hello_memory(), sources, MEMORY_PROGRAM, all].map(Mebibytes);
        let (connections, each) = (self.connections, each >> 10);
        format!(
            "{relays} of relays + {hellos} of hellos + {connections} connections × {each} KiB + {sources} of sources + \
             {program} of program and logs = {all}"
        )
    }
}

/// A size, rounded up.
struct Mebibytes(usize);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }
            workers: 2\n";
        Config::parse(&format!("{yaml}            {more}\n")).unwrap()
    }

    #[test]
    fn connections_are_what_open_files_have_room_for() {
        // 2 workers × 128 pipes × 2, and a reserve of 64 + 2 × (8 + 4) + 2.
        for (open_files, connections) in
            [(1024, (1024 - 128 - 90) / 2), (20_000, (20_000 - 512 - 90) / 2), (100_000, 20_000), (u64::MAX, 20_000)]
        {
            assert_eq!(Plan::of(&config(""), open_files).unwrap().connections(), connections, "{open_files}");
        }
        let plan = Plan::of(&config("admin: { address: '127.0.0.1:1' }"), 20_000).unwrap();
        assert_eq!(plan.connections(), (20_000 - 512 - 90 - 33) / 2);
        let plan = Plan::of(&config("limits: { max_connections: 30000 }"), 100_000).unwrap();
        assert_eq!(plan.connections(), 30_000, "who asks for more gets it");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let refused = Plan::of(&config("limits: { max_connections: 9700 }"), 20_000).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "limits.max_connections: 9700 is more than fits: 9700 connections × 2 + 2 workers × 128 pipes × 2 + 90 in \
             reserve = 20002, and there may be 20000. Raise the limit of open files (`ulimit -n`, LimitNOFILE= of a \
             systemd unit, the nofile of a container), or write 9699 at most"
        );
        assert!(Plan::of(&config("limits: { max_connections: 9699 }"), 20_000).is_ok());
        let nothing = Plan::of(&config(""), 64).unwrap_err().to_string();
        assert!(nothing.ends_with("or have fewer workers and listeners"), "{nothing}");
    }

    #[test]
    fn workers_share_what_there_is() {
        let plan = Plan::of(&config("limits: { relay_memory: 8MiB }"), 20_000).unwrap();
        let share = Share { undecided: 2048, hello_memory: 4 << 20, relay_memory: 4 << 20, pipes: 128 };
        assert_eq!(plan.share(), share);
        let plan = Plan::of(&config("limits: { max_connections: 5, undecided: 1 }"), 1024).unwrap();
        assert_eq!((plan.share().undecided, plan.share().pipes), (1, 32));
        // No more can wait for a route than there may be in all.
        let plan = Plan::of(&config("limits: { max_connections: 10 }"), 1024).unwrap();
        assert_eq!(plan.share().undecided, 5);
    }

    #[test]
    fn the_memory_is_told_as_a_sum() {
        let plan = Plan::of(&config("limits: { max_connections: 8000 }"), 20_000).unwrap();
        assert_eq!(
            plan.memory(),
            "32 MiB of relays + 32 MiB of hellos + 8000 connections × 12 KiB + 1 MiB of sources + 48 MiB of program and \
             logs = 207 MiB"
        );
    }
}
