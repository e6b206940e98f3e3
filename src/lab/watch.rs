//! What can be seen of the proxy from outside: processor time and memory by /proc, and its HTTP port.
//!
//! Owns: reading. Must not touch: the bench.

use serde::Serialize;
use serde_json::Value;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const TICKS_PER_S: u64 = 100;
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Processor time and memory of some processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    user_us: u64,
    system_us: u64,
    /// Resident bytes.
    pub resident: u64,
}

/// Processor time for each unit of work.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub user: f64,
    pub system: f64,
}

impl Usage {
    /// Microseconds for each of `units` since `before`.
    pub fn since(&self, before: &Self, units: u64) -> Cost {
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / units.max(1) as f64;
        Cost { user: each(self.user_us, before.user_us), system: each(self.system_us, before.system_us) }
    }
}

/// The sum over all of `pids`; one that is gone counts nothing.
pub fn usage(pids: &[u32]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The command's name may hold anything, so fields are counted from its closing bracket.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        sum.user_us += ticks(11) * 1_000_000 / TICKS_PER_S;
        sum.system_us += ticks(12) * 1_000_000 / TICKS_PER_S;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        sum.resident += kib.unwrap_or(0) * 1_024;
    }
    sum
}

/// Microseconds that all threads of these processes have run, to the nanosecond of the scheduler's own account, where
/// [`usage`] has the ticks of the kernel.
pub fn busy_us(pids: &[u32]) -> u64 {
    schedstat_us(pids, 0)
}

/// Microseconds that all threads of these processes have waited for a core although they could have run.
pub fn kept_waiting_us(pids: &[u32]) -> u64 {
    schedstat_us(pids, 1)
}

/// The sum of one field over all threads.
fn schedstat_us(pids: &[u32], field: usize) -> u64 {
    let threads = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    let all = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
    all.filter_map(|text| text.split_whitespace().nth(field)?.parse::<u64>().ok()).sum::<u64>() / 1_000
}

/// Fetches `http://HOST:PORT/PATH`.
///
/// # Errors
/// No connection, or an answer other than 200.
pub fn fetch(url: &str) -> Result<String, Box<dyn Error>> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url}: expected http://"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let addr = authority.to_socket_addrs()?.next().ok_or_else(|| format!("{authority}: no address"))?;
    let mut stream = TcpStream::connect_timeout(&addr, HTTP_TIMEOUT).map_err(|fault| format!("{url}: {fault}"))?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(HTTP_LEN_MAX).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{url}: no HTTP answer"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("{url}: {}", head.lines().next().unwrap_or("")).into()),
    }
}

/// The JSON at `url`.
///
/// # Errors
/// As [`fetch`], or something else than JSON.
pub fn json(url: &str) -> Result<Value, Box<dyn Error>> {
    Ok(serde_json::from_str(&fetch(url)?)?)
}

/// Every sample of a Prometheus page: name with labels, and value.
///
/// # Errors
/// As [`fetch`].
pub fn metrics(url: &str) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let text = fetch(url)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')).filter_map(sample).collect())
}

fn sample((name, value): (&str, &str)) -> Option<(String, f64)> {
    Some((name.to_owned(), value.parse().ok()?))
}

/// By how much all samples whose name holds `part` have grown.
pub fn grown(before: &[(String, f64)], after: &[(String, f64)], part: &str) -> f64 {
    let sum = |list: &[(String, f64)]| list.iter().filter(|(name, _)| name.contains(part)).map(|(_, v)| v).sum::<f64>();
    sum(after) - sum(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_this_process_is_seen() {
        let usage = usage(&[std::process::id()]);
        assert!(usage.resident > 100_000, "{usage:?}");
        assert_eq!(super::usage(&[u32::MAX]).resident, 0);
        assert!(busy_us(&[std::process::id()]) > 0);
        assert_eq!(busy_us(&[u32::MAX]), 0);
    }

    #[test]
    fn growth_is_summed_over_labels() {
        let before = [("a{flow=\"across\",shard=\"0\"}".to_owned(), 3.0), ("b".to_owned(), 9.0)];
        let after =
            [("a{flow=\"across\",shard=\"0\"}".to_owned(), 5.0), ("a{flow=\"across\",shard=\"1\"}".to_owned(), 7.0)];
        assert_eq!(grown(&before, &after, "flow=\"across\""), 9.0);
    }
}
