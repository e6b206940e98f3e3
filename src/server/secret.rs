//! Secrets of a start: random bytes of the system, and the file that holds a lasting key (64 hex digits).
//!
//! A key file that several proxies share is made by whoever comes first, whole or not at all: it is written under
//! another name and then linked to its own, which fails for all but one.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A key in a file.
const KEY_LEN: usize = 32;
/// Of a whole file, so that a wrong path is not read to its end.
const FILE_LEN_MAX: u64 = 1_024;

/// Why there is no secret. Prints as one line that names the file.
#[derive(Debug)]
pub enum SecretError {
    /// The system gives no random bytes.
    NoRandom,
    /// The file is there and cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The file is not 64 hex digits.
    Malformed(PathBuf),
    /// The file was missing and cannot be made.
    Unwritable(PathBuf, io::Error),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRandom => f.write_str("the system gives no random bytes"),
            Self::Unreadable(path, fault) => write!(f, "{}: cannot be read: {fault}", path.display()),
            Self::Malformed(path) => write!(f, "{}: expected 64 hex digits on one line", path.display()),
            Self::Unwritable(path, fault) => write!(f, "{}: cannot be made: {fault}", path.display()),
        }
    }
}

impl std::error::Error for SecretError {}

/// Random bytes of the system.
///
/// # Errors
/// [`SecretError::NoRandom`].
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| SecretError::NoRandom)?;
    Ok(bytes)
}

/// The key of a file; `None` when the file is not there.
///
/// # Errors
/// [`SecretError::Unreadable`], [`SecretError::Malformed`].
pub fn key(path: &Path) -> Result<Option<[u8; KEY_LEN]>, SecretError> {
    let unreadable = |fault| SecretError::Unreadable(path.to_owned(), fault);
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(unreadable(fault)),
    };
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut text).map_err(unreadable)?;
    match from_hex(text.trim_ascii()) {
        Some(key) => Ok(Some(key)),
        None => Err(SecretError::Malformed(path.to_owned())),
    }
}

/// The key of a file, which is made with mode 0600 when it is not there.
///
/// # Errors
/// Any [`SecretError`].
pub fn key_or_new(path: &Path) -> Result<[u8; KEY_LEN], SecretError> {
    if let Some(key) = key(path)? {
        return Ok(key);
    }
    let unwritable = |fault| SecretError::Unwritable(path.to_owned(), fault);
    let new = random::<KEY_LEN>()?;
    let salt = random::<8>()?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", to_hex(&salt)));
    let draft = PathBuf::from(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(format!("{}\n", to_hex(&new)).as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&draft, path)
    };
    let written = write();
    // A draft that cannot be removed does no harm but to tidiness.
    let _removed = fs::remove_file(&draft);
    match written {
        Ok(()) => Ok(new),
        // Another proxy was quicker: its key is the pool's.
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => match key(path)? {
            Some(key) => Ok(key),
            None => Err(unwritable(fault)),
        },
        Err(fault) => Err(unwritable(fault)),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &[u8]) -> Option<[u8; KEY_LEN]> {
    if text.len() != 2 * KEY_LEN {
        return None;
    }
    let mut key = [0; KEY_LEN];
    for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// A directory of one test, removed when dropped.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let name = format!("hawser-secret-{}", to_hex(&random::<8>().unwrap()));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_missing_key_is_made_once_and_stays() {
        let dir = Dir::new();
        let path = dir.0.join("token.key");
        assert_eq!(key(&path).unwrap(), None);
        let made = key_or_new(&path).unwrap();
        assert_eq!(key_or_new(&path).unwrap(), made);
        assert_eq!(key(&path).unwrap(), Some(made));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), 65);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
        assert_ne!(key_or_new(&dir.0.join("other.key")).unwrap(), made);
    }

    #[test]
    fn proxies_that_start_at_once_have_one_key() {
        let dir = Dir::new();
        let path = dir.0.join("token.key");
        let start = Barrier::new(8);
        let keys: Vec<_> = thread::scope(|scope| {
            let one = || {
                start.wait();
                key_or_new(&path).unwrap()
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn hex_digits_of_both_cases_are_a_key() {
        let dir = Dir::new();
        let path = dir.0.join("token.key");
        fs::write(&path, format!("  {}Ff\r\n", "0a".repeat(31))).unwrap();
        let key = key(&path).unwrap().unwrap();
        assert_eq!((key[0], key[31]), (0x0a, 0xff));
    }

    #[test]
    fn garbage_is_no_key_and_stays() {
        let dir = Dir::new();
        let path = dir.0.join("token.key");
        for text in
            [String::new(), "0".repeat(63), "0".repeat(65), "g".repeat(64), "\u{e9}".repeat(32), "0".repeat(9999)]
        {
            fs::write(&path, &text).unwrap();
            assert!(matches!(key_or_new(&path), Err(SecretError::Malformed(at)) if at == path), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(matches!(key_or_new(&dir.0), Err(SecretError::Unreadable(..))));
        assert!(matches!(key_or_new(&dir.0.join("none/token.key")), Err(SecretError::Unwritable(..))));
    }
}
