//! `POST /servers/NAME/pin?member=…` and `POST /servers/NAME/release`: what an operator may change.
//!
//! Owns: what such a request says. Whether it may say it is `access`'s.

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

#[cfg(test)]
mod tests {
    use super::*;

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
