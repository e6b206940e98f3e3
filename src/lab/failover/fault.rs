//! What goes wrong, when, with which server of the pair, as the command line says it: `freeze@5-12:backup`.
//!
//! Owns: reading it and putting it in order. Must not touch: doing it.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process is killed (SIGKILL).
    Kill,
    /// All its connections are reset and its ports closed.
    Reset,
    /// The process is stopped (SIGSTOP); its kernel goes on taking bytes.
    Freeze,
    /// The server answers 503 to everything.
    Refuse,
    /// The server answers 503 to OPTIONS only.
    RefuseOptions,
    /// The server's cable is dead: not even its kernel answers.
    Cut,
}

impl Kind {
    const NAMES: [(&str, Self); 6] = [
        ("kill", Self::Kill),
        ("rst", Self::Reset),
        ("freeze", Self::Freeze),
        ("503", Self::Refuse),
        ("options-503", Self::RefuseOptions),
        ("cut", Self::Cut),
    ];

    /// The order that brings it about; `None`: a signal does.
    pub fn order(self) -> Option<&'static str> {
        match self {
            Self::Kill | Self::Freeze => None,
            Self::Reset => Some("health refuse"),
            Self::Refuse => Some("health 503"),
            Self::RefuseOptions => Some("health options-503"),
            Self::Cut => Some("health cut"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    pub kind: Kind,
    /// 0: the primary, 1: the backup.
    pub server: usize,
    pub from_s: f64,
    /// When it is over; `None`: never.
    pub until_s: Option<f64>,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("{text}: expected KIND@SECOND[-SECOND][:backup], with kill, rst, freeze, 503, options-503 or cut")
        };
        let (kind, rest) = text.split_once('@').ok_or_else(expected)?;
        let &(_, kind) = Kind::NAMES.iter().find(|(name, _)| *name == kind).ok_or_else(expected)?;
        let (times, server) = match rest.split_once(':') {
            None | Some((_, "primary")) => (rest.split(':').next().unwrap_or(rest), 0),
            Some((times, "backup")) => (times, 1),
            Some(_) => return Err(expected()),
        };
        let (from, until) = times.split_once('-').map_or((times, None), |(from, until)| (from, Some(until)));
        let second =
            |text: &str| text.parse::<f64>().ok().filter(|at| at.is_finite() && *at >= 0.0).ok_or_else(expected);
        let (from_s, until_s) = (second(from)?, until.map(second).transpose()?);
        if until_s.is_some_and(|until_s| until_s <= from_s) {
            return Err(expected());
        }
        Ok(Self { kind, server, from_s, until_s })
    }
}

/// What is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    pub at_s: f64,
    pub server: usize,
    pub kind: Kind,
    /// Whether the fault begins here; else it is over.
    pub begins: bool,
}

/// All beginnings and ends, in the order of time.
pub fn schedule(faults: &[Fault]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for fault in faults {
        let event = Event { at_s: fault.from_s, server: fault.server, kind: fault.kind, begins: true };
        events.push(event);
        events.extend(fault.until_s.map(|at_s| Event { at_s, begins: false, ..event }));
    }
    events.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_and_its_end_becomes_an_event() {
        let fault: Fault = "freeze@5-12.5:backup".parse().expect("a fault");
        assert_eq!(fault, Fault { kind: Kind::Freeze, server: 1, from_s: 5.0, until_s: Some(12.5) });
        let other: Fault = "503@8".parse().expect("a fault");
        assert_eq!(other, Fault { kind: Kind::Refuse, server: 0, from_s: 8.0, until_s: None });
        let times: Vec<(f64, bool)> =
            schedule(&[fault, other]).iter().map(|event| (event.at_s, event.begins)).collect();
        assert_eq!(times, [(5.0, true), (8.0, true), (12.5, false)]);
        for wrong in ["freeze", "melt@3", "rst@5-4", "cut@x", "cut@1:both", "cut@-1"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }
}
