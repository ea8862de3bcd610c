//! Named points at which a test may kill the process.
//!
//! `TAILWATER_CRASH_POINT=name:n` ends the process, without any clean-up, when the point `name` is passed for the n-th
//! time. Only in builds with debug assertions; elsewhere the function is empty.

/// Ends the process here if the point is armed.
#[cfg(debug_assertions)]
pub fn crash_point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("TAILWATER_CRASH_POINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicI64::new(count.parse().ok()?)))
    });
    if let Some((armed, left)) = armed
        && armed == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        // As an operator's `kill -9`: no clean-up and no core file.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// Nothing, in builds without debug assertions.
#[cfg(not(debug_assertions))]
pub fn crash_point(_: &str) {}
