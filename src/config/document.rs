//! A configuration text as TOML with the line of everything in it, and typed access to its tables.
//!
//! serde's derive would find the same faults, but tells them in its own words and loses the dotted key; here a
//! fault has the line of the value, or of the list's element, and says what the key takes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Expected, Fault};
use super::keys::{self, Kind};
use super::value::{self, Host, Words};

/// Where everything stands: by dotted name, and for `[[tables]]` by index from 0.
#[derive(Debug)]
pub(super) struct Lines {
    file: String,
    lines: BTreeMap<(String, usize), u32>,
}

impl Lines {
    /// Whether a key or table is there.
    pub(super) fn has(&self, name: &str, index: usize) -> bool {
        self.lines.contains_key(&(name.to_owned(), index))
    }

    /// A fault at a key; when the key is not there, at its table.
    pub(super) fn error(&self, name: &str, index: usize, fault: Fault) -> ConfigError {
        ConfigError { file: self.file.clone(), line: self.line(name, index), key: name.to_owned(), fault }
    }

    /// Where a key stands; when it is not there, its table: `FILE:LINE: key`.
    pub(super) fn place(&self, name: &str, index: usize) -> String {
        format!("{}:{}: {name}", self.file, self.line(name, index))
    }

    fn line(&self, name: &str, index: usize) -> u32 {
        let at = |name: &str, index| self.lines.get(&(name.to_owned(), index)).copied();
        let table = || at(name.rsplit_once('.')?.0, index);
        at(name, index).or_else(table).unwrap_or(1)
    }
}

/// A text that is TOML and has only tables and keys of the schema.
pub(super) struct Document<'t> {
    text: &'t str,
    root: DeTable<'t>,
    pub(super) lines: Lines,
}

impl<'t> Document<'t> {
    pub(super) fn parse(text: &'t str, file: &str) -> Result<Self, ConfigError> {
        let root = match DeTable::parse(text) {
            Ok(root) => root.into_inner(),
            Err(fault) => return Err(syntax_fault(text, file, fault)),
        };
        let mut lines = Lines { file: file.to_owned(), lines: BTreeMap::new() };
        place(text, &root, "", 0, &mut lines)?;
        Ok(Self { text, root, lines })
    }

