//! Ends a child process when this process dies in whatever way.

use std::io::Result;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Kills a process when this process dies. Dropped, it lets the process be.
#[derive(Debug)]
pub struct Guard {
    watchdog: Child,
}

impl Guard {
    /// Guards the process `pid`, which must be a child of this one that has not been waited for.
    ///
    /// # Errors
    /// The watchdog cannot be started.
    pub fn new(pid: u32) -> Result<Self> {
        // `read` ends when the kernel closes the other end of the pipe, which this process holds. A process group of
        // its own keeps the watchdog alive when a terminal interrupts the test.
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -KILL \"$0\"", &pid.to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { watchdog })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Killed first, so that it never sees its pipe closed.
        drop(self.watchdog.kill());
        drop(self.watchdog.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn a_process_ends_with_the_one_that_guards_it() {
        let mut process = sleeper();
        let mut guard = Guard::new(process.id()).unwrap();
        // What the kernel does with the pipe when this process dies.
        drop(guard.watchdog.stdin.take());
        assert_eq!(process.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_dropped_guard_lets_the_process_be() {
        let mut process = sleeper();
        drop(Guard::new(process.id()).unwrap());
        assert!(process.try_wait().unwrap().is_none());
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
