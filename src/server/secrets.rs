//! What a start needs of randomness and secrets: the keys of flow tokens and session tickets, the boot id, seeds, the
//! member's number.

use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls::crypto::ring;

use crate::admin::Token;
use crate::config::{Config, Security};
use crate::ids::Side;
use crate::tls::file;
use crate::tls::tickets::TicketSecrets;

/// Length of the key of flow tokens, and of the secret of session tickets.
const KEY_LEN: usize = 32;
const TOKEN_SETTING: &str = "flow-token-key-file";
const TICKET_SETTING: &str = "ticket-key-file";
const KEY_SETTING: &str = "certificate-key";

/// Why there is no key.
#[derive(Debug)]
pub enum SecretError {
    /// The system gives no random bytes.
    NoRandomness,
    /// The file can be neither read nor made.
    File(PathBuf, &'static str, io::Error),
    /// The file holds something else than 64 hex digits.
    NoKey(PathBuf, &'static str),
    /// The file with the token of the HTTP port cannot be read.
    TokenFile(PathBuf, io::Error),
    /// The file holds no token.
    NoToken(PathBuf),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRandomness => f.write_str("the system gives no random bytes"),
            Self::File(path, setting, fault) => {
                write!(f, "{}: {setting} can be neither read nor made: {fault}", path.display())
            }
            Self::NoKey(path, setting) => write!(
                f,
                "{}: expected the 64 hex digits of a {setting} and nothing else; delete it to have one made",
                path.display()
            ),
            Self::TokenFile(path, fault) => {
                write!(f, "{}: http-token-file cannot be read: {fault}", path.display())
            }
            Self::NoToken(path) => write!(
                f,
                "{}: expected a bearer token of {} to {} letters, digits or -._~+/ and nothing else, such as \
                 `openssl rand -hex 32` prints",
                path.display(),
                Token::LEN_MIN,
                Token::LEN_MAX
            ),
        }
    }
}

impl std::error::Error for SecretError {}

/// Random bytes from the system.
///
/// # Errors
/// There are none.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| SecretError::NoRandomness)?;
    Ok(bytes)
}

/// The key of flow tokens.
///
/// # Errors
/// See [`key`].
pub fn token_key(path: Option<&Path>) -> Result<[u8; KEY_LEN], SecretError> {
    key(path, TOKEN_SETTING)
}

/// What session tickets are made from.
///
/// # Errors
/// See [`key`].
pub fn tickets(security: &Security) -> Result<TicketSecrets, SecretError> {
    let of = |side| key(security.side(side).ticket_key_file.as_deref(), TICKET_SETTING);
    Ok(TicketSecrets { server: of(Side::Server)?, endpoint: of(Side::Endpoint)? })
}

/// The key files that exist, for `--check`, which makes none.
///
/// # Errors
/// One is there and of no use.
pub fn check_keys(config: &Config) -> Result<(), SecretError> {
    let tickets = |side| (config.security.side(side).ticket_key_file.as_deref(), TICKET_SETTING);
    let token = (config.sipproxy.flow_token_key_file.as_deref(), TOKEN_SETTING);
    for (path, setting) in [token, tickets(Side::Server), tickets(Side::Endpoint)] {
        if path.is_some_and(Path::exists) {
            key(path, setting)?;
        }
    }
    Ok(())
}

/// A key from its file, which is made when it is missing; without a file a key of this start.
///
/// # Errors
/// The file is of no use.
fn key(path: Option<&Path>, setting: &'static str) -> Result<[u8; KEY_LEN], SecretError> {
    let Some(path) = path else { return random() };
    match file::read(path) {
        Ok(text) => parse(&text).ok_or_else(|| SecretError::NoKey(path.to_owned(), setting)),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
            let key = random()?;
            make(path, &key).map_err(|fault| SecretError::File(path.to_owned(), setting, fault))?;
            Ok(key)
        }
        Err(fault) => Err(SecretError::File(path.to_owned(), setting, fault)),
    }
}

/// The token that the HTTP port asks for.
///
/// # Errors
/// The file is of no use.
pub fn http_token(path: &Path) -> Result<Token, SecretError> {
    let text = file::read(path).map_err(|fault| SecretError::TokenFile(path.to_owned(), fault))?;
    let token = std::str::from_utf8(&text).ok().and_then(Token::new);
    token.ok_or_else(|| SecretError::NoToken(path.to_owned()))
}