    /// All of it.
    pub(super) fn root(&self) -> &DeTable<'t> {
        &self.root
    }

    /// `[name]`, with every key absent when the table is.
    pub(super) fn table(&self, name: &'static str) -> Section<'_> {
        let mut table = Some(&self.root);
        for part in name.split('.') {
            table = table.and_then(|t| t.get(part)).and_then(|v| v.get_ref().as_table());
        }
        Section { text: self.text, lines: &self.lines, name, index: 0, table }
    }

    /// Each `[[name]]`.
    pub(super) fn tables(&self, name: &'static str) -> impl Iterator<Item = Section<'_>> {
        let (parent, last) = match name.rsplit_once('.') {
            Some((parent, last)) => (self.root.get(parent).and_then(|v| v.get_ref().as_table()), last),
            None => (Some(&self.root), name),
        };
        let list = parent.and_then(|t| t.get(last)).and_then(|v| v.get_ref().as_array());
        list.into_iter().flat_map(|list| list.iter()).enumerate().map(move |(index, value)| Section {
            text: self.text,
            lines: &self.lines,
            name,
            index,
            table: value.get_ref().as_table(),
        })
    }
}

impl ConfigError {
    /// A fault of a key of a text, at its line; when the key is not there, at its table's.
    #[must_use]
    pub fn at(text: &str, file: &str, key: &str, fault: Fault) -> Self {
        match Document::parse(text, file) {
            Ok(document) => document.lines.error(key, 0, fault),
            Err(fault) => fault,
        }
    }
}

/// What the TOML reader says, by the key that it is about where it is about one.
fn syntax_fault(text: &str, file: &str, fault: toml::de::Error) -> ConfigError {
    let span = fault.span().unwrap_or_default();
    let line = line_of(text, span.start);
    let twice = fault.message().starts_with("duplicate key");
    let named = text.get(span.clone()).map(str::trim).filter(|key| twice && !key.is_empty());
    let (key, fault) = match named {
        Some(key) => (in_table(&text[..span.start], key), Fault::KeyTwice),
        None => (String::new(), Fault::Syntax(Box::new(fault))),
    };
    ConfigError { file: file.to_owned(), line, key, fault }
}

/// The dotted name of a key behind `before`: with the table whose header stands last there, unless the key stands in a
/// header itself.
fn in_table(before: &str, key: &str) -> String {
    let mut lines = before.rsplit('\n');
    let is_header = lines.next().is_some_and(|line| line.trim_start().starts_with('['));
    let header = lines.map(str::trim).find_map(|line| line.strip_prefix('[')?.split(']').next());
    match header.map(|header| header.trim_matches('[').trim()) {
        Some(table) if !is_header => format!("{table}.{key}"),
        _ => key.to_owned(),
    }
}

/// Notes the line of each table and key, and refuses what the schema does not have.
fn place(text: &str, table: &DeTable<'_>, path: &str, index: usize, lines: &mut Lines) -> Result<(), ConfigError> {
    for (key, value) in table.iter() {
        let name = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        let line = line_of(text, key.span().start);
        let file = lines.file.clone();
        let fault = |fault| Err(ConfigError { file: file.clone(), line, key: name.clone(), fault });
        match (keys::kind(&name), value.get_ref()) {
            (None, _) => return fault(Fault::UnknownKey(keys::nearest(&name))),
            (Some(Kind::Key), _) => {
                lines.lines.insert((name, index), line);
            }
            (Some(Kind::Table), DeValue::Table(inner)) => {
                lines.lines.insert((name.clone(), 0), line);
                place(text, inner, &name, 0, lines)?;
            }
            (Some(Kind::Table), _) => return fault(Fault::Expected(Expected::Table)),
            (Some(Kind::Tables), DeValue::Array(list)) => {
                for (at, item) in list.iter().enumerate() {
                    let DeValue::Table(inner) = item.get_ref() else {
                        return fault(Fault::Expected(Expected::Tables));
                    };
                    lines.lines.insert((name.clone(), at), line_of(text, item.span().start));
                    place(text, inner, &name, at, lines)?;
                }
            }
            (Some(Kind::Tables), _) => return fault(Fault::Expected(Expected::Tables)),
        }
    }
    Ok(())
}

/// The line, from 1, of a byte.
fn line_of(text: &str, offset: usize) -> u32 {
    let before = &text.as_bytes()[..offset.min(text.len())];
    u32::try_from(memchr::memchr_iter(b'\n', before).count()).unwrap_or(u32::MAX - 1) + 1
}

/// A table of the document.
pub(super) struct Section<'d> {
    text: &'d str,
    lines: &'d Lines,
    name: &'static str,
    pub(super) index: usize,
    table: Option<&'d DeTable<'d>>,
}

