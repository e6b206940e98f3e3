//! `scripts/demo`, the README's first command, with the programs of this build.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::lab;
use crate::harness::process::Process;
use crate::harness::proxy::is_stand_in;

/// The script's own deadlines are shorter for each step.
const DEMO_MAX: Duration = Duration::from_secs(90);

#[test]
fn the_demo_ends_by_itself_with_status_0() {
    if is_stand_in() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lab = lab();
    let programs = lab.parent().expect("a folder");
    let mut command = Command::new(root.join("scripts/demo"));
    command.arg("--once").env("HAWSER_BIN_DIR", programs);
    let mut demo = Process::start("demo", &command);
    let status = demo.wait_exit(DEMO_MAX);
    assert!(status.success(), "{status}: {:#?}", demo.errors());
    demo.wait_line("everything went as it should", Duration::from_secs(5));
}
