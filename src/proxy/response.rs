//! The response as it goes back: our Via off, and what each side must not see (RFC 3261 §16.7 steps 3, 8, 9).

use crate::ids::{Side, Transport};
use crate::proxy::forward::write_content_length;
use crate::sip::{Edits, Message, Name};

/// What becomes of a final response's status on its way (RFC 3261 §16.7 step 6, RFC 4320 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on as it is.
    Pass,
    /// An endpoint's 503 goes to the server as 500: it says nothing about this proxy.
    As500,
    /// A 408 to a request other than INVITE arrives too late to help and does harm.
    Drop,
}

/// Decides what becomes of a response.
#[must_use]
pub fn fate(code: u16, is_invite: bool, from: Side) -> Fate {
    match code {
        503 if from == Side::Endpoint => Fate::As500,
        408 if !is_invite => Fate::Drop,
        _ => Fate::Pass,
    }
}

/// Adds the edits that every forwarded response gets. `trusted`: a server sent it, here or at another site.
/// From anybody else `X-Genesys-Route` would be taken for a server's word.
pub fn edit(response: &Message, trusted: bool, leaves_on: Transport, edits: &mut Edits) {
    for span in response.cut_values(Name::Via, 1) {
        edits.remove(span);
    }
    for field in response.fields().iter().filter(|field| !trusted && field.name == Name::XGenesysRoute) {
        edits.remove(field.line);
    }
    if leaves_on.is_stream() && response.first(Name::ContentLength).is_none() {
        edits.insert_with(response.head_end(), |out| write_content_length(response.body().len(), out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_503_becomes_500_and_a_servers_passes() {
        assert_eq!(fate(503, true, Side::Endpoint), Fate::As500);
        assert_eq!(fate(503, true, Side::Server), Fate::Pass);
    }

    #[test]
    fn a_408_to_a_non_invite_is_never_passed_on() {
        assert_eq!(fate(408, false, Side::Server), Fate::Drop);
        assert_eq!(fate(408, true, Side::Server), Fate::Pass);
    }
}
