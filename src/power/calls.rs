//! System calls that can be made: seccomp's part.
//!
//! What is not on the list fails with ENOSYS, as it does on a kernel that does not have it. Libraries are written for that:
//! they turn to an older call, or return an error, which is handled. To kill the process in place of it would make an outage
//! of every call that a new C library or an odd moment brings, and hand whoever can provoke one a way to end all
//! connections; what an attacker inside can do is the same nothing either way. EPERM, the customary word, is not
//! understood: with it a C library that starts threads by clone3(2) starts none.

use libc::c_long;
use rustix::process::getpid;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Calls that are allowed whatever their arguments are. Found by tracing, and what other C libraries and kernels use in
/// their place; in groups, so that one sees what is for what.
const ALLOWED: &[c_long] = &[
    // Bytes, and what waits for them.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Sockets, once they are there.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Files: Landlock says which.
    libc::SYS_fstat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, their signals, and their end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Time, chance, and the host's name for the resolver.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_uname,
    // Who it is.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
];

/// Older forms that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const ALLOWED_TOO: &[c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_TOO: &[c_long] = &[];

/// From now on this thread makes no other system calls.
pub(super) fn restrict() -> Result<(), String> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH);
    let architecture = architecture.map_err(|_| format!("no list for {}", std::env::consts::ARCH))?;
    apply_filter(&program(architecture).map_err(|error| error.to_string())?).map_err(|error| match error {
        Error::Seccomp(error) => format!("no seccomp filters here ({error})"),
        other => other.to_string(),
    })
}

fn program(architecture: TargetArch) -> Result<BpfProgram, BackendError> {
    let always = ALLOWED.iter().chain(ALLOWED_TOO).map(|call| (*call, Vec::new()));
    let rules = always.chain(conditional()?).collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, absent, SeccompAction::Allow, architecture)?.try_into()
}

/// Calls of which only some uses are allowed. (The kernel answers for all others without running the filter.)
fn conditional() -> Result<Vec<(c_long, Vec<SeccompRule>)>, BackendError> {
    let kinds = [libc::FIONBIO, libc::FIONREAD].map(|kind| is(1, kind));
    let executable = libc::PROT_EXEC.cast_unsigned().into();
    let threads = libc::CLONE_THREAD.cast_unsigned().into();
    let connecting = libc::MSG_FASTOPEN.cast_unsigned().into();
    let not_executable = || Ok(vec![rule(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    Ok(vec![
        (libc::SYS_socket, sockets()?),
        // Not a connect in disguise, which Landlock takes for none.
        (libc::SYS_sendto, vec![rule(3, SeccompCmpOp::MaskedEq(connecting), 0)?]),
        (libc::SYS_sendmsg, vec![rule(2, SeccompCmpOp::MaskedEq(connecting), 0)?]),
        (libc::SYS_socketpair, vec![is(0, libc::AF_UNIX)?]),
        (libc::SYS_ioctl, kinds.into_iter().collect::<Result<_, _>>()?),
        // No new code.
        (libc::SYS_mmap, not_executable()?),
        (libc::SYS_mprotect, not_executable()?),
        // Threads, but no processes. (The flags of clone3 cannot be seen from here; C libraries turn to clone.)
        (libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(threads), threads)?]),
        // Names of threads.
        (libc::SYS_prctl, vec![is(0, libc::PR_SET_NAME)?]),
        // Its own limits.
        (libc::SYS_prlimit64, vec![is(0, 0)?]),
        // How abort(3) ends its own process.
        (libc::SYS_tgkill, vec![is(0, getpid().as_raw_pid())?]),
    ])
}

/// TCP and UDP. Behind local sockets other daemons of this host listen, and other protocols (that of Multipath TCP, say)
/// can be used on ports that Landlock guards.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let families = [libc::AF_INET, libc::AF_INET6];
    let protocols = [libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
    let pairs = families.into_iter().flat_map(|family| protocols.map(|protocol| (family, protocol)));
    pairs.map(|(family, protocol)| SeccompRule::new(vec![equals(0, family)?, equals(2, protocol)?])).collect()
}

fn is(argument: u8, value: impl TryInto<u64>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![equals(argument, value)?])
}

fn equals(argument: u8, value: impl TryInto<u64>) -> Result<SeccompCondition, BackendError> {
    // C libraries have these constants in types of their own; none is negative.
    let value = value.try_into().unwrap_or(u64::MAX);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}
