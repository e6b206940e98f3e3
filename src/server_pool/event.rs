//! What an operator hears of the pairs, and what is counted.
//!
//! Owns: the words of the log lines, each with both addresses and the evidence. 40001 is the event number that
//! operators of SIP Proxy know for a pair that does not answer.

use std::net::SocketAddr;

use super::{Evidence, Member};
use crate::stats::Counter;

/// Something that is said once when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another server gets the requests.
    Switched {
        /// Index into the settings.
        pair: usize,
        /// Which one gets them now.
        to: Member,
        /// Why: [`Evidence::Request`] or [`Evidence::TookCall`], or what was held against the other one.
        why: Evidence,
        /// Addresses of primary and backup.
        addresses: [Option<SocketAddr>; 2],
    },
    /// 40001: neither server of a pair answers.
    Outage {
        #[allow(missing_docs, reason = "see Switched")]
        pair: usize,
        /// What is held against primary and backup; `None` when there is no backup.
        evidence: [Option<Evidence>; 2],
        #[allow(missing_docs, reason = "see Switched")]
        addresses: [Option<SocketAddr>; 2],
    },
    /// 40001 cleared: a server of the pair answers again.
    OutageOver {
        #[allow(missing_docs, reason = "see Switched")]
        pair: usize,
        /// Which one.
        member: Member,
        /// What was heard of it.
        why: Evidence,
        /// The server's address.
        address: SocketAddr,
    },
    /// An operator has fixed which server gets the requests.
    Pinned {
        #[allow(missing_docs, reason = "see Switched")]
        pair: usize,
        /// Which one.
        member: Member,
        /// What was last heard of it.
        why: Evidence,
        /// Whether it answers, as far as is known.
        up: bool,
        /// Which one got them before.
        from: Member,
        #[allow(missing_docs, reason = "see Switched")]
        addresses: [Option<SocketAddr>; 2],
    },
    /// The pinned server does not answer, and nothing takes its place.
    PinnedDown {
        #[allow(missing_docs, reason = "see Switched")]
        pair: usize,
        /// Which one.
        member: Member,
        /// Why.
        why: Evidence,
        /// The server's address.
        address: SocketAddr,
    },
    /// The rules decide again.
    Released {
        #[allow(missing_docs, reason = "see Switched")]
        pair: usize,
        /// Which one was pinned.
        member: Member,
    },
}

/// An [`Event`] in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whether somebody should look.
    pub warn: bool,
    /// The fixed words, by which the rate of lines is bounded.
    pub what: &'static str,
    /// The pair, its addresses and the evidence.
    pub about: String,
}

impl Event {
    /// In words; `name` is the pair's.
    #[must_use]
    pub(super) fn line(&self, name: &str) -> Line {
        match *self {
            Self::Switched { to, why, addresses, .. } => {
                let [now, before] = [to, to.other()].map(|member| server(member, addresses[member.index()]));
                let because = match why {
                    Evidence::Request | Evidence::TookCall => format!("{to}: {why}"),
                    _ => format!("{}: {why}", to.other()),
                };
                Line {
                    warn: true,
                    what: "switched to the other SIP Server",
                    about: format!("{name}: {now} in place of {before} ({because})"),
                }
            }
            Self::Outage { evidence, addresses, .. } => {
                let each = [Member::Primary, Member::Backup].into_iter().filter_map(|member| {
                    let why = evidence[member.index()]?;
                    Some(format!("{}: {why}", server(member, addresses[member.index()])))
                });
                let each: Vec<_> = each.collect();
                Line { warn: true, what: "40001 no SIP Server answers", about: format!("{name}: {}", each.join("; ")) }
            }
            Self::OutageOver { member, why, address, .. } => {
                let about = format!("{name}: {}: {why}", server(member, Some(address)));
                Line { warn: false, what: "40001 cleared: a SIP Server answers", about }
            }
            Self::Pinned { member, why, up, from, addresses, .. } => {
                let [now, before] = [member, from].map(|member| server(member, addresses[member.index()]));
                let before = if member == from { String::new() } else { format!(" in place of {before}") };
                let state = if up { "taken to answer" } else { "does not answer" };
                Line {
                    warn: true,
                    what: "a SIP Server is pinned",
                    about: format!("{name}: {now}{before} ({state}: {why})"),
                }
            }
            Self::PinnedDown { member, why, address, .. } => Line {
                warn: true,
                what: "the pinned SIP Server does not answer",
                about: format!("{name}: {}: {why}", server(member, Some(address))),
            },
            Self::Released { member, .. } => {
                Line { warn: false, what: "a SIP Server is no longer pinned", about: format!("{name}: {member}") }
            }
        }
    }

    /// The pair's index.
    #[must_use]
    pub fn pair(&self) -> usize {
        match *self {
            Self::Switched { pair, .. }
            | Self::Outage { pair, .. }
            | Self::OutageOver { pair, .. }
            | Self::Pinned { pair, .. }
            | Self::PinnedDown { pair, .. }
            | Self::Released { pair, .. } => pair,
        }
    }
}

fn server(member: Member, address: Option<SocketAddr>) -> String {
    match address {
        Some(address) => format!("{member} {address}"),
        None => format!("{member} without an address"),
    }
}

/// A switch, by its reason.
pub(super) fn switched(why: Evidence) -> Counter {
    match why {
        Evidence::Request => Counter::ServerSwitchRequest,
        Evidence::TookCall => Counter::ServerSwitchTookCall,
        Evidence::Pinned => Counter::ServerSwitchPinned,
        Evidence::Status(_) => Counter::ServerSwitchStatus,
        Evidence::Silent => Counter::ServerSwitchSilent,
        Evidence::Reset => Counter::ServerSwitchReset,
        Evidence::Refused => Counter::ServerSwitchRefused,
        Evidence::Unreachable => Counter::ServerSwitchUnreachable,
        Evidence::ConnectTimeout => Counter::ServerSwitchConnectTimeout,
        Evidence::Tls => Counter::ServerSwitchTls,
        Evidence::Dns => Counter::ServerSwitchDns,
        // None of them is held against a server.
        Evidence::Start | Evidence::Answered | Evidence::Retry => Counter::ServerSwitchOther,
    }
}
