//! One question to the DNS, waited for, as a phone's resolver would ask it.
//!
//! Owns: which resolver is asked, how often, and that a name's aliases are followed. Left out on purpose: a cache, for
//! a check wants what is published now.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::dns::wire::{self, Kind, Known, Said};
use crate::limits::DNS_ALIASES_MAX;
use crate::server::resolvers;

const TRY_MAX: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

/// Why there is no answer.
#[derive(Debug)]
pub(in crate::cli) enum LookupFault {
    /// The name is none that can be asked for.
    Name,
    /// The name is an alias of an alias, and so on without end.
    Aliases,
    /// Nobody answered; the last reason.
    Silent(io::Error),
    /// The resolver answered that it will not or cannot.
    Refused,
}

impl fmt::Display for LookupFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("it is no name of the DNS"),
            Self::Aliases => f.write_str("its CNAME records lead nowhere"),
            Self::Silent(fault) => write!(f, "no resolver answers: {fault}"),
            Self::Refused => f.write_str("the resolver refuses, or cannot find out"),
        }
    }
}

/// The records of a name, or that there are none or no such name.
pub(super) fn ask(resolvers: &[SocketAddr], name: &str, kind: Kind) -> Result<Known, LookupFault> {
    let mut name: Box<str> = name.to_ascii_lowercase().into();
    for _ in 0..=DNS_ALIASES_MAX {
        match ask_any(resolvers, &name, kind)? {
            Known::Alias(target) => name = target,
            Known::AliasesWithoutEnd => break,
            known => return Ok(known),
        }
    }
    Err(LookupFault::Aliases)
}

fn ask_any(resolvers: &[SocketAddr], name: &str, kind: Kind) -> Result<Known, LookupFault> {
    let mut last = LookupFault::Silent(io::ErrorKind::NotFound.into());
    for resolver in resolvers.iter().cycle().take(resolvers.len() * TRIES) {
        let id = RandomState::new().hash_one(name) as u16;
        let question = wire::question(id, name, kind, false).ok_or(LookupFault::Name)?;
        let exchange = |tcp| {
            let mut said = None;
            // What does not belong to the question may be forged; the answer may still come.
            resolvers::ask(*resolver, tcp, &question, TRY_MAX, |bytes| {
                said = wire::read(bytes, id, name, kind).ok();
                said.is_some()
            })?;
            said.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        let said = match exchange(false) {
            Ok(Said::Truncated) => exchange(true),
            said => said,
        };
        match said {
            Ok(Said::Known { known, .. }) => return Ok(known),
            Ok(_) => last = LookupFault::Refused,
            Err(fault) => last = LookupFault::Silent(fault),
        }
    }
    Err(last)
}
