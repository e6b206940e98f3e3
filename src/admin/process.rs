//! What the system says about this process, from `/proc/self`.

use std::fs;

/// Resident memory and descriptors. What could not be read is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Resident memory in bytes.
    pub resident: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// The soft limit of descriptors.
    pub descriptors_max: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        Self {
            resident: fs::read_to_string("/proc/self/status").ok().and_then(|text| resident(&text)),
            descriptors: fs::read_dir("/proc/self/fd").ok().and_then(|dir| u64::try_from(dir.count()).ok()),
            descriptors_max: fs::read_to_string("/proc/self/limits").ok().and_then(|text| descriptors_max(&text)),
        }
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn descriptors_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_proc_are_read() {
        assert_eq!(resident("Name:\thawser\nVmRSS:\t   2048 kB\nThreads:\t3\n"), Some(2 * 1024 * 1024));
        assert_eq!(resident("Name:\thawser\n"), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(descriptors_max(limits), Some(1024));
        assert_eq!(descriptors_max("Max open files            unlimited            unlimited            files"), None);
        let process = Process::read();
        assert!(process.resident.is_some_and(|bytes| bytes > 100_000), "{process:?}");
        assert!(process.descriptors.is_some_and(|count| count >= 3), "{process:?}");
    }
}
