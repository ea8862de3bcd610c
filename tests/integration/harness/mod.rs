//! A running daemon as its users see it: files, REST, exit code, log.
//!
//! Every line of the log at WARN or ERROR that a test does not expect fails the test.

pub(crate) mod shop;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tailwater_testkit::Guard;
use tempfile::TempDir;

/// How long a test waits for something that takes a moment on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a daemon is started.
#[derive(Default)]
pub(crate) struct Options {
    /// Text of the worker file
    pub(crate) worker: String,
    /// Names and texts of the connector files
    pub(crate) connectors: Vec<(String, String)>,
    /// Environment variables
    pub(crate) environment: Vec<(String, String)>,
    /// Words of which one must stand in every line at WARN or ERROR
    pub(crate) expected: Vec<String>,
}

impl Options {
    /// A worker without files that were there before.
    pub(crate) fn connector(mut self, file: &str, text: impl Into<String>) -> Self {
        self.connectors.push((file.to_owned(), text.into()));
        self
    }

    /// Sets the worker file.
    pub(crate) fn worker(mut self, text: impl Into<String>) -> Self {
        self.worker = text.into();
        self
    }

    /// Sets an environment variable.
    pub(crate) fn environment(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Allows lines at WARN and ERROR that hold this text.
    pub(crate) fn expect(mut self, text: &str) -> Self {
        self.expected.push(text.to_owned());
        self
    }
}

/// Folders of a daemon, which outlive its processes.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::with_prefix("tailwater-test-").unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `data.dir`
    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes a file of this folder and says its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

/// The compiled program with these arguments.
pub(crate) fn tailwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run_tailwater<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    tailwater().args(arguments).output().unwrap()
}

/// Standard output and standard error together, for messages about a failure.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A daemon process. Ended, and its log judged, when dropped.
pub(crate) struct Daemon {
    process: Child,
    _guard: Guard,
    log: Arc<Mutex<Vec<String>>>,
    log_reader: Option<JoinHandle<()>>,
    expected: Vec<String>,
    url: String,
    data: PathBuf,
    client: reqwest::Client,
}

impl Daemon {
    /// Starts a daemon and waits until its REST API listens.
    pub(crate) async fn start(home: &Home, options: &Options) -> Self {
        let mut daemon = Self::spawn(home, options);
        let address = home.data().join("rest.address");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = fs::read_to_string(&address)
                && !text.trim().is_empty()
            {
                let scheme = if text.contains("://") { "" } else { "http://" };
                daemon.url = format!("{scheme}{}", text.trim());
                return daemon;
            }
            if let Some(status) = daemon.process.try_wait().unwrap() {
                panic!("the daemon ended before it listened: {status}\n{}", daemon.log_text());
            }
            assert!(Instant::now() < deadline, "the daemon does not listen\n{}", daemon.log_text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts a daemon that may fail.
    pub(crate) fn spawn(home: &Home, options: &Options) -> Self {
        let worker = home.write("worker.yaml", &options.worker);
        let connectors = home.path("connectors");
        fs::create_dir_all(&connectors).unwrap();
        for (name, text) in &options.connectors {
            home.write(&format!("connectors/{name}"), text);
        }
        // Left by a daemon that was killed.
        drop(fs::remove_file(home.data().join("rest.address")));
        let mut process = tailwater()
            .args(["run", "--listen", "127.0.0.1:0", "--log-format", "json", "--config"])
            .arg(&worker)
            .arg("--connectors")
            .arg(&connectors)
            .arg("--data-dir")
            .arg(home.data())
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let guard = Guard::new(process.id()).unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        let log_reader = std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| sink.lock().unwrap().push(line)));
        Self {
            process,
            _guard: guard,
            log,
            log_reader: Some(log_reader),
            expected: options.expected.clone(),
            url: String::new(),
            data: home.data(),
            client: reqwest::Client::new(),
        }
    }

    /// Where the REST API is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGHUP.
    pub(crate) fn reload(&self) {
        kill_process(Pid::from_child(&self.process), Signal::HUP).unwrap();
    }

