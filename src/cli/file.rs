//! A configuration file, read for a command.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};
use crate::server::SettingsFile;

/// Why a file is of no use.
#[derive(Debug)]
pub(super) enum FileError {
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// What stands in it.
    Config(ConfigError),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, fault) => write!(f, "{}: cannot be read: {fault}", path.display()),
            Self::Config(fault) => fault.fmt(f),
        }
    }
}

/// The text of a file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(path: &Path) -> Result<SettingsFile, FileError> {
    let text = fs::read_to_string(path).map_err(|fault| FileError::Read(path.to_owned(), fault))?;
    Ok(SettingsFile { path: path.to_owned(), text })
}

/// What a file says.
///
/// # Errors
/// It cannot be read, or has a fault.
pub(super) fn load(path: &Path) -> Result<Config, FileError> {
    read(path)?.config().map_err(FileError::Config)
}
