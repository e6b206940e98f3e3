//! Whether io_uring can be used here, up to the last call and operation that glommio needs: it ends the process or
//! panics over what it misses. Owns rings for the time of the question only.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// `IORING_SETUP_IOPOLL`: one of the rings of each executor has it.
const SETUP_IOPOLL: u32 = 1;
/// `IORING_REGISTER_PROBE`.
const REGISTER_PROBE: u32 = 8;
/// Operations that a probe can tell of.
const OPERATIONS: usize = 256;
/// `IO_URING_OP_SUPPORTED`.
const SUPPORTED: u16 = 1;
/// glommio's `GLOMMIO_URING_OPS`, from NOP (0) to RECV (27) but for those that it has no use for.
const NEEDED: [u8; 23] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 21, 22, 23, 26, 27];

/// What the system does not let us have.
#[derive(Debug)]
pub struct Refused {
    /// The call's name.
    pub call: &'static str,
    /// What the system says of it.
    pub fault: io::Error,
}

/// Asks the system for an io_uring of the smallest size, for the operations that it knows, and to wait for nothing.
///
/// # Errors
/// Of `io_uring_setup`: `EPERM` when it is switched off (sysctl kernel.io_uring_disabled, a seccomp profile), `ENOSYS`
/// when the kernel has none, `ENOMEM` when locked memory is short. `EOPNOTSUPP` when the kernel misses an operation.
pub fn probe() -> Result<(), Refused> {
    drop(setup(SETUP_IOPOLL)?);
    let ring = setup(0)?;
    // An io_uring_probe: 16 bytes, and 8 for each operation; all zero, as the call wants it.
    let mut known = [0_u64; 2 + OPERATIONS];
    // SAFETY: the call gets the descriptor of a ring and a pointer to room for as many operations as it says, which it
    // fills and does not keep.
    let code = unsafe {
        let room = known.as_mut_ptr();
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_PROBE, room, OPERATIONS as u32)
    };
    result("io_uring_register", code)?;
    if !knows_all(&known[2..]) {
        return Err(Refused { call: "io_uring_register", fault: io::Error::from_raw_os_error(libc::EOPNOTSUPP) });
    }
    // SAFETY: the call gets the descriptor of a ring, and neither submits nor waits; there is no signal mask.
    let code = unsafe {
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 0_u32, 0_u32, 0_u32, ptr::null::<u8>(), 0_usize)
    };
    result("io_uring_enter", code).map(drop)
}

fn setup(flags: u32) -> Result<OwnedFd, Refused> {
    // The io_uring_params of the kernel's interface: 120 bytes, the third word for flags, all else zero for the
    // defaults.
    let mut params = [0_u32; 30];
    params[2] = flags;
    // SAFETY: the call gets an entry count and a pointer to 120 bytes that it may write; it keeps neither.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) };
    let fd = result("io_uring_setup", fd)?;
    // SAFETY: the descriptor was just opened and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn result(call: &'static str, code: libc::c_long) -> Result<i32, Refused> {
    match i32::try_from(code) {
        Ok(code @ 0..) => Ok(code),
        _ => Err(Refused { call, fault: io::Error::last_os_error() }),
    }
}

/// Each word is an io_uring_probe_op: number (u8), nothing (u8), flags (u16), nothing (u32).
fn knows_all(known: &[u64]) -> bool {
    NEEDED.iter().all(|operation| {
        let [number, _, low, high, ..] = known[usize::from(*operation)].to_ne_bytes();
        number == *operation && u16::from_ne_bytes([low, high]) & SUPPORTED != 0
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "miri has no io_uring")]
    fn io_uring_is_here_and_the_probe_leaves_no_descriptor() {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        probe().unwrap();
        let before = count();
        for _ in 0..50 {
            probe().unwrap();
        }
        // Other tests open and close descriptors meanwhile, but not 50 of them.
        assert!(count() < before + 40);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no io_uring")]
    fn each_call_that_is_refused_is_named_with_what_the_system_says() {
        for (call, number, errno) in [
            ("io_uring_setup", libc::SYS_io_uring_setup, libc::EPERM),
            ("io_uring_setup", libc::SYS_io_uring_setup, libc::ENOSYS),
            ("io_uring_register", libc::SYS_io_uring_register, libc::EPERM),
            ("io_uring_enter", libc::SYS_io_uring_enter, libc::EACCES),
        ] {
            let refuse = SeccompAction::Errno(u32::try_from(errno).unwrap());
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new([(number, Vec::new())].into(), SeccompAction::Allow, refuse, arch).unwrap();
            let filter: BpfProgram = filter.try_into().unwrap();
            // The filter holds for one thread, and ends with it.
            let asked = thread::spawn(move || {
                apply_filter(&filter).unwrap();
                probe()
            });
            let refused = asked.join().unwrap().unwrap_err();
            assert_eq!((refused.call, refused.fault.raw_os_error()), (call, Some(errno)));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no io_uring")]
    fn an_operation_that_the_kernel_misses_is_seen() {
        let op = |number: u8, flags: u8| {
            let [low, high] = u16::from(flags).to_ne_bytes();
            u64::from_ne_bytes([number, 0, low, high, 0, 0, 0, 0])
        };
        let all: Vec<_> = (0..=255).map(|number| op(number, 1)).collect();
        assert!(knows_all(&all));
        for missing in NEEDED {
            for word in [op(missing, 0), 0xff] {
                let mut known = all.clone();
                known[usize::from(missing)] = word;
                assert!(!knows_all(&known), "{missing}");
            }
        }
    }
}