impl Section<'_> {
    /// A key's value as `parse` reads it; `None` when the key is absent.
    pub(super) fn read<T>(
        &self,
        key: &str,
        expected: Expected,
        parse: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.table.and_then(|t| t.get(key)) else { return Ok(None) };
        match parse(value.get_ref()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.fault_at(key, value.span().start, expected)),
        }
    }

    /// A list with each element as `parse` reads it; `None` when the key is absent.
    pub(super) fn list<T>(
        &self,
        key: &str,
        expected: Expected,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(value) = self.table.and_then(|t| t.get(key)) else { return Ok(None) };
        let Some(list) = value.get_ref().as_array() else {
            return Err(self.fault_at(key, value.span().start, expected));
        };
        let element = |item: &toml::Spanned<DeValue<'_>>| {
            let read = item.get_ref().as_str().and_then(&parse);
            read.ok_or_else(|| self.fault_at(key, item.span().start, expected))
        };
        list.iter().map(element).collect::<Result<Vec<T>, ConfigError>>().map(Some)
    }

    /// A key that the table must have.
    pub(super) fn require<T>(
        &self,
        key: &str,
        expected: Expected,
        value: Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        value?.ok_or_else(|| self.lines.error(&self.full(key), self.index, Fault::Missing(expected)))
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.read(key, Expected::Boolean, |v| v.as_bool())
    }

    pub(super) fn integer<T: TryFrom<i64>>(&self, key: &str, min: i64, max: i64) -> Result<Option<T>, ConfigError> {
        self.read(key, Expected::Integer { min, max }, |v| {
            integer(v).filter(|n| (min..=max).contains(n)).and_then(|n| T::try_from(n).ok())
        })
    }

    pub(super) fn port(&self, key: &str) -> Result<Option<u16>, ConfigError> {
        self.read(key, Expected::Port, |v| u16::try_from(integer(v)?).ok())
    }

    pub(super) fn milliseconds(&self, key: &str, min: i64, max: i64) -> Result<Option<Duration>, ConfigError> {
        Ok(self.integer::<u64>(key, min, max)?.map(Duration::from_millis))
    }

    /// Seconds, fractions allowed.
    pub(super) fn seconds(&self, key: &str, min: u32, max: u32) -> Result<Option<Duration>, ConfigError> {
        self.read(key, Expected::Seconds { min, max }, |v| {
            let seconds = match v {
                DeValue::Integer(_) => Duration::from_secs(u64::try_from(integer(v)?).ok()?),
                DeValue::Float(float) => Duration::try_from_secs_f64(float.as_str().parse().ok()?).ok()?,
                _ => return None,
            };
            (Duration::from_secs(min.into())..=Duration::from_secs(max.into())).contains(&seconds).then_some(seconds)
        })
    }

    pub(super) fn word<T: Words>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        self.read(key, Expected::OneOf(T::WORDS), |v| T::from_word(v.as_str()?))
    }

    pub(super) fn address(&self, key: &str) -> Result<Option<IpAddr>, ConfigError> {
        self.read(key, Expected::Address, |v| {
            let address: IpAddr = v.as_str()?.parse().ok()?;
            (!address.is_multicast() && !value::is_mapped(address)).then_some(address)
        })
    }

    /// An address or a name; an empty text is none.
    pub(super) fn host(&self, key: &str) -> Result<Option<Host>, ConfigError> {
        let read = self.read(key, Expected::Host, |v| match v.as_str()? {
            "" => Some(None),
            text => Host::parse(text).filter(Host::can_be_peer).map(Some),
        });
        read.map(Option::flatten)
    }

    /// A path. `Some(None)` for an empty text, which says that there is none.
    pub(super) fn path(&self, key: &str) -> Result<Option<Option<PathBuf>>, ConfigError> {
        self.read(key, Expected::Path, |v| match v.as_str()? {
            "" => Some(None),
            text => (!text.contains('\0')).then(|| Some(PathBuf::from(text))),
        })
    }

    /// A name: of a pair, of a site.
    pub(super) fn name(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.read(key, Expected::Name, |v| name(v.as_str()?))
    }

    /// A name; an empty text is none.
    pub(super) fn name_or_none(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let read = self.read(key, Expected::Name, |v| match v.as_str()? {
            "" => Some(None),
            text => name(text).map(Some),
        });
        read.map(Option::flatten)
    }

    /// A fault of the table itself.
    pub(super) fn error(&self, fault: Fault) -> ConfigError {
        self.lines.error(self.name, self.index, fault)
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn fault_at(&self, key: &str, offset: usize, expected: Expected) -> ConfigError {
        ConfigError {
            line: line_of(self.text, offset),
            ..self.lines.error(&self.full(key), self.index, Fault::Expected(expected))
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn name(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}
