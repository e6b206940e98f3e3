//! REGISTER: whose bindings it asks for, how the SIP Server is told the way back, and what its 2xx binds
//! (RFC 3261 §10, RFC 3327 §5, RFC 5626 §5.1; DESIGN.md, What it does on the wire, 3).

use smallvec::SmallVec;

use super::{Source, record_route};
use crate::config::engine::{Point, Sticky};
use crate::flow::keys::Keys;
use crate::flow::recognise::{Asked, Names};
use crate::flow::token::{Dialog, Kind, Token};
use crate::ids::BindingId;
use crate::limits::CONTACTS_MAX;
use crate::sip::value::{parse_u32, unquoted};
use crate::sip::{Edits, Message, Name, NameAddr, Span, Uri};

/// One Contact of a REGISTER.
#[derive(Clone, Copy, Debug)]
pub struct Contact {
    /// The whole value.
    pub value: NameAddr,
    /// Its URI.
    pub uri: Uri,
    /// Keyed hash of its URI in canonical form.
    pub contact_hash: u64,
    /// The binding that it asks for.
    pub id: BindingId,
    /// It is taken back by a REGISTER that binds the same binding: it means nothing.
    pub superseded: bool,
    /// Its own `expires` parameter.
    pub expires: Option<u32>,
    /// Its reg-id, when it has an instance-id too (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
    /// Its instance-id, as written within the quotes; empty when there is none.
    pub instance: Span,
}

/// What a REGISTER asks for.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The canonical AOR of To; a URI of another scheme as written.
    pub aor: Vec<u8>,
    /// `Contact: *`.
    pub star: bool,
    /// The Contacts that may be bound; empty for a query, and for an AOR of another scheme.
    pub contacts: SmallVec<[Contact; 1]>,
    /// The Expires header field.
    pub expires: Option<u32>,
}

/// Why a REGISTER cannot be understood; 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterFault {
    /// To holds no URI.
    To,
    /// A Contact cannot be parsed.
    Contact,
    /// More Contacts than `CONTACTS_MAX`.
    TooMany,
}

/// The AOR's user part as it names the home shard, a URI of another scheme whole; `None` when To holds no URI.
#[must_use]
pub fn aor_user(request: &Message) -> Option<Vec<u8>> {
    let uri = to_uri(request)?;
    let mut user = Vec::new();
    uri.user_unescaped(request.buf(), &mut user);
    Some(user)
}

/// The URI of To, of whichever scheme.
#[must_use]
pub fn to_uri(request: &Message) -> Option<Uri> {
    let to = request.first(Name::To)?;
    let value = NameAddr::parse(request.buf(), to.value).ok()?;
    Uri::parse(request.buf(), value.uri).ok()
}

/// A Contact before it is known which binding it is.
#[derive(Clone, Copy)]
struct Unnamed<'a> {
    value: NameAddr,
    uri: Uri,
    expires: Option<u32>,
    asked: Asked<'a>,
}

/// What the Contacts of a REGISTER are read with.
struct Registrant<'a, 'b> {
    buf: &'b [u8],
    aor: &'a [u8],
    user: &'a [u8],
    /// The Expires field.
    expires: Option<u32>,
    source: &'a Source,
    names: &'a super::Names,
    keys: &'a Keys,
}

impl<'b> Registrant<'_, 'b> {
    /// One Contact; `None` for one that leads nowhere over this flow, such as a telephone number or a mail address.
    /// `canonical` is room to write in.
    fn contact(&self, span: Span, canonical: &mut Vec<u8>) -> Result<Option<Unnamed<'b>>, RegisterFault> {
        let buf = self.buf;
        let value = NameAddr::parse(buf, span).map_err(|_| RegisterFault::Contact)?;
        let uri = Uri::parse(buf, value.uri).map_err(|_| RegisterFault::Contact)?;
        if !uri.scheme.is_sip() {
            return Ok(None);
        }
        let instance = value.param(buf, "+sip.instance").map(unquoted).unwrap_or_default();
        let expires = value.param(buf, "expires").and_then(parse_u32);
        canonical.clear();
        uri.write_aor(buf, canonical);
        let is_its_own = is_its_own(&uri, buf, self.user, self.source, self.names);
        let asked = Asked {
            instance,
            reg_id: value.param(buf, "reg-id").and_then(parse_u32).filter(|_| !instance.is_empty()),
            contact: uri.all.of(buf),
            contact_hash: self.keys.contact(canonical, Some(self.aor).filter(|_| !is_its_own)),
            binds: expires.or(self.expires) != Some(0),
        };
        Ok(Some(Unnamed { value, uri, expires, asked }))
    }
}

