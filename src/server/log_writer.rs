//! The way of log lines to stderr: a bounded queue, and a thread that writes.
//!
//! A pipe or a terminal that nobody reads blocks who writes to it, and that must never be a shard. So whoever logs puts
//! its line into the queue; what finds no room is lost, counted, and told as soon as stderr takes lines again.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits::{LOG_FLUSH_MAX, LOG_QUEUE_COUNT_MAX};

/// How long to wait when stderr takes nothing and does not block.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// How long a thread that panics waits for what it said: an abort right behind it would take that along.
const PANIC_FLUSH_MAX: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// Everything before it has been written.
    Flush(Sender<()>),
}

/// The running log.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: Sender<Entry>,
    lost: Arc<AtomicU64>,
}

impl LogWriter {
    /// Lets everything that is logged from now on, panics too, go to stderr by a thread of its own.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(level: log::LevelFilter) -> io::Result<Self> {
        let writer = Self::over(io::stderr(), LOG_QUEUE_COUNT_MAX)?;
        let target = env_logger::Target::Pipe(Box::new(writer.clone()));
        // The level may change while it runs, the logger's own cannot.
        env_logger::Builder::new().filter_level(log::LevelFilter::Trace).target(target).init();
        log::set_max_level(level);
        let of_panics = writer.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            log::error!("thread {}: {panic}", thread.name().unwrap_or("without a name"));
            let trace = std::backtrace::Backtrace::capture();
            if trace.status() == std::backtrace::BacktraceStatus::Captured {
                log::error!("{trace}");
            }
            of_panics.flush(PANIC_FLUSH_MAX);
        }));
        Ok(writer)
    }

    fn over(out: impl Write + Send + 'static, count_max: usize) -> io::Result<Self> {
        let (queue, entries) = bounded(count_max);
        let lost = Arc::<AtomicU64>::default();
        let writer = Self { queue, lost: Arc::clone(&lost) };
        std::thread::Builder::new().name("log".into()).spawn(move || write(out, &entries, &lost))?;
        Ok(writer)
    }

    /// Lines that were lost so far.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Waits until everything that was logged has been written, but not for ever.
    pub fn finish(&self) {
        self.flush(LOG_FLUSH_MAX);
    }

    fn flush(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let (done, is_done) = bounded(1);
        if self.queue.send_deadline(Entry::Flush(done), until).is_ok() {
            // What is not written by then will not be.
            let _ = is_done.recv_deadline(until);
        }
    }
}

/// A whole line with each call, as env_logger writes it. Never blocks.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Entry::Line(line.into())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what comes until nobody can log any more.
fn write(mut out: impl Write, entries: &Receiver<Entry>, lost: &AtomicU64) {
    let mut told = 0;
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                if put(&mut out, &line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Who waits may have given up.
            Entry::Flush(done) => drop(done.try_send(())),
        }
        let now = lost.load(Ordering::Relaxed);
        if now > told {
            let line =
                format!("log: {} lines are lost here: stderr does not take them as fast as they come\n", now - told);
            if put(&mut out, line.as_bytes()).is_ok() {
                told = now;
            }
        }
    }
}

/// Writes all of it. Whoever shares stderr may have made it non-blocking.
fn put(out: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => rest = &rest[len..],
            Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
            Err(fault) if fault.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line each time that it is let, and gives it on.
    struct Slow {
        lets: mpsc::Receiver<()>,
        begun: mpsc::Sender<()>,
        lines: mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            // Without somebody who lets, it takes all.
            let _ = self.lets.recv();
            let _ = self.lines.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_for_stderr_and_what_was_lost_is_counted_and_told() {
        let (lets, is_let) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let (line, lines) = mpsc::channel();
        let mut log = LogWriter::over(Slow { lets: is_let, begun: begin, lines: line }, 4).unwrap();
        log.write_all(b"line 0\n").unwrap();
        // The writer hangs in the write of the first one, and the queue is empty.
        begun.recv().unwrap();
        for nth in 1..=10 {
            log.write_all(format!("line {nth}\n").as_bytes()).unwrap();
        }
        assert_eq!(log.lost().load(Ordering::Relaxed), 6);
        LogWriter::flush(&log, Duration::ZERO);
        drop(lets);
        log.finish();
        let got: Vec<_> = lines.try_iter().collect();
        let told = "log: 6 lines are lost here: stderr does not take them as fast as they come\n";
        assert_eq!(got, ["line 0\n", told, "line 1\n", "line 2\n", "line 3\n", "line 4\n"]);
    }

    #[test]
    fn what_stderr_refuses_for_a_moment_is_written_whole_and_what_it_refuses_for_good_is_lost() {
        struct Odd {
            turns: u32,
            text: Vec<u8>,
        }
        impl Write for Odd {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.turns += 1;
                match self.turns {
                    1 => Err(ErrorKind::WouldBlock.into()),
                    2 => Err(ErrorKind::Interrupted.into()),
                    3 => {
                        self.text.extend_from_slice(&bytes[..2]);
                        Ok(2)
                    }
                    _ => {
                        self.text.extend_from_slice(bytes);
                        Ok(bytes.len())
                    }
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut odd = Odd { turns: 0, text: Vec::new() };
        put(&mut odd, b"a whole line\n").unwrap();
        assert_eq!(odd.text, b"a whole line\n");

        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut log = LogWriter::over(Closed, 4).unwrap();
        log.write_all(b"line\n").unwrap();
        log.finish();
        assert_eq!(log.lost().load(Ordering::Relaxed), 1);
    }
}
