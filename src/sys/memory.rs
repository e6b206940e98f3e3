//! How much memory the process holds, and giving back what of it the allocator keeps for nobody.

/// What is resident, in bytes; `None` when the system does not say.
#[must_use]
pub fn resident_len() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_len())
}

fn page_len() -> u64 {
    // SAFETY: the call takes a number and touches nothing.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(len).unwrap_or(4_096)
}

/// Gives memory that is free, but that the allocator keeps, back to the system. Takes the allocator's locks: for plain
/// threads, and seldom.
pub fn give_back() {
    // SAFETY: `malloc_trim` takes a number and may be called by any thread at any time; what is allocated stays.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "miri has an allocator of its own")]
    fn free_memory_is_seen_and_given_back_and_what_is_in_use_stays() {
        let mut blocks: Vec<_> = (0..20_000).map(|at: usize| Some(vec![at.to_le_bytes()[0]; 10_000])).collect();
        // What is kept lies between what is free, so that the allocator gives nothing back by itself.
        blocks.iter_mut().enumerate().filter(|(at, _)| at % 50 != 0).for_each(|(_, block)| *block = None);
        let held = resident_len().unwrap();
        give_back();
        let after = resident_len().unwrap();
        assert!(held.saturating_sub(after) > 50_000_000, "{held} {after}");
        let kept = blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.as_ref()?)));
        for (at, block) in kept {
            assert!(block.iter().all(|byte| *byte == at.to_le_bytes()[0]));
        }
    }
}
