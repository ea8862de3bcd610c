//! The channels that signals come in by: `signal.enabled.channels`.
//!
//! | channel | who reads it |
//! |---|---|
//! | `source` | the source: rows of `signal.data.collection` as they come by in its log |
//! | `kafka` | the daemon: the topic `signal.kafka.topic` |
//! | `file` | [`Channels`]: lines of `signal.file` |
//! | REST, command line | the daemon, whatever is enabled |
//! | the source itself, which finds that rows have to be read | [`Channels`], whatever is enabled |
//!
//! `jmx` and `in-process` are Java's.

use std::path::PathBuf;
use std::time::Duration;

use tailwater_api::config::{ConfigReader, split_list};
use tailwater_api::signal::SignalRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::file;
use crate::filters::plain_table_name;

/// `signal.*`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignalOptions {
    /// The table whose rows are signals, as `schema.table`
    pub table: Option<String>,
    /// The file whose lines are signals
    pub file: Option<PathBuf>,
    /// Time between two looks at the file
    pub poll_interval: Duration,
}

/// Validator of `signal.enabled.channels`.
///
/// # Errors
/// The sentence.
pub fn validate_channels(value: &str) -> Result<(), String> {
    match split_list(value).iter().find(|channel| !matches!(channel.as_str(), "source" | "kafka" | "file" | "jmx" | "in-process")) {
        Some(other) => Err(format!("must be a list of source, kafka and file, not {other:?}")),
        None => Ok(()),
    }
}

impl SignalOptions {
    /// Reads the options.
    pub fn read(reader: &mut ConfigReader<'_>) -> Self {
        let channels = reader.list("signal.enabled.channels");
        let has = |name: &str| channels.iter().any(|channel| channel == name);
        for java in ["jmx", "in-process"] {
            if has(java) {
                reader.note("signal.enabled.channels", format!("{java} has no effect: there is no JVM here; the REST API takes signals"));
            }
        }
        Self {
            table: reader.optional_text("signal.data.collection").filter(|_| has("source")).map(|name| plain_table_name(&name)),
            file: has("file").then(|| PathBuf::from(reader.text("signal.file"))),
            poll_interval: reader.milliseconds("signal.poll.interval.ms"),
        }
    }
}

/// Signals that come from outside of the source's log.
pub struct Channels {
    daemon: mpsc::Receiver<SignalRequest>,
    file: mpsc::Receiver<SignalRequest>,
    own: mpsc::Receiver<SignalRequest>,
    /// Ends with this
    _watching: JoinSet<()>,
}

impl Channels {
    /// Listens to the daemon, to the source itself and, where there is one, to the file.
    #[must_use]
    pub fn open(options: &SignalOptions, daemon: mpsc::Receiver<SignalRequest>, own: mpsc::Receiver<SignalRequest>) -> Self {
        // A file hands over one signal after another.
        let (sender, file) = mpsc::channel(1);
        let mut watching = JoinSet::new();
        if let Some(path) = options.file.clone() {
            watching.spawn(file::watch(path, options.poll_interval, sender));
        }
        Self { daemon, file, own, _watching: watching }
    }

    /// The next signal that somebody still waits for; never ends by itself. Cancel-safe.
    pub async fn next(&mut self) -> SignalRequest {
        loop {
            let request = tokio::select! {
                Some(request) = self.daemon.recv() => request,
                Some(request) = self.file.recv() => request,
                Some(request) = self.own.recv() => request,
                else => std::future::pending().await,
            };
            if !request.is_abandoned() {
                return request;
            }
        }
    }

    /// The next signal, if one is there.
    pub fn waiting(&mut self) -> Option<SignalRequest> {
        let mut next = || self.daemon.try_recv().or_else(|_| self.file.try_recv()).or_else(|_| self.own.try_recv()).ok();
        std::iter::from_fn(&mut next).find(|request| !request.is_abandoned())
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::signal::Signal;

    use super::*;

    #[test]
    fn channels_are_known_words() {
        assert!(validate_channels("source, kafka,file,jmx").is_ok());
        assert!(validate_channels("source,mail").is_err());
    }

    #[tokio::test]
    async fn a_signal_that_nobody_waits_for_is_not_given() {
        let (sender, receiver) = mpsc::channel(4);
        let mut channels = Channels::open(&SignalOptions::default(), receiver, mpsc::channel(1).1);
        let signal = |id: &str| Signal { id: id.into(), kind: "log".into(), data: String::new() };
        let (abandoned, answered) = SignalRequest::new(signal("1"));
        drop(answered);
        let (wanted, _answered) = SignalRequest::new(signal("2"));
        sender.send(abandoned).await.unwrap();
        sender.send(wanted).await.unwrap();
        assert_eq!(channels.next().await.signal.id, "2");
        assert!(channels.waiting().is_none());
    }
}
