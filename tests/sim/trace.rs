//! What happened in a run, for whoever has to understand why it fails: nothing is written down while nobody asks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Once;

/// Lines that are kept, the last ones.
const LINES_MAX: usize = 20_000;

thread_local! {
    static LINES: RefCell<Option<VecDeque<String>>> = const { RefCell::new(None) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        note(|| format!("                {}", record.args()));
    }

    fn flush(&self) {}
}

/// From now on this thread writes down what it does.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_boxed_logger(Box::new(Log)).expect("the only one");
        log::set_max_level(log::LevelFilter::Trace);
    });
    LINES.with_borrow_mut(|lines| *lines = Some(VecDeque::new()));
}

pub fn note(line: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(line());
        }
    });
}

/// What was written down, which ends with this.
pub fn take() -> VecDeque<String> {
    LINES.with_borrow_mut(Option::take).unwrap_or_default()
}

/// Panics are kept for who catches them, and not printed.
pub fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(|at| format!("{}:{}: ", at.file(), at.line())).unwrap_or_default();
            let what = info.payload();
            let said = what.downcast_ref::<&str>().copied().or(what.downcast_ref::<String>().map(String::as_str));
            let text = format!("{place}{}", said.unwrap_or("no words"));
            if std::thread::current().name().is_some_and(|name| name != PLAYER) {
                eprintln!("{text}");
            }
            // The first one is the cause.
            PANIC.with_borrow_mut(|kept| {
                if kept.is_empty() {
                    *kept = text;
                }
            });
        }));
    });
}

/// The name of threads whose panics are not printed.
pub const PLAYER: &str = "player";

/// What this thread's first panic said since this was asked last.
pub fn panicked() -> String {
    PANIC.with_borrow_mut(std::mem::take)
}
