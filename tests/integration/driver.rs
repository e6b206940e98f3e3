//! The setting `driver` where the system refuses io_uring: seccomp filters as those of containers, which a thread of the
//! test puts on itself and its children inherit, and too little memory that may be locked.

use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use libc::{EINVAL, ENOSYS, EPERM, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, c_long};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::calls::{Phones, play};
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::{START_MAX, Scratch};
use crate::startup::fault;

/// What systems answer: Docker and containerd, their older profiles, a filter that knows one call only, a kernel that
/// is too old; with the words for it.
const REFUSALS: [(c_long, i32, &str); 4] = [
    (SYS_io_uring_setup, EPERM, "io_uring_setup: Operation not permitted (os error 1)"),
    (SYS_io_uring_setup, ENOSYS, "io_uring_setup: Function not implemented (os error 38)"),
    (SYS_io_uring_enter, EPERM, "io_uring_enter: Operation not permitted (os error 1)"),
    (SYS_io_uring_register, EINVAL, "io_uring_register: Invalid argument (os error 22)"),
];

/// Plays `story` on a thread where the system answers a call with this fault; with every process that it starts.
fn refusing(call: c_long, errno: i32, story: impl FnOnce() + Send) {
    let refuse = SeccompAction::Errno(u32::try_from(errno).expect("a number of a fault"));
    let arch = std::env::consts::ARCH.try_into().expect("seccompiler knows it");
    let filter = SeccompFilter::new([(call, Vec::new())].into(), SeccompAction::Allow, refuse, arch);
    let filter = filter.and_then(BpfProgram::try_from).expect("a filter");
    let ended = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            apply_filter(&filter).expect("a thread may give up what it likes");
            story();
        });
        thread.join()
    });
    ended.unwrap_or_else(|panic| resume_unwind(panic));
}

/// A running proxy says in its log and in `/metrics` which driver it took.
fn assert_epoll(proxy: &Proxy, why: &str) {
    let line = proxy.process.wait_line("driver  ", START_MAX);
    assert!(line.contains("driver       epoll, ") && line.contains(why), "{line}");
    assert!(proxy.metric("hawser_build_info", "driver=\"epoll\"") > 0.0);
}

#[test]
fn auto_runs_on_epoll_where_io_uring_is_refused_says_why_and_serves_calls() {
    if is_stand_in() {
        return;
    }
    for (call, errno, words) in REFUSALS {
        refusing(call, errno, || {
            let (proxy, _scratch) = play("call-to-phone", Phones::TlsEach, "udp");
            assert_epoll(&proxy, &format!("for io_uring cannot be used: {words}; "));
        });
    }
}

#[test]
fn io_uring_says_what_is_missing_and_ends() {
    if is_stand_in() {
        return;
    }
    for (call, errno, words) in REFUSALS {
        refusing(call, errno, || {
            let scratch = Scratch::new("io-uring-refused");
            let mut settings = Settings::new(&scratch);
            settings.more = "driver = \"io_uring\"".to_owned();
            let line = fault(&scratch, &settings.toml());
            assert!(line.starts_with(&format!("io_uring cannot be used: {words}; ")), "{line}");
            assert!(line.contains("driver = \"epoll\""), "{line}");
        });
    }
}

#[test]
fn epoll_runs_where_io_uring_could() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("epoll");
    let mut settings = Settings::new(&scratch);
    settings.more = "driver = \"epoll\"".to_owned();
    assert_epoll(&Proxy::start(&scratch, settings), "as the settings say");
}

#[test]
fn auto_runs_on_epoll_where_too_little_memory_may_be_locked() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("memlock");
    let file = scratch.write("hawser.toml", &Settings::new(&scratch).toml());
    let mut command = Command::new("prlimit");
    command.args(["--memlock=65536", env!("CARGO_BIN_EXE_hawser"), "--config"]).arg(file);
    let process = Process::start("hawser", &command);
    process.wait_line("driver       epoll, for only 64 KiB of memory may be locked", START_MAX);
    process.wait_line("capacity", START_MAX);
}
