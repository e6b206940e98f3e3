//! What the engines of a test put out, written down byte for byte, so that a change that is to change nothing can be
//! shown to change nothing.
//!
//! `HAWSER_RECORD=DIR` writes a file for each test into DIR: of each of its worlds everything that left it (datagrams,
//! bytes, connections, closes, events, questions to the DNS), each with its time and shard, and the counters at its end.
//! Mail between shards is not what leaves a world. With `HAWSER_SEEDS` too there are many worlds: of each only a line,
//! with a hash; `HAWSER_RECORD_TEXT=1` asks for the whole of them. `diff -r` says the rest.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use hawser::clock::Time;
use hawser::engine::{Engine, Output};
use hawser::ids::ShardId;

pub struct Record {
    dir: PathBuf,
    in_full: bool,
    text: String,
    lines: u64,
    /// FNV-1a of the lines.
    hash: u64,
}

impl Record {
    /// `None` when nobody asks for one.
    pub fn begin() -> Option<Self> {
        let dir = PathBuf::from(std::env::var_os("HAWSER_RECORD")?);
        let in_full = std::env::var_os("HAWSER_RECORD_TEXT").is_some() || std::env::var_os("HAWSER_SEEDS").is_none();
        Some(Self { dir, in_full, text: String::new(), lines: 0, hash: 0xcbf2_9ce4_8422_2325 })
    }

    fn add(&mut self, line: &str) {
        self.lines += 1;
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.in_full {
            self.text += line;
            self.text.push('\n');
        }
    }

    pub fn output(&mut self, shard: ShardId, now: Time, output: &Output) {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string().replace("\\r\\n", "\n    ");
        let what = match output {
            Output::Datagram { point, to, bytes } => format!("datagram {point:?} to {to}\n    {}", text(bytes)),
            Output::Bytes { conn, bytes } => format!("bytes on {conn:?}\n    {}", text(bytes)),
            Output::Connect { .. } | Output::Close { .. } | Output::Dns(_) | Output::Event(_) => format!("{output:?}"),
            Output::Mail { .. } => return,
        };
        self.add(&format!("{now:?} shard {}: {what}", shard.0));
    }

    /// The end of a world, or of its engines.
    pub fn end(&mut self, engines: &[Engine]) {
        for (shard, engine) in engines.iter().enumerate() {
            let counters = engine.snapshot().counters;
            for (row, value) in counters.rows().filter(|(_, value)| *value > 0) {
                self.add(&format!("shard {shard} counted {} {:?} {value}", row.name, row.labels));
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let test = std::thread::current().name().unwrap_or("main").replace("::", ".");
        let mut out = format!("world of {} lines, {:016x}\n", self.lines, self.hash);
        if self.in_full {
            let _ = write!(out, "{}", self.text);
        }
        std::fs::create_dir_all(&self.dir).expect("the directory of records");
        let file = OpenOptions::new().append(true).create(true).open(self.dir.join(test));
        file.expect("a record").write_all(out.as_bytes()).expect("written");
    }
}