/// Reads a REGISTER. `recognise` says which bindings of the AOR (given with its user part) its Contacts are.
///
/// # Errors
/// See [`RegisterFault`].
pub fn read(
    request: &Message,
    source: &Source,
    names: &super::Names,
    keys: &Keys,
    recognise: impl FnOnce(&[u8], &[u8], &[Asked<'_>]) -> Names,
) -> Result<Registration, RegisterFault> {
    let buf = request.buf();
    let to = to_uri(request).ok_or(RegisterFault::To)?;
    let mut aor = Vec::new();
    to.write_aor(buf, &mut aor);
    let mut user = Vec::new();
    to.user_unescaped(buf, &mut user);
    let mut star = false;
    let expires_header = request.expires();
    if !to.scheme.is_sip() {
        // Nobody could ask for it here (RFC 4475 §3.3.4).
        return Ok(Registration { aor, star, contacts: SmallVec::new(), expires: expires_header });
    }
    let registrant = Registrant { buf, aor: &aor, user: &user, expires: expires_header, source, names, keys };
    let mut contacts: SmallVec<[Unnamed<'_>; 1]> = SmallVec::new();
    let mut canonical = Vec::new();
    for span in request.values(Name::Contact) {
        if span.of(buf) == b"*" {
            star = true;
        } else if contacts.len() >= CONTACTS_MAX {
            return Err(RegisterFault::TooMany);
        } else {
            contacts.extend(registrant.contact(span, &mut canonical)?);
        }
    }
    let asked: SmallVec<[Asked<'_>; 1]> = contacts.iter().map(|contact| contact.asked).collect();
    let names = recognise(&aor, &user, &asked);
    let named = contacts.iter().zip(names).map(|(contact, named)| Contact {
        value: contact.value,
        uri: contact.uri,
        contact_hash: contact.asked.contact_hash,
        id: named.id,
        superseded: named.superseded,
        expires: contact.expires,
        reg_id: contact.asked.reg_id,
        instance: span_in(buf, contact.asked.instance),
    });
    let contacts = named.collect();
    Ok(Registration { aor, star, contacts, expires: expires_header })
}

/// Whether a Contact shows that it is the phone's: by the address that the REGISTER came from, or by the user's own name
/// at a host that is nobody else's whom we know. Any other is a phone's word, and would take the calls of the device, the
/// server or the user whose URI it is.
fn is_its_own(contact: &Uri, buf: &[u8], aor_user: &[u8], source: &Source, names: &super::Names) -> bool {
    let port = contact.port.unwrap_or(5060);
    let is_from =
        contact.host.ip() == Some(source.peer.ip()) && (source.flow.is_stream() || port == source.peer.port());
    let mut user = Vec::new();
    contact.user_unescaped(buf, &mut user);
    let is_anothers = || names.has_users_at(contact.host, buf) || names.peer_of_uri(contact).is_some();
    is_from || (!user.is_empty() && user == aor_user && !is_anothers())
}

impl Registration {
    /// The Contact that the Path names: the first that is not taken back.
    #[must_use]
    pub fn lasting_contact(&self) -> Option<&Contact> {
        self.contacts.iter().find(|contact| self.binds(contact)).or(self.contacts.first())
    }

    /// Whether a Contact of this REGISTER is to be bound, and not taken back.
    fn binds(&self, contact: &Contact) -> bool {
        contact.expires.or(self.expires) != Some(0)
    }
}

/// The span of a slice that was cut out of `buf`.
fn span_in(buf: &[u8], part: &[u8]) -> Span {
    let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
    if start.saturating_add(part.len()) <= buf.len() { Span::new(start, start + part.len()) } else { Span::default() }
}

fn covers(outer: Span, inner: Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// How a forwarded REGISTER is changed.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// `sticky`.
    pub sticky: Sticky,
    /// `path-add-supported`.
    pub add_supported: bool,
    /// The flow that the phone registers over, as a Path token.
    pub token: Token,
    /// The point that faces the SIP Server.
    pub server_point: &'a Point,
}

/// Whether we say `Supported: path` for the phone, and so keep the Path from it in the 2xx.
#[must_use]
pub fn says_path_for_it(request: &Message, sticky: Sticky, add_supported: bool) -> bool {
    sticky == Sticky::Path && add_supported && !request.has_option(Name::Supported, b"path")
}

/// Adds the edits that tell the SIP Server the way back.
pub fn edit_request(request: &Message, registration: &Registration, way: Way<'_>, keys: &Keys, edits: &mut Edits) {
    // On top of the Paths of elements before us (RFC 3327 §5.2). Where it is not our own way back, it keeps those from being
    // the server's next hop: they are no more than what an endpoint says.
    let before_us = request.first(Name::Path).map(|field| field.line.start as usize);
    if way.sticky == Sticky::Path || before_us.is_some() {
        let at = before_us.unwrap_or_else(|| request.head_end());
        edits.insert_with(at, |out| record_route::write_path(&way.token, way.server_point, keys, out));
    }
    match way.sticky {
        Sticky::Path => {
            if says_path_for_it(request, way.sticky, way.add_supported) {
                edits.insert(request.head_end(), b"Supported: path\r\n");
            }
        }
        Sticky::Contact => {
            // The alias takes the place of its former self: it is not taken back as well, for a registrar works
            // through the Contacts in their order.
            let superseded = |span: Span| {
                registration.contacts.iter().any(|contact| contact.superseded && covers(span, contact.value.uri))
            };
            if registration.contacts.iter().any(|contact| contact.superseded) {
                for span in request.cut_values_where(Name::Contact, |_, span| superseded(span)) {
                    edits.remove(span);
                }
            }
            for contact in registration.contacts.iter().filter(|contact| !contact.superseded) {
                edits.replace_with(contact.value.uri, |out| {
                    let bare = !contact.value.bracketed;
                    if bare {
                        out.push(b'<');
                    }
                    let alias = Token::alias(contact.id);
                    record_route::write_uri(&alias, way.server_point, false, keys, Dialog::NONE, out);
                    if bare {
                        out.push(b'>');
                    }
                });
            }
        }
        Sticky::Aor => {}
    }
}

/// What a 2xx says of the Contacts in its REGISTER: for each its lifetime in seconds, 0 when it is gone.
#[must_use]
pub fn granted(
    request: &Message,
    registration: &Registration,
    response: &Message,
    sticky: Sticky,
    keys: &Keys,
) -> SmallVec<[u32; 1]> {
    let expires_header = response.expires();
    let mut granted: SmallVec<[Option<u32>; 1]> = SmallVec::from_elem(None, registration.contacts.len());
    let binding_count = registration.contacts.iter().filter(|contact| registration.binds(contact)).count();
    let mut lists_any = false;
    let mut shortest: Option<u32> = None;
    for span in response.values(Name::Contact) {
        let Ok(value) = NameAddr::parse(response.buf(), span) else { continue };
        let Ok(uri) = Uri::parse(response.buf(), value.uri) else { continue };
        lists_any = true;
        let expires = value.param(response.buf(), "expires").and_then(parse_u32).or(expires_header);
        shortest = shortest.into_iter().chain(expires).min();
        let alias = alias_in(&uri, response.buf(), sticky, keys);
        for (contact, granted) in registration.contacts.iter().zip(&mut granted) {
            let same = match alias {
                Some(id) => id == contact.id,
                None => crate::sip::uri::equivalent(&uri, response.buf(), &contact.uri, request.buf()),
            };
            if same && granted.is_none() {
                *granted = Some(expires.or(contact.expires).or(registration.expires).unwrap_or(DEFAULT_EXPIRES_S));
            }
        }
    }
    registration
        .contacts
        .iter()
        .zip(granted)
        .map(|(contact, granted)| {
            let asked = contact.expires.or(registration.expires).unwrap_or(DEFAULT_EXPIRES_S);
            match granted {
                // A phone that takes its binding away is gone, whatever the list still holds.
                _ if asked == 0 => 0,
                Some(seconds) => seconds,
                // A registrar that lists other Contacts and not this one has not bound it: but for the only one that
                // a REGISTER binds, which a 2xx accepts by itself. Its registrar lists it in a form of its own.
                None if lists_any && binding_count > 1 => 0,
                None => expires_header.or(shortest).unwrap_or(asked).min(asked),
            }
        })
        .collect()
}

/// RFC 3261 §10.2.1.1 leaves it to the registrar; an hour is what all of them use.
const DEFAULT_EXPIRES_S: u32 = 3_600;

fn alias_in(uri: &Uri, buf: &[u8], sticky: Sticky, keys: &Keys) -> Option<BindingId> {
    if sticky != Sticky::Contact {
        return None;
    }
    let token = Token::decode(uri.user.of(buf), keys, Dialog::NONE).ok()?;
    (token.kind == Kind::Alias).then_some(token.binding).flatten()
}

/// Adds the edits that take our marks out of a 2xx: the Path that the phone did not ask for, and aliases.
/// `own_contact` writes a binding's own Contact URI, and returns whether it knows it.
pub fn edit_response(
    response: &Message,
    sticky: Sticky,
    take_path: bool,
    keys: &Keys,
    edits: &mut Edits,
    mut own_contact: impl FnMut(BindingId, &mut Vec<u8>) -> bool,
) {
    if take_path {
        for field in response.fields() {
            if field.name == Name::Path {
                edits.remove(field.line);
            }
        }
    }
    if sticky == Sticky::Contact {
        let mut text = Vec::new();
        for span in response.values(Name::Contact) {
            let Ok(value) = NameAddr::parse(response.buf(), span) else { continue };
            let Ok(uri) = Uri::parse(response.buf(), value.uri) else { continue };
            let Some(id) = alias_in(&uri, response.buf(), sticky, keys) else { continue };
            text.clear();
            if own_contact(id, &mut text) {
                edits.replace(value.uri, &text);
            }
        }
    }
}
