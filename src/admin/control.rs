//! `POST /servers/NAME/pin?member=…`, `POST /servers/NAME/release` and `POST /unban?address=…`: what an operator may change.
//!
//! Owns: what such a request says. Whether it may say it is `access`'s.

use crate::abuse::Source;
use crate::server_pool::Member;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `pin`, which says in its query which member.
    Pin,
    /// `release`.
    Release,
}

/// The pair and the action of a path, still escaped; `None` for other paths.
pub(super) fn of_path(path: &str) -> Option<(&str, Action)> {
    let (pair, action) = path.strip_prefix("/servers/")?.split_once('/')?;
    match action {
        "pin" => Some((pair, Action::Pin)),
        "release" => Some((pair, Action::Release)),
        _ => None,
    }
}

/// The `member` of a query.
pub(super) fn member_of(query: Option<&str>) -> Option<Member> {
    match query?.split('&').find_map(|pair| pair.strip_prefix("member="))? {
        "primary" => Some(Member::Primary),
        "backup" => Some(Member::Backup),
        _ => None,
    }
}

/// The `address` of a query.
pub(super) fn address_of(query: &str) -> Option<Source> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix("address="))?;
    Source::parse(&percent_decoded(raw)?)
}

/// Text without its escapes.
pub(super) fn percent_decoded(raw: &str) -> Option<String> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte == b'%' {
            let [high, low, tail @ ..] = rest else { return None };
            let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            out.push(digit(high)? << 4 | digit(low)?);
            rest = tail;
        } else {
            out.push(*byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_as_it_is_shown() {
        for query in ["address=192.0.2.1", "x=1&address=192.0.2.1", "address=%3A%3Affff%3A192.0.2.1"] {
            assert_eq!(address_of(query), Source::parse("192.0.2.1"), "{query}");
        }
        assert_eq!(address_of("address=2001:db8::%2F64"), Source::parse("2001:db8::1"));
        for query in ["", "address=", "address=host", "address=%4", "addresses=192.0.2.1"] {
            assert_eq!(address_of(query), None, "{query}");
        }
    }

    #[test]
    fn paths_and_members_are_told_apart() {
        assert_eq!(of_path("/servers/sips1/pin"), Some(("sips1", Action::Pin)));
        assert_eq!(of_path("/servers/a%2Fb/release"), Some(("a%2Fb", Action::Release)));
        for path in ["/servers", "/servers/", "/servers/sips1", "/servers/sips1/", "/servers/a/b/pin", "/x/sips1/pin"] {
            assert_eq!(of_path(path), None, "{path}");
        }
        assert_eq!(member_of(Some("x=1&member=backup")), Some(Member::Backup));
        for query in [None, Some(""), Some("member="), Some("member=Backup"), Some("members=backup")] {
            assert_eq!(member_of(query), None, "{query:?}");
        }
    }
}
