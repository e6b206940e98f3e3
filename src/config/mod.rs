//! The settings: a TOML text becomes a typed, validated [`Config`], or one fault with file, line and key.
//!
//! [`Config::parse`] reads no file: paths of certificates and keys are kept as they are written. The steps, each
//! in its file: `document` (TOML, lines, unknown keys), `read` (types, ranges, defaults), `not_yet` (what asks
//! for a feature of a later release), `check` (what must fit together). `settings` has the types, and [`KEYS`] the
//! schema.
//!
//! Left out on purpose: faults are told one at a time, as a start that fails has one line to say so.

mod change;
mod check;
mod document;
pub mod engine;
mod error;
mod keys;
mod not_yet;
mod read;
mod settings;
#[cfg(test)]
mod tests;
mod value;

pub use change::{Change, InUse};
pub use error::{ConfigError, Expected, Fault, Need};
pub use keys::{KEYS, Key, markdown};
pub use settings::{
    Config, Device, Dns, Hep, Listener, Log, NetworkRule, PeerProxy, PeerSecurity, PeerSetup, Security, Server,
    SideSecurity, SipProxy, Sni, Timers, TlsPeer, TrustFiles,
};
pub use value::{
    ClientAor, ClientEku, Cores, CoresFault, DriverChoice, HepWhat, Host, LogFormat, LogLevel, Network, ServerAddress,
    Sticky, UdpOversize, Verify,
};

use document::Document;

impl Config {
    /// Reads a configuration text. `file` is what faults are told under.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(text, file)?;
        let config = read::config(&document)?;
        not_yet::refuse(&config, &document.lines)?;
        check::check(&config, &document.lines)?;
        Ok(config)
    }
}
