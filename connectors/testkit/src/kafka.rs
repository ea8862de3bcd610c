//! Throwaway Kafka brokers.
//!
//! A broker is one JVM that is its own controller (KRaft), with three listeners on free ports of the loopback interface:
//! `CLIENT` for the test, `INTERNAL` for what the broker says to itself, `CONTROLLER`. So a test can demand TLS or
//! passwords of clients alone: `("listener.security.protocol.map", "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,…")`. A test that
//! compares ways to connect names further listeners; each has a port of its own.
//!
//! Formatting the storage takes a JVM of its own, a second on a busy machine; so one formatted folder lies in the cache,
//! and a broker starts on a copy. Topics are never made by the mere use of their name: who needs one creates it.
//!
//! Nothing stays behind, as with [`crate::postgres`]: a watchdog that reads from a pipe held by this process ends the broker
//! and removes its folder when the handle is dropped or this process dies in whatever way.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tailwater_api::{Error, ErrorKind, Result};
use tempfile::TempDir;

use crate::child_process::{end, logged, watchdog};
use crate::servers::{cache_dir, failed, free_port, run};

/// Version of the broker.
pub const VERSION: &str = "4.3.1";

/// What every broker starts with; settings given to [`KafkaBroker::start`] come after these and win.
const DEFAULTS: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "INTERNAL"),
    ("listener.security.protocol.map", "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("auto.create.topics.enable", "false"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    // Its default is half of the heap below.
    ("log.cleaner.dedupe.buffer.size", "8388608"),
];

/// How long a start or stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the watchdog finds whom to end, in the broker's folder.
const PID_FILE: &str = "pid";

/// A line that the broker logs when clients are served.
const READY: &str = "Kafka Server started";

/// A running broker of its own; ended and removed when dropped.
#[derive(Debug)]
pub struct KafkaBroker {
    settings: Vec<(String, String)>,
    /// Listeners for tests, `CLIENT` the first, with their ports
    listeners: Vec<(String, u16)>,
    // Dropped in this order: the broker, the watchdog, the folder.
    process: Option<Child>,
    watchdog: Child,
    directory: TempDir,
}

