//! From a valid configuration to running shards. See DESIGN.md, Layers.

mod report;

use std::fmt;

pub use report::{Certificate, Report};

use crate::config::Config;

/// Why a start failed. Prints as one line that names the mend.
#[derive(Debug)]
pub enum StartError {
    /// This build has no shards to start.
    NoShards,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoShards => f.write_str("this build only checks configurations: use --check"),
        }
    }
}

impl std::error::Error for StartError {}

/// What would run with this configuration on these cores.
///
/// # Errors
/// Whatever would end a start, but for ports that are taken.
pub fn check(config: &Config, cores: &[usize]) -> Result<Report, StartError> {
    Ok(Report::new(config, cores))
}

/// Runs one shard on each core until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever ends the start.
pub fn run(_config: Config, _cores: Vec<usize>) -> Result<(), StartError> {
    Err(StartError::NoShards)
}
