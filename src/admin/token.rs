//! The bearer token that may be asked for (RFC 6750 §2.1).

use std::fmt;

/// A secret that every request for numbers must carry as `Authorization: Bearer …`.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

impl Token {
    /// Fewer characters than these are guessed.
    pub const LEN_MIN: usize = 16;
    /// What fits into a request's head with ease.
    pub const LEN_MAX: usize = 512;

    /// From the text of a token file, without the white space around it; `None` for what is no token (RFC 6750 §2.1:
    /// letters, digits and `-._~+/`, then perhaps `=`), or too short or long to be a good one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let body = text.trim_end_matches('=');
        let fits = (Self::LEN_MIN..=Self::LEN_MAX).contains(&text.len()) && !body.is_empty();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        (fits && body.bytes().all(allowed)).then(|| Self(text.as_bytes().to_vec()))
    }

    /// The value of an Authorization field that carries it.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", String::from_utf8_lossy(&self.0))
    }

    /// Whether the value of an Authorization field carries it. Its time tells only the length, not how many
    /// bytes were right.
    pub(super) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(value) = authorization else { return false };
        let Some((scheme, given)) = value.split_at_checked(7) else { return false };
        if !scheme.eq_ignore_ascii_case(b"bearer ") || given.len() != self.0.len() {
            return false;
        }
        given.iter().zip(&self.0).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_admits() {
        let token = Token::new("  s3cret-s3cret-==\n").expect("it holds a token");
        assert!(token.admits(Some(b"Bearer s3cret-s3cret-==")));
        assert!(token.admits(Some(b"bearer s3cret-s3cret-==")));
        assert!(token.admits(Some(token.authorization().as_bytes())));
        for wrong in ["Bearer s3cret-s3cret-=", "Bearer s3cret-s3creT-==", "Bearer s3cret-s3cret-== "] {
            assert!(!token.admits(Some(wrong.as_bytes())), "{wrong:?}");
        }
        for wrong in ["Basic s3cret-s3cret-==", "s3cret-s3cret-==", ""] {
            assert!(!token.admits(Some(wrong.as_bytes())), "{wrong:?}");
        }
        assert!(!token.admits(None));
        assert_eq!(format!("{token:?}"), "Token(16 bytes)");
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        assert!(Token::new(&"a".repeat(16)).is_some());
        assert!(Token::new(&"a".repeat(512)).is_some());
        assert!(Token::new("0123456789abcdef-._~+/==").is_some());
        for bad in ["", " \n", &"a".repeat(15), &"a".repeat(513), "0123456789 abcdef", "0123456789\nabcdef"] {
            assert!(Token::new(bad).is_none(), "{bad:?}");
        }
        for bad in ["0123456789\u{e4}abcdef", "0123456789=abcdef", &"=".repeat(20), "0123456789abcdef\u{0}"] {
            assert!(Token::new(bad).is_none(), "{bad:?}");
        }
    }
}