impl KafkaBroker {
    /// Starts a broker.
    ///
    /// # Errors
    /// `missing` where it is not installed; see [`crate::required_or_skip`]. `misconfigured` with the broker's log where it
    /// does not start.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_with_listeners(&[], settings).await
    }

    /// Starts a broker that has these listeners beside `CLIENT`; `listener.security.protocol.map` of `settings` must name them all.
    ///
    /// # Errors
    /// As [`KafkaBroker::start`].
    pub async fn start_with_listeners(listeners: &[&str], settings: &[(&str, &str)]) -> Result<Self> {
        let template = template()?;
        let directory = TempDir::with_prefix("tailwater-kafka-").map_err(|error| failed("make a folder", error))?;
        let watchdog = watchdog(directory.path(), PID_FILE, "KILL")?;
        run(Command::new("cp").arg("-a").arg(template).arg(directory.path().join("data")))?;
        let settings = DEFAULTS.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let listeners = ["CLIENT"].iter().chain(listeners).map(|name| ((*name).to_owned(), 0)).collect();
        let mut broker = Self { settings, listeners, process: None, watchdog, directory };
        // Another process can take a port between its choice and its use.
        for attempt in 1.. {
            broker.choose_ports()?;
            match broker.launch().await {
                Err(_) if attempt < 5 && broker.log().contains("Address already in use") => {
                    fs::remove_file(broker.log_file()).map_err(|error| failed("remove the log", error))?;
                }
                outcome => return outcome.map(|()| broker),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// `127.0.0.1:PORT`, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// As [`KafkaBroker::bootstrap_servers`], of one of the listeners that it was started with.
    ///
    /// # Panics
    /// It has no such listener.
    #[must_use]
    pub fn bootstrap_servers_of(&self, listener: &str) -> String {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        format!("127.0.0.1:{}", found.expect("the broker was started with this listener").1)
    }

    /// Port of the listener `CLIENT`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.listeners[0].1
    }

    /// Runs Kafka's own `kafka-configs.sh` with these arguments, which takes a JVM of its own: users of SCRAM, quotas.
    ///
    /// # Errors
    /// What the tool says.
    pub fn configure(&self, arguments: &[&str]) -> Result<()> {
        let libs = cache_dir().join(format!("kafka-{VERSION}/libs"));
        let mut command = java(&libs, 128);
        run(command
            .args(["-Dlog4j2.level=ERROR", "kafka.admin.ConfigCommand", "--bootstrap-server"])
            .arg(self.bootstrap_servers())
            .args(arguments))
    }

    /// Process id; 0 while it is down.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// Folder that holds `data`, the settings and the log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What the broker has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        logged(&self.log_file())
    }

    /// Adds or replaces settings that hold from the next start on.
    pub fn set(&mut self, settings: &[(&str, &str)]) {
        self.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }

    /// Stops in order, then starts on the same port.
    ///
    /// # Errors
    /// The broker does not stop or start in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch().await
    }

    /// Starts a stopped or killed broker again on its port.
    ///
    /// # Errors
    /// The broker does not start in time.
    pub async fn start_again(&mut self) -> Result<()> {
        self.launch().await
    }

    /// Stops in order, and returns when the broker has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Ends the broker as a crash does (SIGKILL).
    ///
    /// # Errors
    /// It does not end in time.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL)
    }

    fn choose_ports(&mut self) -> Result<()> {
        let (internal, controller) = (free_port()?, free_port()?);
        self.settings.retain(|(name, _)| !["listeners", "controller.quorum.voters", "log.dirs"].contains(&name.as_str()));
        let mut listeners = format!("INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}");
        for (name, port) in &mut self.listeners {
            *port = free_port()?;
            write!(listeners, ",{name}://127.0.0.1:{port}").expect("a String takes any text");
        }
        self.settings.push(("listeners".to_owned(), listeners));
        self.settings.push(("controller.quorum.voters".to_owned(), format!("1@127.0.0.1:{controller}")));
        self.settings.push(("log.dirs".to_owned(), self.directory.path().join("data").display().to_string()));
        Ok(())
    }

    async fn launch(&mut self) -> Result<()> {
        // Of two lines with one name the later holds.
        let settings = properties(&self.settings);
        let settings_file = self.directory.path().join("server.properties");
        fs::write(&settings_file, settings).map_err(|error| failed("write the broker's settings", error))?;
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(|error| failed("open the log", error))?;
        let logged_before = self.log().len();
        let errors = log.try_clone().map_err(|error| failed("open the log", error))?;
        let process = java(&cache_dir().join(format!("kafka-{VERSION}/libs")), 384)
            .args(["-Dlog4j2.level=INFO", "kafka.Kafka"])
            .arg(&settings_file)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed("start Kafka", error))?;
        fs::write(self.pid_file(), process.id().to_string()).map_err(|error| failed("note the broker's process", error))?;
        self.process = Some(process);
        let deadline = Instant::now() + PATIENCE;
        while !self.log().get(logged_before..).is_some_and(|log| log.contains(READY)) {
            let process = self.process.as_mut().expect("it was set above");
            let ended = process.try_wait().map_err(|error| failed("watch Kafka", error))?;
            if ended.is_some() || Instant::now() > deadline {
                self.end(Signal::KILL)?;
                return Err(Error::new(ErrorKind::Misconfigured, "start Kafka").because(self.log()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if self.process.is_none() {
            return Ok(());
        }
        let log = self.log_file();
        end(&mut self.process, signal, "Kafka", PATIENCE, &log)?;
        fs::remove_file(self.pid_file()).map_err(|error| failed("forget the broker's process", error))
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.path().join(PID_FILE)
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        // What cannot be ended here the watchdog ends.
        drop(self.end(Signal::KILL));
        drop(self.watchdog.stdin.take());
        drop(self.watchdog.wait());
    }
}

/// Java with the jars in `libs` and so many MiB of heap, to be told what to run.
pub(crate) fn java(libs: &Path, heap: u32) -> Command {
    let mut command = Command::new("java");
    // Starts in half the time and needs less memory; throughput does not matter here.
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).arg(format!("-Xmx{heap}m"));
    command.arg("-cp").arg(libs.join("*"));
    command
}

pub(crate) fn properties(settings: &[(String, String)]) -> String {
    settings.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name}={value}").expect("a String takes any text");
        text
    })
}

