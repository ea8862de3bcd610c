//! How a server that is a child process ends: told by a signal and waited for, or by its watchdog when this process dies.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tailwater_api::{Error, ErrorKind, Result};

use crate::servers::failed;

/// Sends the signal to the process, if there is one, and waits until it is gone. One that takes longer than `patience` is left
/// where it was; the error shows its log.
pub(crate) fn end(process: &mut Option<Child>, signal: Signal, name: &str, patience: Duration, log: &Path) -> Result<()> {
    let Some(child) = process else { return Ok(()) };
    let deadline = Instant::now() + patience;
    if child.try_wait().is_ok_and(|ended| ended.is_none()) {
        kill_process(Pid::from_child(child), signal).map_err(|error| failed(&format!("signal {name}"), error))?;
    }
    while child.try_wait().map_err(|error| failed(&format!("wait for {name}"), error))?.is_none() {
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::TimedOut, format!("stop {name}")).because(logged(log)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    *process = None;
    Ok(())
}

/// What a server has logged so far.
pub(crate) fn logged(file: &Path) -> String {
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Waits for the end of its standard input, then sends `signal` to the process whose id is the first line of `pid_file` in `directory`,
/// waits until that is gone, and removes the directory.
pub(crate) fn watchdog(directory: &Path, pid_file: &str, signal: &str) -> Result<Child> {
    const SCRIPT: &str = r#"read -r _
pid=$(head -n 1 "$0/$1" 2>/dev/null)
if [ -n "$pid" ]; then
    kill "-$2" "$pid" 2>/dev/null
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
rm -rf "$0""#;
    // A process group of its own keeps it alive when a terminal interrupts the test.
    Command::new("sh")
        .args(["-c", SCRIPT])
        .arg(directory)
        .args([pid_file, signal])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed("start the watchdog", error))
}
