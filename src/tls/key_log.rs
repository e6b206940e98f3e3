//! The keys of TLS sessions in a file that a setting names, so that a capture of the network can be read: one line for
//! each secret, in the format of NSS that Wireshark and others take.
//!
//! Owns: the file and its lines. A line is one write to a file that is open for appending, so that shards need no lock
//! among them; without the setting rustls is told that nothing is logged, and nothing of this runs. What cannot be
//! written is lost, and the shard whose handshake it was hears of it: no handshake waits for it or fails by it.
//!
//! The file is a plain one of our own user's that nobody else may read: it is made so, or brought to it. A link is not
//! followed, so that nobody who may write to the folder has us open another's file.
//!
//! Left out on purpose: opening it again. One that was moved away is written on until the next start, and one that was
//! cut is filled from its start. The sessions of the HTTP port are not in it: its token is no part of SIP's traffic.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::{KeyLog, NoKeyLog};

use super::error::TlsError;
use crate::config::Config;
use crate::ids::Side;

/// Read and written by its owner.
const MODE: u32 = 0o600;
/// The longest label, a client's random bytes and the longest secret, in hex.
const LINE_LEN: usize = 256;

thread_local! {
    /// Lines that this thread could not write, and why the last of them could not be.
    static LOST: RefCell<Option<(u64, io::Error)>> = const { RefCell::new(None) };
}

/// How many lines the handshake steps of this thread have lost since this was asked last, and why.
#[must_use]
pub fn take_lost() -> Option<(u64, io::Error)> {
    LOST.take()
}

/// The key logs of a process, each open once. They last as long as it does, whatever is read again.
#[derive(Clone, Debug, Default)]
pub struct KeyLogs(HashMap<PathBuf, Arc<KeyLogFile>>);

impl KeyLogs {
    /// Opens the files that the settings name.
    ///
    /// # Errors
    /// One cannot be opened for us alone.
    pub fn open(config: &Config) -> Result<Self, TlsError> {
        let mut all = HashMap::new();
        for path in files(config) {
            let file = KeyLogFile::open(path).map_err(|fault| TlsError::KeyLog(path.clone(), fault))?;
            all.insert(path.clone(), Arc::new(file));
        }
        Ok(Self(all))
    }

    /// Whether they could be opened, for `--check`, which makes none and changes none.
    ///
    /// # Errors
    /// The fault that would end a start.
    pub fn check(config: &Config) -> Result<(), TlsError> {
        files(config).try_for_each(|path| {
            let looked = match KeyLogFile::look(path, false) {
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                    fs::metadata(folder.unwrap_or(Path::new("."))).map(|_| ())
                }
                other => other.map(|_| ()),
            };
            looked.map_err(|fault| TlsError::KeyLog(path.clone(), fault))
        })
    }

    /// What rustls is given.
    pub(super) fn of(&self, path: Option<&PathBuf>) -> Arc<dyn KeyLog> {
        match path.and_then(|path| self.0.get(path)) {
            Some(file) => file.clone(),
            None => Arc::new(NoKeyLog),
        }
    }
}

/// The files that the settings name, each once.
pub fn files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let of = |side| config.security.side(side).key_log_file.as_ref();
    let (server, endpoint) = (of(Side::Server), of(Side::Endpoint));
    endpoint.into_iter().chain(server.filter(|server| Some(*server) != endpoint))
}

/// One file.
#[derive(Debug)]
pub struct KeyLogFile {
    file: File,
    /// The last line was written in part.
    cut: AtomicBool,
}

