//! What the tests are made with: a scratch folder, ports, processes that end with the test, and the parties.
//!
//! Nothing here sleeps: every wait is for an event or polls a condition, and each has a deadline.

pub mod baresip;
pub mod certs;
pub mod client;
pub mod datagrams;
pub mod dnsmasq;
pub mod haproxy;
pub mod linphone;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod registrar;
pub mod resolver;
pub mod sipp;
pub mod stunnel;
pub mod text;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long a party may take to start. Generous: a test runs beside others on two cores.
pub const START_MAX: Duration = Duration::from_secs(20);

/// The domain of every phone, and the one that the proxy goes by.
pub const DOMAIN: &str = "example.com";

/// A folder of one test, gone when it passes and kept when it fails.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder.
    pub fn new(test: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hawser-{}-{n}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch folder");
        Self(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and gives its path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a scratch file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the parties wrote is in {}", self.0.display());
        } else {
            // A party's last log file may still be appearing; the folder is in the system's temporary one.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The lab's program, beside `hawser`. Its package is another one: cargo builds it because the lab has a test target of
/// the same name as this one.
///
/// # Panics
/// When it is not there.
pub fn lab() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_hawser")).with_file_name("hawser-lab");
    let name = program.display();
    assert!(program.exists(), "{name} is missing: `cargo test --test integration` builds it, without -p hawser");
    program
}