    /// SIGTERM; the exit must be clean.
    pub(crate) async fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let status = self.ended().await;
        assert!(status.success(), "{status}\n{}", self.log_text());
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon does not end\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The lines that were logged so far.
    pub(crate) fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Resident anonymous memory in bytes.
    pub(crate) fn anonymous_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux shows RssAnon");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// A request with an optional JSON body; status and answer, `null` where the answer is empty.
    pub(crate) async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.request_text(method, path, body.map(Value::to_string)).await
    }

    /// A request with any text as its body, declared as JSON.
    pub(crate) async fn request_text(&self, method: &str, path: &str, body: Option<String>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}\n{}", self.log_text()));
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        if text.is_empty() {
            return (status, Value::Null);
        }
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path} answers {status} and no JSON ({error}): {text}")))
    }

    /// Makes or changes a connector; the worker must accept it.
    pub(crate) async fn put_connector(&self, name: &str, config: &Value) {
        let (status, answer) = self.request("PUT", &format!("/connectors/{name}/config"), Some(config)).await;
        assert!(matches!(status, 200 | 201), "{status} {answer}");
    }

    /// `GET /connectors/NAME/status`
    pub(crate) async fn status(&self, name: &str) -> Value {
        self.request("GET", &format!("/connectors/{name}/status"), None).await.1
    }

    /// The trace of the first failed task, or of the connector.
    pub(crate) async fn failure(&self, name: &str) -> Option<String> {
        let status = self.status(name).await;
        let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
        tasks
            .iter()
            .chain([&status["connector"]])
            .find(|part| part["state"] == "FAILED")
            .map(|part| part["trace"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the connector has failed and says why.
    pub(crate) async fn wait_for_failure(&self, name: &str) -> String {
        let mut trace = None;
        wait_until(&format!("{name} to fail"), async || {
            trace = self.failure(name).await;
            trace.is_some()
        })
        .await;
        trace.expect("it was just found")
    }

    /// Waits until the connector has tasks and each of them runs.
    pub(crate) async fn wait_for_running(&self, name: &str) {
        wait_until(&format!("{name} to run"), async || {
            let status = self.status(name).await;
            let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
            !tasks.is_empty() && tasks.iter().all(|task| task["state"] == "RUNNING")
        })
        .await;
    }

    /// Names of the topics.
    pub(crate) async fn topics(&self) -> Vec<String> {
        let (status, answer) = self.request("GET", "/topics", None).await;
        assert_eq!(status, 200, "{answer}");
        let topics = answer.as_array().expect("a list of topics");
        topics.iter().map(|topic| topic["name"].as_str().expect("a topic has a name").to_owned()).collect()
    }

    /// All records of a topic, as `topic read` prints them.
    pub(crate) async fn read_topic(&self, topic: &str) -> Vec<Value> {
        let output = tokio::process::Command::from(tailwater())
            .args(["topic", "read", topic, "--from-beginning", "--url", &self.url])
            .output()
            .await
            .unwrap();
        records(topic, &output)
    }

    /// Shows the records of a topic that is too long to be held in memory one after another.
    pub(crate) fn for_each_record(&self, topic: &str, mut see: impl FnMut(&Value)) {
        let mut reading =
            tailwater().args(["topic", "read", topic, "--from-beginning", "--url", &self.url]).stdout(Stdio::piped()).spawn().unwrap();
        for line in BufReader::new(reading.stdout.take().unwrap()).lines() {
            see(&serde_json::from_str(&line.unwrap()).unwrap());
        }
        assert!(reading.wait().unwrap().success(), "topic read {topic} failed");
    }

    /// The folder of the log and of the state.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    fn judge_log(&self) {
        let log = self.log.lock().unwrap();
        let is_expected = |line: &&String| line.contains(shop::NO_IDENTITY) || self.expected.iter().any(|word| line.contains(word));
        let unexpected: Vec<_> = log.iter().filter(|line| is_alarming(line) && !is_expected(line)).collect();
        assert!(
            unexpected.is_empty(),
            "unexpected lines in the log:\n{}",
            unexpected.iter().map(|line| line.as_str()).collect::<Vec<_>>().join("\n")
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        // All of the log is there once its pipe is closed.
        if let Some(reader) = self.log_reader.take() {
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}\n---", self.log_text());
        } else {
            self.judge_log();
        }
    }
}

fn is_alarming(line: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(event) => matches!(event["level"].as_str(), Some("WARN" | "ERROR") | None),
        // A panic's message is no JSON.
        Err(_) => true,
    }
}

/// Records of a topic in the journals of a worker that is down.
pub(crate) fn read_topic_offline(data: &Path, topic: &str) -> Vec<Value> {
    let output = tailwater().args(["topic", "read", topic, "--from-beginning", "--data-dir"]).arg(data).output().unwrap();
    records(topic, &output)
}

fn records(topic: &str, output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "topic read {topic}: {}", said(output));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The JSON of a record's value; `null` for a tombstone. With schemas, their payload.
pub(crate) fn payload(record: &Value) -> Value {
    let Some(text) = record["value"].as_str() else { return Value::Null };
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    value.get("payload").filter(|_| value.get("schema").is_some()).cloned().unwrap_or(value)
}

/// Waits until `condition` holds.
pub(crate) async fn wait_until(what: &str, condition: impl AsyncFnMut() -> bool) {
    wait_at_most(PATIENCE, what, condition).await;
}

/// Waits until `condition` holds, at most for `limit`.
pub(crate) async fn wait_at_most(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {} s for {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