impl KeyLogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = Self::look(path, true)?;
        if file.metadata()?.permissions().mode() & 0o7777 != MODE {
            file.set_permissions(Permissions::from_mode(MODE))?;
        }
        Ok(Self { file, cut: AtomicBool::new(false) })
    }

    fn look(path: &Path, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // Without waiting: a pipe in its place would hold up the start until somebody reads from it.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.append(true).create(create).mode(MODE).custom_flags(flags).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        // Whoever made it keeps it, whatever its mode.
        if found.uid() != fs::metadata("/proc/self")?.uid() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
        }
        Ok(file)
    }

    fn write(&self, label: &str, client_random: &[u8], secret: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(LINE_LEN);
        if self.cut.swap(false, Ordering::Relaxed) {
            line.push(b'\n');
        }
        write!(line, "{label} ")?;
        write_hex(&mut line, client_random)?;
        line.push(b' ');
        write_hex(&mut line, secret)?;
        line.push(b'\n');
        loop {
            match (&self.file).write(&line) {
                Ok(written) if written == line.len() => return Ok(()),
                Ok(written) => {
                    self.cut.store(written > 0, Ordering::Relaxed);
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }
}

fn write_hex(line: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    bytes.iter().try_for_each(|byte| write!(line, "{byte:02x}"))
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if let Err(fault) = self.write(label, client_random, secret) {
            LOST.with_borrow_mut(|lost| {
                let before = lost.as_ref().map_or(0, |(count, _)| *count);
                *lost = Some((before + 1, fault));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("hawser-key-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn lines_are_appended_to_a_file_that_its_owner_alone_may_read() {
        let folder = Folder::new("lines");
        let path = folder.0.join("keys");
        let log = KeyLogFile::open(&path).unwrap();
        assert_eq!(mode(&path), MODE);
        log.log("CLIENT_RANDOM", &[0xAB, 1], &[0, 0xFF]);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let again = KeyLogFile::open(&path).unwrap();
        assert_eq!(mode(&path), MODE, "one that was there is closed to others");
        again.log("EXPORTER_SECRET", &[2], &[3]);
        log.log("EXPORTER_SECRET", &[4], &[5]);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "CLIENT_RANDOM ab01 00ff\nEXPORTER_SECRET 02 03\nEXPORTER_SECRET 04 05\n");
        assert!(take_lost().is_none());
    }

    #[test]
    fn threads_need_no_lock_for_whole_lines() {
        let folder = Folder::new("threads");
        let path = folder.0.join("keys");
        let log = KeyLogFile::open(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let log = &log;
                scope.spawn(move || (0..200).for_each(|_| log.log("CLIENT_RANDOM", &[thread; 32], &[thread; 48])));
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        let line = |thread: u8| {
            format!("CLIENT_RANDOM {} {}", format!("{thread:02x}").repeat(32), format!("{thread:02x}").repeat(48))
        };
        for thread in 0..4 {
            assert_eq!(text.lines().filter(|found| *found == line(thread)).count(), 200);
        }
        assert_eq!(text.lines().count(), 800);
    }

    #[test]
    fn what_is_no_plain_file_of_ours_is_refused() {
        let folder = Folder::new("refused");
        let (file, link) = (folder.0.join("file"), folder.0.join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(KeyLogFile::open(&link).is_err(), "a link");
        assert!(KeyLogFile::open(&folder.0).is_err(), "a folder");
        assert!(KeyLogFile::open(&folder.0.join("no/keys")).is_err());
        assert!(KeyLogFile::open(Path::new("/dev/null")).is_err(), "a device");
    }

    #[test]
    fn a_check_makes_nothing_and_changes_nothing() {
        let folder = Folder::new("check");
        let check = |path: &Path| {
            let text = format!(
                "[sipproxy]\ntls-port = 0\n[[sip-server]]\nname = \"a\"\nprimary = \"127.0.0.1:9\"\n\
                 [security]\nkey-log-file = {path:?}\n"
            );
            KeyLogs::check(&Config::parse(&text, "hawser.toml").unwrap())
        };
        let path = folder.0.join("keys");
        check(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        check(&path).unwrap();
        assert_eq!(mode(&path), 0o644);
        check(Path::new("keys-of-nobody")).unwrap();
        let fault = check(&folder.0.join("no/keys")).unwrap_err().to_string();
        assert!(fault.contains("no/keys: key-log-file cannot be used: "), "{fault}");
        assert!(check(&folder.0).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_a_line_cut_short_spoils_no_other() {
        let folder = Folder::new("lost");
        let path = folder.0.join("keys");
        fs::write(&path, "").unwrap();
        // Opened for reading only: every write fails.
        let broken = KeyLogFile { file: File::open(&path).unwrap(), cut: AtomicBool::new(false) };
        broken.log("CLIENT_RANDOM", &[1], &[2]);
        broken.log("CLIENT_RANDOM", &[1], &[2]);
        assert_eq!(take_lost().map(|(count, _)| count), Some(2));
        assert!(take_lost().is_none());
        let log = KeyLogFile::open(&path).unwrap();
        fs::write(&path, "CLIENT_RAN").unwrap();
        log.cut.store(true, Ordering::Relaxed);
        log.log("CLIENT_RANDOM", &[1], &[2]);
        log.log("CLIENT_RANDOM", &[3], &[4]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "CLIENT_RAN\nCLIENT_RANDOM 01 02\nCLIENT_RANDOM 03 04\n");
    }
}
