//! What systemd wants to know of a service of `Type=notify`: ready, reloading, stopping, and that it is alive. Without
//! systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot tell the service manager: {error}");
    }
}

pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// systemd wants the time with it, so that it can tell this reload from an older one.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("cannot tell the service manager: {error}"),
    }
}

/// Asks for the time that draining may take.
pub(super) fn stopping(draining: Duration) {
    let microseconds = u32::try_from(draining.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds)]);
}

/// Says that the process is alive, twice as often as the watchdog asks. Runs on the same threads as all tasks, so it
/// falls silent when these are blocked.
pub(super) async fn keep_alive() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}
