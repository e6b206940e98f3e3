//! The connection table: which binding a Request-URI of the server side means (DESIGN.md, What it does on the wire, 2
//! and 3), and what an operator sees of it.

use super::super::io::Located;
use super::super::ports::Env;
use super::Location;
use crate::clock::Time;
use crate::flow::directory::Binding;
use crate::flow::keys::Keys;
use crate::ids::BindingId;
use crate::proxy::register;
use crate::sip::{Message, Span, Uri};

/// What the connection table says of a Request-URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Found {
    /// It is this binding's.
    Binding(BindingId),
    /// Phones have registered it, and none of them may be meant. It is no device's, for it is a phone's.
    Unclear,
    /// Nobody has registered it.
    Nobody,
}

/// What a request names: the user part and the whole of its Request-URI and of its To, in canonical form.
struct Named {
    uri: Vec<u8>,
    user: Vec<u8>,
    to_aor: Vec<u8>,
    to_user: Vec<u8>,
    /// The URI as a Contact that its phone alone has.
    contact: u64,
    /// The URI as a Contact that the AOR in To says of itself.
    said: u64,
}

impl Named {
    fn new(request: &Message, uri: &Uri, canonical: Vec<u8>, keys: &Keys) -> Self {
        let (mut user, mut to_aor, mut to_user) = (Vec::new(), Vec::new(), Vec::new());
        uri.user_unescaped(request.buf(), &mut user);
        if let Some(to) = register::to_uri(request) {
            to.write_aor(request.buf(), &mut to_aor);
            to.user_unescaped(request.buf(), &mut to_user);
        }
        let (contact, said) = (keys.contact(&canonical, None), keys.contact(&canonical, Some(&to_aor)));
        Self { uri: canonical, user, to_aor, to_user, contact, said }
    }

    /// A Contact that says another user's name must not get that user's calls.
    fn says_another(&self) -> bool {
        self.to_user == self.user
    }
}

/// Of several bindings the first that has a flow. One whose flow is gone may come back, and is told apart from nobody.
fn nearest<'a>(bindings: impl Iterator<Item = &'a Binding>) -> Option<&'a Binding> {
    bindings.min_by_key(|binding| binding.flow.is_none())
}

impl Location {
    /// The binding that a Request-URI of the server side means: by AOR, or by registered Contact. `is_known`: whether its
    /// host is known to be somebody else's than a phone's.
    ///
    /// A Contact that shows no more than what its phone says of itself is found for requests to that phone's AOR alone
    /// ([`Keys::contact`]): else it would take the calls of a device, a server or another user whose URI it is. Two phones
    /// may have the same: then To has to tell whose it is, and when it does not, nobody's phone rings. In this order:
    ///
    /// 1. who has it for an AOR;
    /// 2. who has it for a Contact, and whose AOR stands in To;
    /// 3. who says it of itself, and whose AOR stands in To;
    /// 4. when nobody is known to have it for a Contact: nobody, unless it may be a phone's all the same;
    /// 5. the one AOR that has it for a Contact, unless To has the user whose name it says, and that is another;
    /// 6. among bindings whose AOR's home is another shard: the only one, or the only one of To's user.
    pub(in crate::engine) fn look_up(
        &self,
        request: &Message,
        env: &Env,
        now: Time,
        is_known: impl FnOnce(&Uri) -> bool,
    ) -> Found {
        let Some(uri) = request.request_uri() else { return Found::Nobody };
        let mut canonical = Vec::new();
        uri.write_aor(request.buf(), &mut canonical);
        if let Some(binding) = nearest(self.directory.by_aor(&canonical)) {
            return Found::Binding(binding.id);
        }
        let named = Named::new(request, uri, canonical, &env.keys);
        if let Some(binding) = self.named_in_to(&named) {
            return Found::Binding(binding);
        }
        // Those whose AOR's home is another shard: their users are not the Contact's user.
        let remote = self.directory.contact(named.contact);
        let first = nearest(self.directory.by_contact(named.contact));
        if first.is_none() && remote.is_empty() {
            let may_be_a_phones = self.may_be_a_phones(&named, &env.keys, now, || is_known(uri));
            return if may_be_a_phones { Found::Unclear } else { Found::Nobody };
        }
        let is_same = |first: &&Binding| self.directory.by_contact(named.contact).all(|other| other.aor == first.aor);
        if let Some(binding) = first.filter(|first| remote.is_empty() && is_same(first)) {
            let own_name = binding.id.user == env.keys.user16(&named.user);
            return if own_name || !named.says_another() { Found::Binding(binding.id) } else { Found::Unclear };
        }
        if named.says_another() {
            return Found::Unclear;
        }
        let found = match remote {
            [only] if first.is_none() => Some(*only),
            several => {
                let to_user16 = env.keys.user16(&named.to_user);
                let mut of_to = several.iter().filter(|id| id.user == to_user16);
                of_to.next().copied().filter(|_| of_to.next().is_none())
            }
        };
        found.map_or(Found::Unclear, Found::Binding)
    }

    fn named_in_to(&self, named: &Named) -> Option<BindingId> {
        let of_to = self.directory.by_contact(named.contact).filter(|binding| *binding.aor == *named.to_aor);
        let here = nearest(of_to).or_else(|| nearest(self.directory.by_contact(named.said)));
        here.map(|binding| binding.id).or_else(|| self.directory.contact(named.said).first().copied())
    }

    /// There are too many to be kept or told apart, or a phone says so and To does not: no device, unless it is one that is
    /// known.
    fn may_be_a_phones(&self, named: &Named, keys: &Keys, now: Time, is_known: impl FnOnce() -> bool) -> bool {
        // The user's own name, and the user is registered by another Contact: a registrar may list its former one still.
        let is_former = || named.says_another() && self.directory.by_aor(&named.to_aor).next().is_some();
        let is_said = || self.directory.holds_contact(keys.contact_said(&named.uri));
        [named.contact, named.said].iter().any(|hash| self.directory.may_be_a_phones(*hash, now))
            || ((is_said() || is_former()) && !is_known())
    }

    /// What this shard knows of an AOR's bindings (only its home shard knows any). `aor` may lack its scheme.
    pub(in crate::engine) fn locate(&self, aor: &str, env: &Env, now: Time) -> Vec<Located> {
        let text = if aor.contains(':') && aor.starts_with("sip") { aor.to_owned() } else { format!("sip:{aor}") };
        let buf = text.as_bytes();
        let Ok(uri) = Uri::parse(buf, Span::new(0, buf.len())) else { return Vec::new() };
        let mut canonical = Vec::new();
        uri.write_aor(buf, &mut canonical);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let located = |(binding, flow): (&Binding, _)| Located {
            aor: text(&binding.aor),
            contact: text(&binding.contact),
            instance: text(&binding.instance),
            flow,
            transport: env.transport_of(flow),
            peer: binding.peer,
            certificate: Vec::new(),
            expires_in: binding.expires.since(now),
            age: now.since(binding.refreshed),
        };
        let bindings = self.directory.by_aor(&canonical);
        bindings.filter_map(|binding| Some((binding, binding.flow?))).map(located).collect()
    }
}
