//! Workers of Kafka Connect with Debezium's connector for PostgreSQL, the peer that Tailwater takes over from.
//!
//! A worker is one JVM of a distributed Connect cluster on a [`KafkaBroker`]; it keeps everything in the broker's topics, so
//! one that was stopped goes on as another with the same names. Such a test takes minutes: it runs where
//! `TAILWATER_LONG=1` asks for it, and `scripts/install-test-servers connect` installs what it needs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tailwater_api::{Error, ErrorKind, Result};
use tempfile::TempDir;

use crate::child_process::{end, logged};
use crate::guard::Guard;
use crate::kafka::{KafkaBroker, VERSION, java, properties};
use crate::servers::{cache_dir, failed, free_port};

/// How long a start or stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A line that the worker logs when its connectors run.
const READY: &str = "Finished starting connectors and tasks";

/// Names of the topics in which the workers keep configs, offsets and statuses.
pub const TOPICS: [(&str, &str); 3] = [
    ("config.storage.topic", "connect-configs"),
    ("offset.storage.topic", "connect-offsets"),
    ("status.storage.topic", "connect-statuses"),
];

/// A running worker; ended when dropped.
#[derive(Debug)]
pub struct ConnectWorker {
    port: u16,
    process: Option<Child>,
    _guard: Guard,
    directory: TempDir,
}

impl ConnectWorker {
    /// Starts a worker on `broker` with these settings beside the needed ones, and waits until it has started the
    /// connectors that it found.
    ///
    /// # Errors
    /// `missing` where it is not installed. `misconfigured` with its log where it does not start.
    pub async fn start(broker: &KafkaBroker, settings: &[(&str, &str)]) -> Result<Self> {
        let root = cache_dir().join(format!("kafka-connect-{VERSION}"));
        if !root.exists() {
            return Err(Error::new(ErrorKind::Missing, "start Kafka Connect")
                .because(format!("there is no {}", root.display()))
                .mend("scripts/install-test-servers connect"));
        }
        let directory = TempDir::with_prefix("tailwater-connect-").map_err(|error| failed("make a folder", error))?;
        let port = free_port()?;
        let converter = "org.apache.kafka.connect.json.JsonConverter";
        let own = [
            ("bootstrap.servers", broker.bootstrap_servers()),
            ("group.id", "connect".to_owned()),
            ("listeners", format!("http://127.0.0.1:{port}")),
            ("plugin.path", root.join("plugins").display().to_string()),
            ("config.storage.replication.factor", "1".to_owned()),
            ("offset.storage.replication.factor", "1".to_owned()),
            ("status.storage.replication.factor", "1".to_owned()),
            ("offset.flush.interval.ms", "1000".to_owned()),
            ("key.converter", converter.to_owned()),
            ("value.converter", converter.to_owned()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let more = TOPICS.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings_file = directory.path().join("worker.properties");
        fs::write(&settings_file, properties(&own.chain(more).collect::<Vec<_>>())).map_err(|error| failed("write the settings", error))?;
        let log = File::create(directory.path().join("log")).map_err(|error| failed("open the log", error))?;
        let errors = log.try_clone().map_err(|error| failed("open the log", error))?;
        let process = java(&root.join("libs"), 768)
            .args(["-Dlog4j2.level=INFO", "org.apache.kafka.connect.cli.ConnectDistributed"])
            .arg(&settings_file)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed("start Kafka Connect", error))?;
        let guard = Guard::new(process.id()).map_err(|error| failed("start the watchdog", error))?;
        let mut worker = Self { port, process: Some(process), _guard: guard, directory };
        let deadline = Instant::now() + PATIENCE;
        while !worker.log().contains(READY) {
            let ended = worker.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                return Err(Error::new(ErrorKind::Misconfigured, "start Kafka Connect").because(worker.log()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(worker)
    }

    /// Where its REST API is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Process id; 0 once it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        logged(&self.log_file())
    }

    /// Stops it in order: its tasks store their offsets.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let log = self.log_file();
        end(&mut self.process, signal, "Kafka Connect", PATIENCE, &log)
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for ConnectWorker {
    fn drop(&mut self) {
        // What cannot be ended here the watchdog ends.
        drop(self.end(Signal::KILL));
    }
}
