//! The watched directory of connector files: what it holds is what runs.
//!
//! A scan reads every file; `plan` compares it with the scan before and says what is to be put and
//! deleted. Only that plan touches the worker, so a file that did not change does nothing. The rules:
//!
//! - A file that cannot be read or parsed is an error in the log, and the connector that it declared before goes on.
//! - Of two files that declare one name the one that came first stays (at the start: the first by file name).
//! - A file that is gone deletes its connector, which keeps its offsets; so do the files of the directory that was
//!   watched before, when the worker is started with another one. A directory that cannot be listed, as one whose
//!   volume is not mounted, deletes nothing.
//! - At the worker's start its connectors wait for the first scan. One whose file cannot be applied then starts as it was before the stop.
//!
//! Events of the file system only say that something changed; after a short quiet the whole directory is read again.
//! So atomic renames, editors that write twice, and Kubernetes' switch of the `..data` link all look alike. A slow
//! rescan finds what raises no event (network file systems, the target of a link elsewhere).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tailwater_api::config::ConfigReport;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, watch};

use super::connector_file::{self, ConnectorFile, ENDINGS};
use crate::runtime::worker::{Refused, Worker};

/// No event for this long, and the directory is read.
const QUIET: Duration = Duration::from_millis(200);
/// Events that do not end do not keep the directory from being read.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often the directory is read without an event.
const RESCAN: Duration = Duration::from_secs(10);

/// What one file held when it was read: its connector, or its faults.
type Scanned = Result<ConnectorFile, ConfigReport>;

/// What the directory asks of the worker.
#[derive(Debug, PartialEq)]
enum Step {
    Put { file: PathBuf, connector: ConnectorFile },
    Delete { file: PathBuf, name: String },
    Complain { file: PathBuf, faults: Vec<String> },
}

/// A directory and what was last seen in it.
pub struct Directory {
    path: PathBuf,
    /// What the last scan saw of each file
    seen: BTreeMap<PathBuf, Scanned>,
    /// The connector that each file declares in the worker
    applied: BTreeMap<PathBuf, ConnectorFile>,
    worker: Worker,
}

impl Directory {
    /// A directory whose files are applied by [`Directory::scan`] and [`Directory::watch`].
    ///
    /// # Errors
    /// The directory is not there.
    pub async fn open(path: &Path, worker: Worker) -> Result<Self> {
        let doing = || format!("read the directory of connectors {}", path.display());
        let mend = "create it, or correct connectors.dir of the worker file (--connectors)";
        let path = std::fs::canonicalize(path).map_err(|error| Error::new(ErrorKind::Missing, doing()).because(error).mend(mend))?;
        // Connectors that files declared before the last stop; what another directory declared then is not declared now.
        let owned =
            worker.list().await.into_iter().filter_map(|info| Some((info.file?, ConnectorFile { name: info.name, config: info.config })));
        Ok(Self { applied: owned.collect(), path, seen: BTreeMap::new(), worker })
    }

    /// Reads the directory and applies what changed. Faults are logged, once for each change of a file.
    pub async fn scan(&mut self) {
        let scanned = match read_directory(&self.path) {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::error!(
                    error.kind = ErrorKind::Unreachable.code(),
                    "cannot read the directory of connectors {}: {error}",
                    self.path.display()
                );
                return;
            }
        };
        let steps = plan(&self.seen, &self.applied, &scanned);
        self.seen = scanned;
        for step in steps {
            self.apply(step).await;
        }
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Complain { file, faults } => {
                for fault in faults {
                    tracing::error!(error.kind = ErrorKind::Misconfigured.code(), "{}: {fault}", file.display());
                }
            }
            Step::Delete { file, name } => {
                match self.worker.delete(&name, Some(file.clone())).await {
                    Ok(()) => tracing::info!(connector = name, "removed with its file {}; its offsets are kept", file.display()),
                    Err(Refused::Unknown(_)) => {}
                    Err(refused) => {
                        // What may pass is tried again by the next scan.
                        let may_pass = matches!(refused, Refused::Failed(_));
                        complain(&file, &name, refused);
                        if may_pass {
                            return;
                        }
                    }
                }
                self.applied.remove(&file);
            }
            Step::Put { file, connector } => {
                match self.worker.put_config(&connector.name, connector.config.clone(), Some(file.clone())).await {
                    Ok((_, made)) => {
                        let what = if made { "connector made from" } else { "connector changed to what stands in" };
                        tracing::info!(connector = connector.name, "{what} {}", file.display());
                        self.applied.insert(file, connector);
                    }
                    Err(refused) => {
                        // What may pass is tried again by the next scan; a faulty file only when it changes.
                        if matches!(refused, Refused::Failed(_)) {
                            self.seen.remove(&file);
                        }
                        complain(&file, &connector.name, refused);
                    }
                }
            }
        }
    }

    /// Watches until `stop` turns true; `reload` counts up when all files are to be applied anew.
    pub async fn watch(mut self, mut stop: watch::Receiver<bool>, mut reload: watch::Receiver<u64>) {
        // One waiting event says as much as many.
        let (sender, mut events) = mpsc::channel(1);
        let notice = move |_: notify::Result<notify::Event>| {
            let _ = sender.try_send(());
        };
        let watcher = notify::recommended_watcher(notice)
            .and_then(|mut watcher| watcher.watch(&self.path, RecursiveMode::NonRecursive).map(|()| watcher));
        if let Err(error) = &watcher {
            tracing::warn!("cannot watch {}: {error}; it is read every {} s instead", self.path.display(), RESCAN.as_secs());
        }
        loop {
            // First of all for what changed before the watch began.
            self.scan().await;
            tokio::select! {
                () = stopped(&mut stop) => return,
                Some(()) = events.recv() => settle(&mut events).await,
                Ok(()) = reload.changed() => self.seen.clear(),
                () = tokio::time::sleep(RESCAN) => {}
            }
        }
    }
}

