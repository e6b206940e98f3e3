//! Session tickets that any shard, a restarted process and every member of a pool can open, with nothing to copy when
//! keys change (RFC 5077, RFC 8446 §4.6.1).
//!
//! One secret (`ticket-key-file`) makes a key for each period of `ticket-key-hours`, counted from 1970, and that one a
//! key for each ticket from random bytes in it. A ticket is opened in its own period, in the next, and in the one
//! before, for the clocks of a pool differ a little.
//!
//! Left out on purpose: tickets under `tls-mutual`, see [`super::setup`].

use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// Separates these keys from all others that might be made from the same secret.
const LABEL: &[u8] = b"hawser session tickets 1";
const FORMAT: u8 = 1;
const SALT_LEN: usize = 16;
/// Format, period, salt.
const HEAD_LEN: usize = 1 + 8 + SALT_LEN;

/// What ticket keys are made from; one for each side.
#[derive(Clone)]
pub struct TicketSecrets {
    /// For ports of the server side.
    pub server: [u8; 32],
    /// For ports of the endpoint side, and of both.
    pub endpoint: [u8; 32],
}

impl std::fmt::Debug for TicketSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketSecrets")
    }
}

/// Makes and opens tickets.
pub(super) struct Ticketer {
    secret: hmac::Key,
    period_s: u64,
    random: SystemRandom,
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticketer").field("period_s", &self.period_s).finish_non_exhaustive()
    }
}

impl Ticketer {
    pub(super) fn new(secret: &[u8; 32], hours: u32) -> Self {
        Self {
            secret: hmac::Key::new(HMAC_SHA256, secret),
            period_s: u64::from(hours) * 3_600,
            random: SystemRandom::new(),
        }
    }

    /// The key of one ticket. It is used once, so that its nonce need not differ from that of another.
    fn key(&self, period: u64, salt: &[u8]) -> Option<LessSafeKey> {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(LABEL);
        context.update(&self.period_s.to_be_bytes());
        context.update(&period.to_be_bytes());
        let of_period = hmac::Key::new(HMAC_SHA256, context.sign().as_ref());
        let of_ticket = hmac::sign(&of_period, salt);
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, of_ticket.as_ref()).ok()?))
    }

    fn seal(&self, plain: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let period = now_s / self.period_s;
        let mut salt = [0; SALT_LEN];
        self.random.fill(&mut salt).ok()?;
        let mut ticket = Vec::with_capacity(HEAD_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.push(FORMAT);
        ticket.extend_from_slice(&period.to_be_bytes());
        ticket.extend_from_slice(&salt);
        let mut text = plain.to_vec();
        let key = self.key(period, &salt)?;
        key.seal_in_place_append_tag(nonce(), Aad::from(&ticket), &mut text).ok()?;
        ticket.extend_from_slice(&text);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let (head, text) = ticket.split_at_checked(HEAD_LEN)?;
        let (format, rest) = head.split_first()?;
        let (period, salt) = rest.split_first_chunk()?;
        let period = u64::from_be_bytes(*period);
        if *format != FORMAT || period.abs_diff(now_s / self.period_s) > 1 {
            return None;
        }
        let mut text = text.to_vec();
        let len = self.key(period, salt)?.open_in_place(nonce(), Aad::from(head), &mut text).ok()?.len();
        text.truncate(len);
        Some(text)
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    /// The least that a ticket is good for; a week at most, which is the most that RFC 8446 allows.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.period_s).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now_s())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now_s())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: u64 = 3_600;

    #[test]
    fn a_ticket_is_opened_in_its_period_and_the_next_by_whoever_has_the_secret() {
        let (first, second) = (Ticketer::new(&[7; 32], 12), Ticketer::new(&[7; 32], 12));
        let made_at = 1_000_000 * HOUR_S + 5;
        let ticket = first.seal(b"session", made_at).unwrap();
        assert_ne!(first.seal(b"session", made_at).unwrap(), ticket);
        assert!(!ticket.windows(7).any(|part| part == b"session"));
        let opened = |hours: u64| second.open(&ticket, made_at + hours * HOUR_S);
        assert_eq!(opened(0).as_deref(), Some(&b"session"[..]));
        assert_eq!(opened(12).as_deref(), Some(&b"session"[..]), "whatever its period, for so long at least");
        assert_eq!(opened(24), None);
        assert_eq!(Ticketer::new(&[8; 32], 12).open(&ticket, made_at), None);
        assert_eq!(Ticketer::new(&[7; 32], 6).open(&ticket, made_at), None);
    }

    #[test]
    fn a_changed_cut_or_foreign_ticket_is_declined() {
        let ticketer = Ticketer::new(&[7; 32], 1);
        let ticket = ticketer.seal(b"session", 10 * HOUR_S).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.open(&changed, 10 * HOUR_S), None, "byte {at}");
            assert_eq!(ticketer.open(&ticket[..at], 10 * HOUR_S), None, "cut at {at}");
        }
    }
}
