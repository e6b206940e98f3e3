//! A soak of some seconds: each thing that `scripts/soak` does for hours is done once or twice, and no call breaks without a
//! cause. What the proxy holds is not looked at, for that takes the idle time of the real one.

use std::process::Command;
use std::time::Duration;

use crate::harness::process::Process;
use crate::harness::proxy::is_stand_in;
use crate::harness::{Scratch, lab};

/// The run, its phones' registrations before it, and the last calls after it.
const RUN_MAX: Duration = Duration::from_secs(150);

#[test]
fn nothing_breaks_without_a_cause_while_phones_move_settings_change_and_servers_die() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("soak");
    let mut command = Command::new(lab());
    command
        .args(["soak", "--seconds", "16", "--idle", "0", "--phones", "60", "--rate", "20", "--tell-every", "5"])
        .args(["--talk-ms-max", "2000", "--hawser", env!("CARGO_BIN_EXE_hawser"), "--dir"])
        .arg(scratch.path());
    let status = Process::start("hawser-lab soak", &command).wait_exit(RUN_MAX);
    assert!(status.success(), "{status}");
}
