//! Connectors and positions of sinks in one redb file, `data.dir/state.redb`.
//!
//! Every write is one transaction and durable when it returns. redb works synchronously; the trait's methods run it off the
//! async threads.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde_json::json;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;
use tailwater_api::state::JsonMap;
use tailwater_api::{Error, ErrorKind, Result};

use crate::state::{ConnectorStore, StoredConnector, TargetState};

/// Name → `{"config":{…},"target":"STARTED","file":…}`
const CONNECTORS: TableDefinition<&str, &str> = TableDefinition::new("connectors");
/// Sink, topic, partition → log, offset
const POSITIONS: TableDefinition<(&str, &str, u32), (&str, u64)> = TableDefinition::new("positions");

/// Positions of all sinks: by sink, then by topic and partition.
pub(crate) type Positions = HashMap<String, HashMap<(Arc<str>, u32), LogPosition>>;

/// The state of a worker with the embedded log. Cloning shares it.
#[derive(Clone)]
pub struct RedbStore {
    database: Arc<Database>,
    is_read_only: bool,
}

/// Memory that redb may use for pages: the state is small.
const CACHE: usize = 1024 * 1024;

fn failed(doing: &str, error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    use std::io::ErrorKind as Io;
    let (kind, mend) = match &error {
        redb::Error::DatabaseAlreadyOpen => {
            (ErrorKind::Conflict, Some("another worker has it open: stop that one, or give this one a data.dir of its own (--data-dir)"))
        }
        redb::Error::Corrupted(_) => (ErrorKind::Unreadable, None),
        redb::Error::Io(io) => match io.kind() {
            Io::NotFound => (ErrorKind::Missing, None),
            Io::NotADirectory | Io::AlreadyExists => (ErrorKind::Misconfigured, Some("name a directory by data.dir (--data-dir)")),
            Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Throttled, Some("free space on the volume of data.dir")),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => (
                ErrorKind::Unauthorised,
                Some("let the user of this process write to data.dir (chown), or name another directory (--data-dir)"),
            ),
            _ => (ErrorKind::Unreachable, None),
        },
        _ => (ErrorKind::Unreachable, None),
    };
    let error = Error::new(kind, doing).because(error);
    match mend {
        Some(mend) => error.mend(mend),
        None => error,
    }
}

