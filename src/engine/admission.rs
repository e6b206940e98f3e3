//! New work that gives way when messages wait too long: whose, and what an operator hears of it. How long that is, is for
//! [`crate::overload`].

use std::net::IpAddr;
use std::time::Duration;

use super::ports::Timer;
use super::service_checks::OWNER;
use super::{Engine, Level, Mail, Source};
use crate::clock::Time;
use crate::ids::Side;
use crate::overload::{Class, Overload};
use crate::sip::{Field, Message, Method};
use crate::stats::Counter;

/// Namespaces of Resource-Priority that emergency services use (RFC 4412 §12.6, RFC 7135).
const EMERGENCY: [&[u8]; 3] = [b"esnet", b"ets", b"wps"];
const PRIORITY: &[u8] = b"Resource-Priority";
const SOS: &[u8] = b"urn:service:sos";

impl Engine {
    /// A message's turn has come, for which it had waited so long.
    pub(super) fn note_wait(&mut self, waited: Duration, now: Time) {
        if self.admission.note(waited, now) {
            let about = format!("messages wait {} ms for their turn", waited.as_millis());
            self.tell(Level::Warn, "overloaded: new work is refused until messages wait less", None, about.as_bytes());
            self.await_end_of_overload();
        }
    }

    /// Whether TLS handshakes give way now.
    #[must_use]
    pub fn puts_off_handshakes(&self) -> bool {
        self.admission.puts_off(Class::Handshake)
    }

    /// A step of a handshake waits for that.
    pub fn handshake_put_off(&mut self) {
        self.count(Counter::HandshakesPutOff);
        self.admission.note_put_off(Class::Handshake);
    }

    /// Whether a phone is bound here that has connected from this address.
    #[must_use]
    pub fn is_bound_at(&self, ip: IpAddr) -> bool {
        self.abuse.is_bound(ip)
    }

    fn await_end_of_overload(&mut self) {
        self.ports.mail(OWNER, Mail::Late);
        if let Some(at) = self.admission.ends_at() {
            self.ports.wheel.arm(at, Timer::Overload);
        }
    }

    /// The overload may be over.
    pub(super) fn on_overload_timer(&mut self, now: Time) {
        match self.admission.take_over(now) {
            Some(overload) => self.tell_over(&overload),
            None => self.await_end_of_overload(),
        }
    }

    fn tell_over(&mut self, overload: &Overload) {
        let lasted = overload.last.since(overload.since);
        let [handshakes, registers, dialogs, known] = overload.refused;
        let about = format!(
            "it lasted {:.1} s, messages waited up to {} ms; put off or refused were {handshakes} steps of TLS handshakes, \
             {registers} registrations, {dialogs} requests outside dialogs, {known} in dialogs",
            lasted.as_secs_f64(),
            overload.longest.as_millis(),
        );
        self.tell(Level::Warn, "the overload is over", None, about.as_bytes());
    }

    /// Whether a request that begins a transaction may do so now; it is answered when not.
    pub(super) fn admits(&mut self, request: &Message, source: &Source, key: u128, now: Time) -> bool {
        let rate = self.env.settings.live.dialog_rate;
        let before = request.waited_before();
        if self.admission.overload().is_none() && before.is_none() && rate == 0 {
            return true;
        }
        let Some(class) = class_of(request, source) else { return true };
        // Where it landed, it could not be told whether it is a repetition: its wait there counts as much as here.
        let was_late = before.is_some_and(|waited| waited >= class.wait_max());
        let is_dialog = class == Class::Dialog && request.method() == Some(Method::Invite);
        let why = match class {
            _ if self.admission.admits(class, request.waited(now)) && !was_late => {
                if !is_dialog || self.env.settings.dialog_rate.admits(rate, now) {
                    return true;
                }
                Counter::Refused503DialogRate
            }
            Class::Register => Counter::Refused503OverloadRegister,
            Class::Handshake | Class::Dialog => Counter::Refused503OverloadDialog,
            Class::Known => Counter::Refused503OverloadKnown,
        };
        self.count(why);
        self.turn_away(request, source, key);
        false
    }

    /// Answers as shortly as can be, without a word to the operator for each.
    fn turn_away(&mut self, request: &Message, source: &Source, key: u128) {
        let mut extra = self.ports.pool.take();
        self.ports.write_retry_after(&mut extra);
        self.reply(request, source, 503, "Overloaded", key, &extra);
        self.ports.pool.give(extra);
    }
}

/// The class of a request; none for what is never refused for want of time: service checks of a server, and emergency
/// calls.
fn class_of(request: &Message, source: &Source) -> Option<Class> {
    let method = request.method();
    let is_check = source.side == Side::Server && method == Some(Method::Options) && request.to_tag().is_empty();
    if is_check || is_emergency(request) {
        return None;
    }
    Some(match method {
        _ if !request.to_tag().is_empty() => Class::Known,
        Some(Method::Register) if source.binding.is_some() => Class::Known,
        Some(Method::Register) => Class::Register,
        _ => Class::Dialog,
    })
}

/// Whether it is an emergency call by its Request-URI (RFC 5031) or its Resource-Priority (RFC 4412).
fn is_emergency(request: &Message) -> bool {
    let uri = request.request_uri().map_or(&b""[..], |uri| request.text(uri.all));
    let is_sos = uri.get(..SOS.len()).is_some_and(|start| start.eq_ignore_ascii_case(SOS))
        && matches!(uri.get(SOS.len()), None | Some(b'.'));
    let is_priority = |field: &&Field| request.text(field.name_span).eq_ignore_ascii_case(PRIORITY);
    let is_of_emergency = |value: &[u8]| {
        let namespace = value.split(|byte| *byte == b'.').next().unwrap_or(value).trim_ascii();
        EMERGENCY.iter().any(|one| namespace.eq_ignore_ascii_case(one))
    };
    is_sos
        || request
            .fields()
            .iter()
            .filter(is_priority)
            .any(|field| request.text(field.value).split(|byte| *byte == b',').any(is_of_emergency))
}
