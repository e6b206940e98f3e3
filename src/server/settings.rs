//! The settings of a running proxy: SIGHUP has the file read again. What is safe to change while it runs is taken up, what
//! is not is named; a file with a fault changes nothing.

use std::fs;
use std::path::PathBuf;

use super::plan;
use crate::config::{Config, ConfigError, Fault, InUse, LogLevel};
use crate::engine::Live;
use crate::shard::Handle;

/// A configuration file as it was read.
#[derive(Debug)]
pub struct SettingsFile {
    /// Where it is.
    pub path: PathBuf,
    /// What stood in it.
    pub text: String,
}

impl SettingsFile {
    /// What it says.
    ///
    /// # Errors
    /// The first fault in it.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::parse(&self.text, &self.name())
    }

    /// A fault of a key that only shows on this machine.
    #[must_use]
    pub fn fault_at(&self, key: &str, fault: Fault) -> ConfigError {
        ConfigError::at(&self.text, &self.name(), key, fault)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// What is in use, and where it came from.
#[derive(Debug)]
pub(super) struct Current {
    path: PathBuf,
    in_use: InUse,
    live: Live,
}

impl Current {
    /// What a start was made with.
    ///
    /// # Errors
    /// The file could not have been started with.
    pub(super) fn new(file: SettingsFile, config: &Config) -> Result<Self, ConfigError> {
        let in_use = InUse::new(&file.text, &file.name())?;
        Ok(Self { path: file.path, in_use, live: plan::live(config) })
    }

    /// Reads the file again, and gives the shards what has changed of what may.
    pub(super) fn read_again(&mut self, handle: &Handle) {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(fault) => {
                return log::error!("{}: cannot be read: {fault}: the settings in use stay", self.path.display());
            }
        };
        let file = SettingsFile { path: self.path.clone(), text };
        let read = file.config().and_then(|config| Ok((self.in_use.take(&file.text, &file.name())?, config)));
        let (changes, config) = match read {
            Ok(read) => read,
            Err(fault) => return log::error!("{fault}: the settings in use stay"),
        };
        for change in &changes {
            if change.is_live {
                log::info!("{}: changed, and taken up", change.place);
            } else {
                log::warn!("{}: changed, but takes a restart: what was there before stays in use", change.place);
            }
        }
        let live = plan::live(&config);
        if live != self.live {
            handle.set_live(&live);
            self.live = live;
        }
        log::set_max_level(level(config.log.level));
    }
}

/// The level as the log wants it.
#[must_use]
pub fn level(level: LogLevel) -> log::LevelFilter {
    match level {
        LogLevel::Off => log::LevelFilter::Off,
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warn => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Trace => log::LevelFilter::Trace,
    }
}