impl RedbStore {
    /// Opens the state in `data_dir`, made if it is not there.
    ///
    /// # Errors
    /// `conflict` if another worker has it open, `unreadable` if it is damaged, errors of the file system.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let doing = format!("open the state in {}", data_dir.display());
        std::fs::create_dir_all(data_dir).map_err(|error| failed(&doing, redb::Error::Io(error)))?;
        let database = Builder::new().set_cache_size(CACHE).create(data_dir.join("state.redb")).map_err(|error| failed(&doing, error))?;
        let write = database.begin_write().map_err(|error| failed(&doing, error))?;
        write.open_table(CONNECTORS).map_err(|error| failed(&doing, error))?;
        write.open_table(POSITIONS).map_err(|error| failed(&doing, error))?;
        write.commit().map_err(|error| failed(&doing, error))?;
        Ok(Self { database: Arc::new(database), is_read_only: false })
    }

    /// Looks at the state as it is now, also while a worker has it open. A worker that was killed leaves a file that wants to be
    /// repaired; that is done in memory, and the file stays as it is.
    ///
    /// # Errors
    /// `missing` if there is none, `unreadable` if it is damaged.
    pub fn open_read_only(data_dir: &Path) -> Result<Self> {
        let doing = format!("read the state in {}", data_dir.display());
        let mut tries = 3;
        loop {
            tries -= 1;
            match copy(&data_dir.join("state.redb")) {
                Ok(database) => return Ok(Self { database: Arc::new(database), is_read_only: true }),
                Err(DatabaseError::Storage(redb::StorageError::Io(error))) => return Err(failed(&doing, redb::Error::Io(error))),
                // A worker may have written while the file was copied.
                Err(error) if tries == 0 => return Err(failed(&doing, error)),
                Err(_) => {}
            }
        }
    }

    fn begin_read(&self, doing: &str) -> Result<ReadTransaction> {
        self.database.begin_read().map_err(|error| failed(doing, error))
    }

    fn write(&self, doing: &str, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<()> {
        if self.is_read_only {
            return Err(Error::new(ErrorKind::Bug, doing).because("the state is open for reading only"));
        }
        let database = &self.database;
        let write = database.begin_write().map_err(|error| failed(doing, error))?;
        change(&write).map_err(|error| failed(doing, error))?;
        write.commit().map_err(|error| failed(doing, error))
    }

    /// Positions of all sinks. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn positions(&self) -> Result<Positions> {
        const DOING: &str = "read the positions of the sinks";
        let read = self.begin_read(DOING)?;
        let table = read.open_table(POSITIONS).map_err(|error| failed(DOING, error))?;
        let mut positions = Positions::new();
        for entry in table.iter().map_err(|error| failed(DOING, error))? {
            let (key, value) = entry.map_err(|error| failed(DOING, error))?;
            let ((group, topic, partition), (log, offset)) = (key.value(), value.value());
            let topic: Arc<str> = Arc::from(topic);
            let topic_partition = TopicPartition { topic: Arc::clone(&topic), partition };
            let position = LogPosition { log: Arc::from(log), topic_partition, offset };
            positions.entry(group.to_owned()).or_default().insert((topic, partition), position);
        }
        Ok(positions)
    }

    /// Keeps positions of a sink and forgets others, in one step. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn put_positions(&self, group: &str, positions: &[LogPosition], forgotten: &[TopicPartition]) -> Result<()> {
        self.write("keep the positions of a sink", |write| {
            let mut table = write.open_table(POSITIONS)?;
            for position in positions {
                let place = &position.topic_partition;
                table.insert((group, &*place.topic, place.partition), (&*position.log, position.offset))?;
            }
            for place in forgotten {
                table.remove((group, &*place.topic, place.partition))?;
            }
            Ok(())
        })
    }
}

fn copy(path: &Path) -> Result<Database, DatabaseError> {
    let octets = std::fs::read(path)?;
    let memory = InMemoryBackend::new();
    memory.set_len(octets.len() as u64)?;
    memory.write(0, &octets)?;
    Builder::new().set_cache_size(CACHE).create_with_backend(memory)
}

const TARGETS: [(TargetState, &str); 3] =
    [(TargetState::Running, "STARTED"), (TargetState::Paused, "PAUSED"), (TargetState::Stopped, "STOPPED")];

fn to_text(connector: &StoredConnector) -> String {
    let target = TARGETS.iter().find(|(state, _)| *state == connector.target).map_or("STARTED", |(_, text)| text);
    json!({"config": connector.config, "target": target, "file": connector.file}).to_string()
}

fn from_text(name: &str, text: &str) -> Result<StoredConnector> {
    let unreadable = |why: String| Error::new(ErrorKind::Unreadable, format!("read the stored connector {name}")).because(why);
    let mut stored: JsonMap = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let Some(serde_json::Value::Object(config)) = stored.remove("config") else {
        return Err(unreadable("it has no config".to_owned()));
    };
    let target = stored.get("target").and_then(serde_json::Value::as_str).unwrap_or_default();
    let target = TARGETS.iter().find(|(_, text)| *text == target).map(|(state, _)| *state);
    let target = target.ok_or_else(|| unreadable("its target state is unknown".to_owned()))?;
    let file = stored.get("file").and_then(serde_json::Value::as_str).map(str::to_owned);
    Ok(StoredConnector { name: name.to_owned(), config, target, file })
}