/// The files with secrets that everybody on this machine can read, each with its setting. That is told and not refused,
/// for some ways to hand secrets to containers leave no choice.
pub fn open_to_all(config: &Config) -> Vec<(PathBuf, &'static str)> {
    let mut all: Vec<(PathBuf, &'static str)> = Vec::new();
    let mut look = |path: Option<&PathBuf>, setting| {
        if let Some(path) = path.filter(|path| is_open_to_all(path) && !all.iter().any(|(other, _)| other == *path)) {
            all.push((path.clone(), setting));
        }
    };
    look(config.sipproxy.http_token_file.as_ref(), "http-token-file");
    look(config.sipproxy.flow_token_key_file.as_ref(), TOKEN_SETTING);
    for side in [Side::Endpoint, Side::Server] {
        look(config.security.side(side).ticket_key_file.as_ref(), TICKET_SETTING);
        look(config.security.side(side).certificate_key.as_ref(), KEY_SETTING);
    }
    config.security.peers.iter().for_each(|peer| look(peer.certificate_key.as_ref(), KEY_SETTING));
    config.security.sni.iter().for_each(|sni| look(Some(&sni.certificate_key), KEY_SETTING));
    all
}

fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

fn make(path: &Path, key: &[u8; KEY_LEN]) -> io::Result<()> {
    let mut text = String::with_capacity(2 * KEY_LEN + 1);
    for byte in key {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    // Never over a file that another process has made meanwhile: its key may be in use already.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn parse(text: &[u8]) -> Option<[u8; KEY_LEN]> {
    let digits = text.trim_ascii();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut key = [0; KEY_LEN];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

/// This member of the pool, by the address that it is known under: the same at each start.
#[must_use]
pub fn member(advertised_host: &str, advertised_port: u16) -> u16 {
    let mut hasher = siphasher::sip::SipHasher24::new();
    hasher.write(advertised_host.to_ascii_lowercase().as_bytes());
    hasher.write_u16(advertised_port);
    // The lowest 16 bits of a hash are as good as any.
    (hasher.finish() & 0xFFFF) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("hawser-secrets-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// With this file as the secret of tickets.
    fn config(path: &Path) -> Config {
        let text = format!(
            "[sipproxy]\ntls-port = 0\n[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:9\"\n\
             [security]\nticket-key-file = {path:?}\n"
        );
        Config::parse(&text, "hawser.toml").unwrap()
    }

    #[test]
    fn a_missing_key_file_is_made_for_its_owner_only_and_read_again() {
        let folder = Folder::new("made");
        let path = folder.0.join("key");
        check_keys(&config(&path)).unwrap();
        assert!(!path.exists(), "a check makes nothing");
        let key = token_key(Some(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(token_key(Some(&path)).unwrap(), key);
        assert_ne!(key, [0; 32]);
        assert_ne!(token_key(None).unwrap(), token_key(None).unwrap());
        // Both sides take the file, as [security] says it for both.
        let tickets = tickets(&config(&path).security).unwrap();
        assert_eq!((tickets.server, tickets.endpoint), (key, key));
    }

    #[test]
    fn garbage_in_a_key_file_is_an_error_and_stays_as_it_is() {
        let folder = Folder::new("garbage");
        let path = folder.0.join("key");
        for garbage in ["", "0", &"0".repeat(63), &"g".repeat(64), &"0".repeat(65), &format!("+{}", "0".repeat(63))] {
            fs::write(&path, garbage).unwrap();
            assert!(matches!(token_key(Some(&path)), Err(SecretError::NoKey(..))), "{garbage:?}");
            assert!(matches!(check_keys(&config(&path)), Err(SecretError::NoKey(_, TICKET_SETTING))));
            assert_eq!(fs::read_to_string(&path).unwrap(), garbage);
        }
        fs::write(&path, format!("{}\n", "aB".repeat(32))).unwrap();
        assert_eq!(token_key(Some(&path)).unwrap(), [0xAB; 32]);
        assert!(matches!(token_key(Some(&folder.0.join("no/key"))), Err(SecretError::File(..))));
    }

    #[test]
    fn a_token_is_read_without_white_space_and_garbage_is_named() {
        let folder = Folder::new("token");
        let path = folder.0.join("token");
        assert!(matches!(http_token(&path), Err(SecretError::TokenFile(..))));
        for garbage in [&b"short"[..], b"", b"two words, and long enough", b"\xff\xfe0123456789abcdef"] {
            fs::write(&path, garbage).unwrap();
            let fault = http_token(&path).unwrap_err();
            assert!(matches!(fault, SecretError::NoToken(_)));
            assert!(fault.to_string().starts_with(&path.display().to_string()), "{fault}");
        }
        fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(http_token(&path).unwrap().authorization(), "Bearer 0123456789abcdef");
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_all(&path), open);
        }
    }

    #[test]
    fn secrets_that_everybody_can_read_are_told_with_their_setting() {
        let folder = Folder::new("open");
        let path = folder.0.join("key");
        fs::write(&path, "").unwrap();
        let mut config = config(&path);
        for mode in [0o600, 0o640] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_all(&config), []);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open_to_all(&config), [(path.clone(), TICKET_SETTING)], "both sides have it, and it is told once");
        let ticket = config.security.endpoint.ticket_key_file.take();
        config.security.server.ticket_key_file = None;
        config.security.endpoint.certificate_key = ticket.clone();
        assert_eq!(open_to_all(&config), [(path.clone(), KEY_SETTING)]);
        config.sipproxy.flow_token_key_file = ticket.clone();
        assert_eq!(open_to_all(&config), [(path.clone(), TOKEN_SETTING)]);
        config.sipproxy.http_token_file = ticket;
        assert_eq!(open_to_all(&config), [(path, "http-token-file")]);
    }

    #[test]
    fn a_member_is_the_same_at_each_start_and_another_at_another_address() {
        assert_eq!(member("proxy.example.com", 5060), member("PROXY.example.com", 5060));
        assert_ne!(member("192.0.2.1", 5060), member("192.0.2.2", 5060));
    }
}
