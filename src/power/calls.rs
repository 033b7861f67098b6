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

/// What is asked of descriptors. Not F_SETOWN and F_SETSIG: with these the kernel sends any signal to any process of the
/// same user, as kill(2) would.
const DESCRIPTOR_COMMANDS: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
];

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
        (libc::SYS_socketpair, vec![stream_pair()?]),
        (libc::SYS_fcntl, DESCRIPTOR_COMMANDS.iter().map(|command| is(1, *command)).collect::<Result<_, _>>()?),
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

/// Both ends of it are here and stay connected; one of datagrams could speak to any socket of this host that has a path.
fn stream_pair() -> Result<SeccompRule, BackendError> {
    /// Above it are flags: SOCK_TYPE_MASK of the kernel.
    const KIND: u64 = 0xf;
    let stream = libc::SOCK_STREAM.cast_unsigned().into();
    let kind = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(KIND), stream)?;
    SeccompRule::new(vec![equals(0, libc::AF_UNIX)?, kind])
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

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::sock_filter;

    /// What the kernel shows a filter of a call: its number, the architecture, 64 bits of address, and six arguments of 64
    /// bits, in words of 32 as a machine with the low end first has them (seccomp(2)).
    fn words(call: c_long, arguments: [u64; 6]) -> Vec<u32> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => 0xc000_003e,
            "aarch64" => 0xc000_00b7,
            "riscv64" => 0xc000_00f3,
            other => panic!("no list for {other}"),
        };
        let halves = arguments.iter().flat_map(|argument| [*argument & u64::from(u32::MAX), argument >> 32]);
        let start = [u32::try_from(call).unwrap(), architecture, 0, 0];
        start.into_iter().chain(halves.map(|half| u32::try_from(half).unwrap())).collect()
    }

    /// What the program answers, by the rules of bpf(4) as far as such programs use them.
    fn answer(program: &[sock_filter], call: c_long, arguments: [u64; 6]) -> u32 {
        let data = words(call, arguments);
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                0x20 => accumulator = data[k as usize / 4], // load a word
                0x54 => accumulator &= k,
                0x05 => at += k as usize, // jump
                0x15 => jump(accumulator == k),
                0x25 => jump(accumulator > k),
                0x35 => jump(accumulator >= k),
                0x45 => jump(accumulator & k != 0),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
            at += 1;
        }
    }

    /// Of fcntl(2); the libc crate lacks it.
    const F_SETSIG: i32 = 10;

    #[test]
    fn of_some_calls_only_some_uses_are_there() {
        let program = program(std::env::consts::ARCH.try_into().unwrap()).unwrap();
        let number = |constant: i32| u64::from(constant.cast_unsigned());
        let own = number(getpid().as_raw_pid());
        let (read, write, execute) = (number(libc::PROT_READ), number(libc::PROT_WRITE), number(libc::PROT_EXEC));
        let thread = number(libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_SIGHAND | libc::CLONE_THREAD);
        let process = number(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
        let (datagram, flags) = (number(libc::SOCK_DGRAM), number(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK));
        let (inet, stream, tcp) = (number(libc::AF_INET), number(libc::SOCK_STREAM), number(libc::IPPROTO_TCP));
        for (what, call, [first, second, third, fourth], there) in [
            ("memory", libc::SYS_mmap, [0, 4096, read | write, 0], true),
            ("memory to execute", libc::SYS_mmap, [0, 4096, read | execute, 0], false),
            ("memory to write and execute", libc::SYS_mmap, [0, 4096, read | write | execute, 0], false),
            ("memory that becomes read-only", libc::SYS_mprotect, [4096, 4096, read, 0], true),
            ("memory that becomes code", libc::SYS_mprotect, [4096, 4096, read | execute, 0], false),
            ("a thread", libc::SYS_clone, [thread, 0, 0, 0], true),
            ("a process", libc::SYS_clone, [number(libc::SIGCHLD), 0, 0, 0], false),
            ("a process in the same memory", libc::SYS_clone, [process, 0, 0, 0], false),
            ("flags that cannot be seen", libc::SYS_clone3, [4096, 88, 0, 0], false),
            ("a signal to itself", libc::SYS_tgkill, [own, own, number(libc::SIGABRT), 0], true),
            ("a signal to another", libc::SYS_tgkill, [own + 1, own + 1, number(libc::SIGABRT), 0], false),
            ("a signal to init", libc::SYS_tgkill, [1, 1, number(libc::SIGTERM), 0], false),
            ("a signal to a number", libc::SYS_tkill, [own, number(libc::SIGTERM), 0, 0], false),
            ("its limits", libc::SYS_prlimit64, [0, 7, 0, 0], true),
            ("limits of another", libc::SYS_prlimit64, [own + 1, 7, 0, 0], false),
            ("a thread's name", libc::SYS_prctl, [number(libc::PR_SET_NAME), 0, 0, 0], true),
            ("its capabilities", libc::SYS_prctl, [number(libc::PR_CAP_AMBIENT), 2, 0, 0], false),
            ("a terminal", libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0], false),
            ("bytes that wait", libc::SYS_ioctl, [5, libc::FIONREAD, 0, 0], true),
            ("TCP", libc::SYS_socket, [inet, stream, tcp, 0], true),
            ("a local socket", libc::SYS_socket, [number(libc::AF_UNIX), stream, 0, 0], false),
            ("a pair of streams", libc::SYS_socketpair, [number(libc::AF_UNIX), stream | flags, 0, 0], true),
            ("a pair of datagrams", libc::SYS_socketpair, [number(libc::AF_UNIX), datagram | flags, 0, 0], false),
            (
                "a pair of packets",
                libc::SYS_socketpair,
                [number(libc::AF_UNIX), number(libc::SOCK_SEQPACKET), 0, 0],
                false,
            ),
            ("a copy of a descriptor", libc::SYS_fcntl, [5, number(libc::F_DUPFD_CLOEXEC), 3, 0], true),
            ("a pipe's size", libc::SYS_fcntl, [5, number(libc::F_SETPIPE_SZ), 65536, 0], true),
            ("who is signalled", libc::SYS_fcntl, [5, number(libc::F_SETOWN), own + 1, 0], false),
            ("which signal", libc::SYS_fcntl, [5, number(F_SETSIG), number(libc::SIGKILL), 0], false),
            ("another protocol", libc::SYS_socket, [inet, stream, number(libc::IPPROTO_SCTP), 0], false),
            ("a datagram", libc::SYS_sendto, [5, 4096, 9, number(libc::MSG_NOSIGNAL)], true),
            ("a connect in disguise", libc::SYS_sendto, [5, 4096, 9, number(libc::MSG_FASTOPEN)], false),
            ("another program", libc::SYS_execve, [4096, 0, 0, 0], false),
        ] {
            let expected =
                if there { libc::SECCOMP_RET_ALLOW } else { libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned() };
            assert_eq!(answer(&program, call, [first, second, third, fourth, 0, 0]), expected, "{what}");
        }
    }

    #[test]
    fn calls_of_another_architecture_are_not_there() {
        let program = program(std::env::consts::ARCH.try_into().unwrap()).unwrap();
        assert_eq!(answer(&program, libc::SYS_read, [0; 6]), libc::SECCOMP_RET_ALLOW);
        // Numbers of the x32 interface have this bit, and are those of other calls.
        assert_ne!(answer(&program, libc::SYS_read | 0x4000_0000, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }
}