impl ConnectorStore for RedbStore {
    fn list(&self) -> BoxFuture<'_, Result<Vec<StoredConnector>>> {
        let store = self.clone();
        off_the_async_threads(move || {
            const DOING: &str = "read the stored connectors";
            let read = store.begin_read(DOING)?;
            let table = read.open_table(CONNECTORS).map_err(|error| failed(DOING, error))?;
            let mut connectors = Vec::new();
            for entry in table.iter().map_err(|error| failed(DOING, error))? {
                let (name, text) = entry.map_err(|error| failed(DOING, error))?;
                connectors.push(from_text(name.value(), text.value())?);
            }
            Ok(connectors)
        })
    }

    fn put(&self, connector: StoredConnector) -> BoxFuture<'_, Result<()>> {
        let store = self.clone();
        off_the_async_threads(move || {
            store.write("store a connector", |write| {
                write.open_table(CONNECTORS)?.insert(&*connector.name, &*to_text(&connector))?;
                Ok(())
            })
        })
    }

    fn remove(&self, name: &str) -> BoxFuture<'_, Result<()>> {
        let (store, name) = (self.clone(), name.to_owned());
        off_the_async_threads(move || {
            store.write("remove a connector", |write| {
                write.open_table(CONNECTORS)?.remove(&*name)?;
                Ok(())
            })
        })
    }
}

fn off_the_async_threads<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> BoxFuture<'static, Result<T>> {
    Box::pin(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(Error::new(ErrorKind::Bug, "use the state").because(error)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connectors_and_positions_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let config: JsonMap = serde_json::from_str(r#"{"b":"1","a":"${env:SECRET}"}"#).unwrap();
        let connector = StoredConnector { name: "copy".into(), config, target: TargetState::Paused, file: Some("copy.yaml".into()) };
        let topic_partition = TopicPartition { topic: "t".into(), partition: 3 };
        let position = LogPosition { log: "log".into(), topic_partition, offset: 7 };
        {
            let store = RedbStore::open(folder.path()).unwrap();
            store.put(connector.clone()).await.unwrap();
            let elsewhere = TopicPartition { topic: "t".into(), partition: 4 };
            store
                .put_positions("copy", &[position.clone(), LogPosition { topic_partition: elsewhere.clone(), ..position.clone() }], &[])
                .unwrap();
            store.put_positions("copy", &[], &[elsewhere]).unwrap();
        }
        let store = RedbStore::open(folder.path()).unwrap();
        assert_eq!(store.list().await.unwrap(), [connector]);
        assert_eq!(store.positions().unwrap()["copy"], HashMap::from([(("t".into(), 3), position)]));
        store.remove("copy").await.unwrap();
        assert_eq!(store.list().await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_state_of_a_running_or_killed_worker_can_be_looked_at_and_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let config = JsonMap::new();
        let connector = StoredConnector { name: "copy".into(), config, target: TargetState::Running, file: None };
        let store = RedbStore::open(folder.path()).unwrap();
        store.put(connector.clone()).await.unwrap();
        // What a kill leaves: the file as it is while it is open.
        let before = std::fs::read(folder.path().join("state.redb")).unwrap();
        let looked = RedbStore::open_read_only(folder.path()).unwrap();
        assert_eq!(looked.list().await.unwrap(), std::slice::from_ref(&connector));
        assert_eq!(looked.put(connector).await.unwrap_err().kind(), ErrorKind::Bug);
        assert_eq!(std::fs::read(folder.path().join("state.redb")).unwrap(), before);
        assert_eq!(RedbStore::open_read_only(&folder.path().join("none")).err().unwrap().kind(), ErrorKind::Missing);
    }

    #[test]
    fn a_second_worker_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _held = RedbStore::open(folder.path()).unwrap();
        assert_eq!(RedbStore::open(folder.path()).err().unwrap().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn what_keeps_the_state_from_opening_names_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = RedbStore::open(&file).err().unwrap();
        assert_eq!((error.kind(), error.remedy()), (ErrorKind::Misconfigured, Some("name a directory by data.dir (--data-dir)")));
        let _held = RedbStore::open(folder.path()).unwrap();
        let error = RedbStore::open(folder.path()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.remedy().unwrap().contains("a data.dir of its own"), "{error}");
        let denied = failed("open", redb::Error::Io(std::io::ErrorKind::PermissionDenied.into()));
        assert_eq!(denied.kind(), ErrorKind::Unauthorised);
        assert!(denied.remedy().unwrap().contains("--data-dir"), "{denied}");
    }
}
