//! What the system lets this process have: descriptors, locked memory, RAM.

use std::io;
use std::mem::MaybeUninit;

/// A soft and a hard limit; `u64::MAX` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What counts now.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open descriptors.
    Descriptors,
    /// Locked memory in bytes (the rings of io_uring).
    Memlock,
}

impl Resource {
    #[allow(clippy::unnecessary_cast, reason = "the type of the constant differs between C libraries")]
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::Descriptors => libc::RLIMIT_NOFILE,
            Self::Memlock => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// Reads a limit.
///
/// # Errors
/// What the system says.
pub fn read(resource: Resource) -> io::Result<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    if unsafe { libc::getrlimit(resource.number(), &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// Raises the soft limit to the hard one; gives what counts afterwards.
///
/// # Errors
/// What the system says.
pub fn raise(resource: Resource) -> io::Result<Limit> {
    let limit = read(resource)?;
    if limit.soft < limit.hard {
        let wanted = libc::rlimit { rlim_cur: limit.hard, rlim_max: limit.hard };
        // SAFETY: the pointer is to a live rlimit, which the call only reads.
        if unsafe { libc::setrlimit(resource.number(), &raw const wanted) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    read(resource)
}

/// RAM of the machine in bytes.
#[must_use]
pub fn ram_bytes() -> u64 {
    let mut info = MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: the pointer is to room for a sysinfo, which the call fills.
    if unsafe { libc::sysinfo(info.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: the call succeeded, and all-zero bytes were valid before it.
    let info = unsafe { info.assume_init() };
    info.totalram * u64::from(info.mem_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "miri has no getrlimit and no sysinfo")]
    fn limits_are_read_and_raised_to_the_hard_one() {
        let before = read(Resource::Descriptors).unwrap();
        let after = raise(Resource::Descriptors).unwrap();
        assert_eq!(after, Limit { soft: before.hard, hard: before.hard });
        assert!(read(Resource::Memlock).unwrap().hard > 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no getrlimit and no sysinfo")]
    fn the_machine_has_some_ram() {
        assert!(ram_bytes() > 1 << 26);
    }
}