/// Completes when the watching should end; so it should when nobody is left to end it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until no event has come for a while.
async fn settle(events: &mut mpsc::Receiver<()>) {
    let quiet = async { while matches!(tokio::time::timeout(QUIET, events.recv()).await, Ok(Some(()))) {} };
    let _ = tokio::time::timeout(LONGEST_WAIT, quiet).await;
}

fn complain(file: &Path, name: &str, refused: Refused) {
    let (kind, mend, message) = match refused {
        Refused::Invalid(ConfigReport { faults, .. }) => {
            for fault in faults {
                tracing::error!(connector = name, error.kind = ErrorKind::Misconfigured.code(), "{}: {fault}", file.display());
            }
            return;
        }
        Refused::OwnedByFile(other) => {
            (ErrorKind::Conflict, None, format!("{name} is declared by {} already, which stays", other.display()))
        }
        Refused::Exists(name) => (ErrorKind::Conflict, None, format!("a connector {name} was made over REST; delete it there first")),
        Refused::Unknown(name) => (ErrorKind::Missing, None, format!("there is no connector {name}")),
        Refused::Failed(error) => (error.kind(), error.remedy().map(str::to_owned), error.to_string()),
    };
    tracing::error!(connector = name, error.kind = kind.code(), error.mend = mend, "{}: {message}", file.display());
}

/// Every connector file of the directory, by path.
fn read_directory(path: &Path) -> std::io::Result<BTreeMap<PathBuf, Scanned>> {
    let mut scanned = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if !is_connector_file(&file) {
            continue;
        }
        let content = connector_file::read(&file);
        // A file that went between listing and reading is gone, not broken; a link without a target is broken.
        if content.is_ok() || file.symlink_metadata().is_ok() {
            scanned.insert(file, content);
        }
    }
    Ok(scanned)
}

/// Hidden files (editors' and Kubernetes' own) and other endings are none of ours; neither are directories.
fn is_connector_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    !name.starts_with('.') && ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)) && !path.is_dir()
}

/// What is to be done so that the worker has what was scanned. Deletions come first: a name may have moved to another file.
fn plan(seen: &BTreeMap<PathBuf, Scanned>, applied: &BTreeMap<PathBuf, ConnectorFile>, scanned: &BTreeMap<PathBuf, Scanned>) -> Vec<Step> {
    let mut deletes = Vec::new();
    // Who has which name once this plan is done. A broken file keeps the name of what it declared.
    let mut owners: BTreeMap<&str, &Path> = BTreeMap::new();
    for (file, connector) in applied {
        let keeps = match scanned.get(file) {
            None => false,
            Some(Ok(now)) => now.name == connector.name,
            Some(Err(_)) => true,
        };
        if keeps {
            owners.insert(&connector.name, file);
        } else {
            deletes.push(Step::Delete { file: file.clone(), name: connector.name.clone() });
        }
    }
    let mut steps = Vec::new();
    for (file, content) in scanned {
        let changed = seen.get(file) != Some(content);
        match content {
            Err(report) if changed => {
                steps.push(Step::Complain { file: file.clone(), faults: report.faults.iter().map(ToString::to_string).collect() });
            }
            Err(_) => {}
            Ok(connector) => {
                let owner = *owners.entry(&connector.name).or_insert(file);
                if owner != file {
                    if changed {
                        let fault =
                            format!("declares the connector {}, which {} declares already and keeps", connector.name, owner.display());
                        steps.push(Step::Complain { file: file.clone(), faults: vec![fault] });
                    }
                } else if applied.get(file) != Some(connector) && (changed || freed(&deletes, connector)) {
                    // A file that was refused and did not change since is not put again.
                    steps.push(Step::Put { file: file.clone(), connector: connector.clone() });
                }
            }
        }
    }
    deletes.extend(steps);
    deletes
}

