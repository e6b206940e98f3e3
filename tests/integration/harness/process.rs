//! A party: a process in a group of its own, which ends with the test whatever becomes of it.
//!
//! Its output is read as it comes, line by line, so that a test can wait for a line; when the test fails, the last of
//! it is printed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at a condition that no event tells of.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// Lines of output that a failed test prints for each party.
const TAIL_COUNT: usize = 120;

/// Where a line of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<(Stream, String)>>,
    more: Condvar,
}

/// A running (or ended) process.
#[derive(Debug)]
pub struct Process {
    name: String,
    group: u32,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    exited: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
    /// Further logs to print when the test fails.
    logs: Vec<PathBuf>,
}

impl Process {
    /// Starts `command`; `name` is how the test's output calls it.
    pub fn start(name: &str, command: &Command) -> Self {
        // Should the test's thread die without its destructors, the party gets SIGTERM.
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "TERM"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            wrapped.current_dir(folder);
        }
        wrapped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = wrapped
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: cannot start {:?}: {e}; run scripts/install-deps", command));
        let output = Arc::new(Output::default());
        let readers = [
            read_lines(child.stdout.take().expect("piped"), Stream::Out, Arc::clone(&output)),
            read_lines(child.stderr.take().expect("piped"), Stream::Err, Arc::clone(&output)),
        ];
        let stdin = child.stdin.take();
        let group = child.id();
        Self {
            name: name.to_owned(),
            group,
            stdin,
            output,
            exited: wait_in_thread(child, readers),
            status: None,
            logs: Vec::new(),
        }
    }

    /// Adds a file whose end a failed test prints.
    pub fn log(mut self, path: PathBuf) -> Self {
        self.logs.push(path);
        self
    }

    /// How the test's output calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes to its standard input and leaves it open.
    pub fn write_stdin(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("its standard input takes bytes");
    }

    /// The same for a process that may end at any moment.
    pub fn try_write_stdin(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
        }
    }

    /// Polls `condition` until it holds.
    ///
    /// # Panics
    /// When the process ends first, or `deadline` passes: `what` says what was waited for.
    pub fn wait_until(&mut self, what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + within;
        while !condition() {
            assert!(Instant::now() < deadline, "{}: not {what} within {within:?}", self.name);
            match self.exited.recv_timeout(POLL_EVERY) {
                Ok(status) => {
                    self.status = Some(status);
                    panic!("{}: ended before it was {what}: {status}", self.name);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("{}: had ended before it was {what}", self.name),
            }
        }
    }

    /// Waits for a line of output that holds `text`, and gives it.
    ///
    /// # Panics
    /// When none has come by then.
    pub fn wait_line(&self, text: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        let mut lines = self.output.lines.lock().expect("no reader panicked");
        loop {
            if let Some((_, line)) = lines.iter().find(|(_, line)| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: no line with {text:?} within {within:?}", self.name);
            lines = self.output.more.wait_timeout(lines, left).expect("no reader panicked").0;
        }
    }

    /// The lines that it has written to its standard error; all of them once it has ended.
    pub fn errors(&self) -> Vec<String> {
        let lines = self.output.lines.lock().expect("no reader panicked");
        lines.iter().filter(|(stream, _)| *stream == Stream::Err).map(|(_, line)| line.clone()).collect()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs by then.
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let status = self
            .exited
            .recv_timeout(within)
            .unwrap_or_else(|_| panic!("{}: still running after {within:?}", self.name));
        self.status = Some(status);
        status
    }

    /// Sends a signal to the process itself, as an operator does.
    pub fn signal(&self, signal: &str) {
        assert!(kill(signal, &self.group.to_string()), "{}: it takes a signal", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The whole group, also when its head has ended: Kamailio's workers outlive it.
        kill("KILL", &format!("-{}", self.group));
        if self.status.is_none() {
            let _ = self.exited.recv_timeout(Duration::from_secs(5));
        }
        if std::thread::panicking() {
            let lines = self.output.lines.lock().map(|lines| lines.clone()).unwrap_or_default();
            let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
            print_tail(&self.name, "its output", &lines);
            for path in &self.logs {
                let text = std::fs::read(path).unwrap_or_default();
                let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
                print_tail(&self.name, &path.display().to_string(), &lines);
            }
        }
    }
}

fn print_tail(name: &str, what: &str, lines: &[String]) {
    let skipped = lines.len().saturating_sub(TAIL_COUNT);
    eprintln!("---- {name}: {what} ({skipped} lines before it left out)");
    for line in &lines[skipped..] {
        eprintln!("{line}");
    }
}

/// Signals a process, or with a minus sign its group. False when there is none.
fn kill(signal: &str, target: &str) -> bool {
    let done = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "kill", signal, target])
        .stderr(Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

fn wait_in_thread(mut child: Child, readers: [JoinHandle<()>; 2]) -> Receiver<ExitStatus> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        if let Ok(status) = child.wait() {
            // Its last words first. (A child of its own that lives on would hold the pipes open: the parties have
            // none but Kamailio, whose workers end with it.)
            for reader in readers {
                let _ = reader.join();
            }
            // Nobody listens any more when the test is over.
            let _ = tell.send(status);
        }
    });
    told
}

fn read_lines(from: impl Read + Send + 'static, stream: Stream, output: Arc<Output>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(len) if len > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            output.lines.lock().expect("no reader panicked").push((stream, text));
            output.more.notify_all();
            line.clear();
        }
    })
}