/// A formatted folder of data, made once for all tests and processes.
fn template() -> Result<PathBuf> {
    let root = cache_dir().join(format!("kafka-{VERSION}"));
    let not_installed = |why: String| {
        Error::new(ErrorKind::Missing, format!("start Kafka {VERSION}")).because(why).mend("scripts/install-test-servers kafka")
    };
    if !root.join("libs").exists() {
        return Err(not_installed(format!("there is no {}", root.display())));
    }
    if Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Err(not_installed("there is no java".to_owned()));
    }
    let folder = cache_dir().join("kafka-formatted");
    fs::create_dir_all(&folder).map_err(|error| failed("make the cache folder", error))?;
    let lock = File::create(folder.join("lock")).map_err(|error| failed("open the lock of the templates", error))?;
    lock.lock().map_err(|error| failed("lock the templates", error))?;
    let template = folder.join(VERSION);
    if !template.exists() {
        let unfinished = folder.join(format!("{VERSION}-unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| failed("remove an unfinished template", error))?;
        }
        // The ports do not enter what is formatted.
        let settings = [
            ("listeners", "CLIENT://127.0.0.1:1,INTERNAL://127.0.0.1:2,CONTROLLER://127.0.0.1:3"),
            ("controller.quorum.voters", "1@127.0.0.1:3"),
            ("log.dirs", &unfinished.display().to_string()),
        ];
        let settings: Vec<_> = DEFAULTS.iter().chain(&settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings_file = folder.join(format!("{VERSION}.properties"));
        fs::write(&settings_file, properties(&settings)).map_err(|error| failed("write the settings of a template", error))?;
        run(java(&root.join("libs"), 128)
            .args(["kafka.tools.StorageTool", "format", "--cluster-id", "tailwaterTestCluster00", "--config"])
            .arg(settings_file))?;
        fs::rename(&unfinished, &template).map_err(|error| failed("name the template", error))?;
    }
    Ok(template)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::required_or_skip;

    #[tokio::test]
    async fn a_broker_comes_back_on_its_port_after_a_restart_and_a_kill() {
        let Some(mut broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
        let address = broker.bootstrap_servers();
        TcpStream::connect(&address).unwrap();
        broker.restart().await.unwrap();
        broker.kill().unwrap();
        assert!(TcpStream::connect(&address).is_err());
        broker.start_again().await.unwrap();
        assert_eq!(broker.bootstrap_servers(), address);
        TcpStream::connect(&address).unwrap();
    }

    #[tokio::test]
    async fn a_dropped_broker_leaves_neither_process_nor_folder() {
        let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
        let (pid, folder) = (broker.pid(), broker.directory().to_owned());
        drop(broker);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn the_watchdog_ends_a_broker_whose_test_process_is_gone() {
        let Some(mut broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
        let folder = broker.directory().to_owned();
        // What the kernel does with the pipe when the process dies.
        drop(broker.watchdog.stdin.take());
        let mut process = broker.process.take().unwrap();
        tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap();
        broker.watchdog.wait().unwrap();
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_setting_that_the_broker_refuses_is_shown_with_its_log() {
        let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
        drop(broker);
        let error = KafkaBroker::start(&[("log.segment.bytes", "no number")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("log.segment.bytes"), "{error}");
    }
}