/// Whether the connector's name was another file's until this plan.
fn freed(deletes: &[Step], connector: &ConnectorFile) -> bool {
    deletes.iter().any(|step| matches!(step, Step::Delete { name, .. } if *name == connector.name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tailwater_api::config::ConfigValues;
    use tailwater_api::state::JsonMap;

    use super::*;
    use crate::config::providers::Providers;
    use crate::runtime::testing::{MemoryLog, MemoryStore, MemoryTopics};
    use crate::runtime::worker::{Restart, WorkerOptions, WorkerParts};
    use crate::state::{ConnectorStore, StoredConnector, TargetState};
    use crate::telemetry::Registry;

    fn scanned(files: &[(&str, &str)]) -> BTreeMap<PathBuf, Scanned> {
        let parse = |(file, text): &(&str, &str)| (PathBuf::from(file), connector_file::parse(Path::new(file), text));
        files.iter().map(parse).collect()
    }

    /// The plan in short: `+file name`, `-file name`, `!file`.
    fn steps(plan: &[Step]) -> Vec<String> {
        let show = |step: &Step| match step {
            Step::Put { file, connector } => format!("+{} {}", file.display(), connector.name),
            Step::Delete { file, name } => format!("-{} {name}", file.display()),
            Step::Complain { file, .. } => format!("!{}", file.display()),
        };
        plan.iter().map(show).collect()
    }

    /// Plays scans one after the other against a worker that takes everything.
    fn play(scans: &[&[(&str, &str)]]) -> Vec<Vec<String>> {
        let (mut seen, mut applied) = (BTreeMap::new(), BTreeMap::new());
        let mut plans = Vec::new();
        for files in scans {
            let now = scanned(files);
            let plan = plan(&seen, &applied, &now);
            plans.push(steps(&plan));
            for step in plan {
                match step {
                    Step::Put { file, connector } => drop(applied.insert(file, connector)),
                    Step::Delete { file, .. } => drop(applied.remove(&file)),
                    Step::Complain { .. } => {}
                }
            }
            seen = now;
        }
        plans
    }

    const A: &str = "name: a\nconnector: x\n";
    const A2: &str = "name: a\nconnector: y\n";
    const B: &str = "name: b\nconnector: x\n";
    const BROKEN: &str = "name: [\n";

    #[test]
    fn the_same_file_twice_does_nothing() {
        assert_eq!(play(&[&[("a.yaml", A)], &[("a.yaml", A)], &[("a.yaml", A2)]]), [vec!["+a.yaml a"], vec![], vec!["+a.yaml a"]]);
    }

    #[test]
    fn a_broken_file_is_complained_about_once_and_its_connector_goes_on() {
        let plans = play(&[&[("a.yaml", A)], &[("a.yaml", BROKEN)], &[("a.yaml", BROKEN)], &[("a.yaml", A)], &[("a.yaml", A2)]]);
        assert_eq!(plans, [vec!["+a.yaml a"], vec!["!a.yaml"], vec![], vec![], vec!["+a.yaml a"]]);
    }

    #[test]
    fn a_file_that_is_gone_deletes_its_connector() {
        assert_eq!(play(&[&[("a.yaml", A), ("b.yaml", B)], &[("b.yaml", B)]]), [vec!["+a.yaml a", "+b.yaml b"], vec!["-a.yaml a"]]);
    }

    #[test]
    fn of_two_files_of_one_name_the_first_stays() {
        let plans = play(&[&[("b.yaml", A)], &[("a.yaml", A2), ("b.yaml", A)], &[("a.yaml", A2), ("b.yaml", A)], &[("a.yaml", A2)]]);
        assert_eq!(plans, [vec!["+b.yaml a"], vec!["!a.yaml"], vec![], vec!["-b.yaml a", "+a.yaml a"]]);
        // A broken file keeps the name of what it declared.
        let plans = play(&[&[("b.yaml", A)], &[("a.yaml", A2), ("b.yaml", BROKEN)]]);
        assert_eq!(plans[1], ["!a.yaml", "!b.yaml"]);
    }

    #[test]
    fn a_file_that_changes_its_name_moves_and_a_renamed_file_too() {
        assert_eq!(play(&[&[("a.yaml", A)], &[("a.yaml", B)]]), [vec!["+a.yaml a"], vec!["-a.yaml a", "+a.yaml b"]]);
        assert_eq!(play(&[&[("a.yaml", A)], &[("c.yaml", A)]]), [vec!["+a.yaml a"], vec!["-a.yaml a", "+c.yaml a"]]);
    }

    #[test]
    fn a_refused_file_is_put_again_only_when_it_changes() {
        let now = scanned(&[("a.yaml", A)]);
        assert_eq!(steps(&plan(&BTreeMap::new(), &BTreeMap::new(), &now)), ["+a.yaml a"]);
        assert!(plan(&now, &BTreeMap::new(), &now).is_empty());
    }

    #[test]
    fn links_are_followed_and_hidden_files_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("..data-1");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("a.yaml"), A).unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("b.yaml")).unwrap();
        std::fs::write(folder.path().join(".c.yaml"), B).unwrap();
        std::fs::write(folder.path().join("a.yaml~"), B).unwrap();
        let scanned = read_directory(folder.path()).unwrap();
        let seen: Vec<_> = scanned.iter().map(|(file, content)| (file.file_name().unwrap().to_str().unwrap(), content.is_ok())).collect();
        assert_eq!(seen, [("a.yaml", true), ("b.yaml", false)]);
    }

    async fn worker() -> Worker {
        worker_on(MemoryLog::new(), Arc::default()).await
    }

    async fn worker_on(log: Arc<MemoryLog>, store: Arc<MemoryStore>) -> Worker {
        let options = WorkerOptions {
            data_dir: PathBuf::new(),
            memory_budget: 1 << 20,
            shutdown_timeout: Duration::from_secs(5),
            defaults: ConfigValues::default(),
            worker_id: "h:1".into(),
        };
        let parts = WorkerParts {
            topics: Arc::new(MemoryTopics(log)),
            store,
            providers: Providers::default(),
            metrics: Arc::new(Registry::default()),
        };
        Worker::start_with(options, parts).await.unwrap()
    }

    /// Names and topics of the worker's connectors.
    async fn declared(worker: &Worker) -> Vec<(String, String)> {
        let topics = |config: &JsonMap| config["topics"].as_str().unwrap().to_owned();
        worker.list().await.iter().map(|info| (info.name.clone(), topics(&info.config))).collect()
    }

    async fn comes_to(worker: &Worker, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(name, topics)| ((*name).to_owned(), (*topics).to_owned())).collect();
        for _ in 0..500 {
            if declared(worker).await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(declared(worker).await, expected);
    }

    fn generator(name: &str, topic: &str) -> String {
        format!("name: {name}\nconnector: generator\ngenerator.topics: {topic}\ngenerator.rows: 1\n")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_files_held_before_the_worker_stopped_never_runs_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let (log, store) = (MemoryLog::new(), Arc::<MemoryStore>::default());
        let remember = |name: &str, topic: &str, file: Option<&str>| {
            let config = connector_file::parse(Path::new("a.yaml"), &generator(name, topic)).unwrap().config;
            let file = file.map(|file| path.join(file).to_string_lossy().into_owned());
            store.put(StoredConnector { name: name.to_owned(), config, target: TargetState::Running, file })
        };
        remember("dir-edited", "edited-before", Some("edited.yaml")).await.unwrap();
        remember("dir-gone", "gone", Some("gone.yaml")).await.unwrap();
        remember("dir-same", "same", Some("same.yaml")).await.unwrap();
        remember("dir-rest", "rest", None).await.unwrap();
        std::fs::write(path.join("edited.yaml"), generator("dir-edited", "edited-now")).unwrap();
        std::fs::write(path.join("same.yaml"), generator("dir-same", "same")).unwrap();
        let is_written = async |topic: &str| {
            for _ in 0..6000 {
                if !log.records(topic).is_empty() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        };

        let worker = worker_on(Arc::clone(&log), Arc::clone(&store)).await;
        for info in worker.list().await {
            assert_eq!(info.tasks.is_empty(), info.file.is_some(), "{info:?}");
        }
        assert!(is_written("rest").await, "REST's connectors wait for no directory");
        // Nor does anything else start one of a file.
        worker.restart("dir-gone", Restart::default()).await.unwrap();
        worker.set_target("dir-edited", TargetState::Paused).await.unwrap();
        worker.set_target("dir-edited", TargetState::Running).await.unwrap();

        let mut directory = Directory::open(&path, worker.clone()).await.unwrap();
        directory.scan().await;
        worker.start_declared().await;
        assert!(is_written("edited-now").await && is_written("same").await);
        assert!(log.records("edited-before").is_empty() && log.records("gone").is_empty());
        assert!(worker.get("dir-gone").await.is_err());
        worker.shutdown().await;
    }

    fn blackhole(name: &str, topics: &str) -> String {
        format!("name: {name}\nconnector: blackhole\ntopics: {topics}\n")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_directory_holds_is_what_runs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("a.yaml", &blackhole("dir-a", "one"));
        let worker = worker().await;
        let mut directory = Directory::open(folder.path(), worker.clone()).await.unwrap();
        directory.scan().await;
        assert_eq!(declared(&worker).await, [("dir-a".to_owned(), "one".to_owned())]);
        let (stop, stopped) = watch::channel(false);
        let (_reload, reloads) = watch::channel(0);
        let watching = tokio::spawn(directory.watch(stopped, reloads));

        // Written beside and renamed over.
        write(".b.tmp", &blackhole("dir-b", "two"));
        std::fs::rename(folder.path().join(".b.tmp"), folder.path().join("b.yaml")).unwrap();
        comes_to(&worker, &[("dir-a", "one"), ("dir-b", "two")]).await;
        // Broken, then changed; refused, then right.
        write("a.yaml", "name: [");
        write("b.yaml", "name: dir-b\nconnector: blackhole\n");
        tokio::time::sleep(QUIET * 2).await;
        comes_to(&worker, &[("dir-a", "one"), ("dir-b", "two")]).await;
        write("a.yaml", &blackhole("dir-a", "three"));
        write("b.yaml", &blackhole("dir-b", "four"));
        comes_to(&worker, &[("dir-a", "three"), ("dir-b", "four")]).await;
        std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
        comes_to(&worker, &[("dir-b", "four")]).await;

        stop.send(true).unwrap();
        watching.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn kubernetes_switch_of_links_is_one_change() {
        let folder = tempfile::tempdir().unwrap();
        let version = |number: u32, topics: &str| {
            let data = folder.path().join(format!("..data-{number}"));
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("a.yaml"), blackhole("dir-k8s", topics)).unwrap();
            std::os::unix::fs::symlink(&data, folder.path().join("..data_tmp")).unwrap();
            std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        };
        version(1, "one");
        std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
        let worker = worker().await;
        let mut directory = Directory::open(folder.path(), worker.clone()).await.unwrap();
        directory.scan().await;
        let (_stop, stopped) = watch::channel(false);
        let (_reload, reloads) = watch::channel(0);
        let watching = tokio::spawn(directory.watch(stopped, reloads));
        comes_to(&worker, &[("dir-k8s", "one")]).await;
        version(2, "two");
        comes_to(&worker, &[("dir-k8s", "two")]).await;
        watching.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_same_files_in_another_directory_declare_the_same_connectors() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let worker = worker().await;
        for name in ["dir-moved", "dir-left"] {
            std::fs::write(one.path().join(format!("{name}.yaml")), blackhole(name, "one")).unwrap();
        }
        Directory::open(one.path(), worker.clone()).await.unwrap().scan().await;
        assert_eq!(declared(&worker).await.len(), 2);
        std::fs::copy(one.path().join("dir-moved.yaml"), two.path().join("dir-moved.yaml")).unwrap();
        Directory::open(two.path(), worker.clone()).await.unwrap().scan().await;
        assert_eq!(declared(&worker).await, [("dir-moved".to_owned(), "one".to_owned())]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_went_while_the_worker_was_down_take_their_connectors_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let worker = worker().await;
        let config = connector_file::parse(Path::new("a.yaml"), &blackhole("dir-gone", "one")).unwrap().config;
        worker.put_config("dir-gone", config.clone(), Some(path.join("gone.yaml"))).await.unwrap();
        worker.put_config("dir-rest", config, None).await.unwrap();
        let mut directory = Directory::open(folder.path(), worker.clone()).await.unwrap();
        directory.scan().await;
        assert_eq!(declared(&worker).await.len(), 1, "only the one that a file declared is gone");
        // A directory that is not there, as an unmounted volume, deletes nothing.
        std::fs::write(path.join("a.yaml"), blackhole("dir-kept", "one")).unwrap();
        directory.scan().await;
        drop(folder);
        directory.scan().await;
        assert_eq!(declared(&worker).await.len(), 2);
    }
}
