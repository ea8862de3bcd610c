//! Targets, records and a stand-in for the daemon.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Row as _, TypeInfo as _};
use tailwater_api::config::{ConfigValues, read_config};
use tailwater_api::metrics::NoMetrics;
use tailwater_api::sink::{
    Assignment, DeadLetters, LogPosition, Progress, RecordBatch, SinkConnector, SinkContext, SinkRecord, SinkWriter,
};
use tailwater_api::{Error, Field, Kind, Record, Result, Schema, SchemaAndValue, TopicPartition, Value};
use tailwater_sql::config::SqlConfig;
use tailwater_sql::{SqlConnector, SqlWriter};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio::sync::{OnceCell, watch};

/// A database of a test's own.
pub(crate) enum Target {
    Sqlite(tempfile::TempDir),
    Postgres { url: String, database: String },
}

/// One server for all tests; each has a database in it. Its watchdog ends it with this process.
static SERVER: OnceCell<Option<PostgresServer>> = OnceCell::const_new();

pub(crate) async fn postgres(database: &str) -> Option<Target> {
    let start = || async { required_or_skip(PostgresServer::start(Version::V15, &[]).await) };
    let server = SERVER.get_or_init(start).await.as_ref()?;
    server.create_database(database).await.unwrap();
    Some(Target::Postgres { url: server.url(database), database: database.to_owned() })
}

pub(crate) fn sqlite() -> Target {
    Target::Sqlite(tempfile::tempdir().unwrap())
}

/// Both kinds of target, for what must hold on each.
pub(crate) async fn targets(database: &str) -> Vec<Target> {
    [Some(sqlite()), postgres(database).await].into_iter().flatten().collect()
}

impl Target {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}", directory.path().join("copy.db").display()),
            Self::Postgres { url, .. } => url.clone(),
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }

    pub(crate) async fn run(&self, sql: &str) {
        match self {
            Self::Sqlite(_) => {
                let options: sqlx::sqlite::SqliteConnectOptions = self.url().parse().unwrap();
                let mut connection = options.create_if_missing(true).connect().await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// Rows as text, columns parted by `|`, null as `-`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        let join = |cells: Vec<Option<String>>| cells.into_iter().map(|cell| cell.unwrap_or("-".into())).collect::<Vec<_>>().join("|");
        match self {
            Self::Sqlite(_) => {
                let options: sqlx::sqlite::SqliteConnectOptions = self.url().parse().unwrap();
                let mut connection = options.connect().await.unwrap();
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                let cell = |row: &sqlx::sqlite::SqliteRow, place: usize| {
                    use sqlx::ValueRef as _;
                    let value = row.try_get_raw(place).unwrap();
                    if value.is_null() {
                        return None;
                    }
                    let kind = value.type_info().name().to_owned();
                    Some(match kind.as_str() {
                        "INTEGER" | "BOOLEAN" => row.get_unchecked::<i64, _>(place).to_string(),
                        "REAL" => format!("{:?}", row.get_unchecked::<f64, _>(place)),
                        "BLOB" => format!("{:02x?}", row.get_unchecked::<Vec<u8>, _>(place)),
                        _ => row.get_unchecked::<String, _>(place),
                    })
                };
                rows.iter().map(|row| join((0..row.columns().len()).map(|place| cell(row, place)).collect())).collect()
            }
            Self::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                // A derived table whose columns are all text: the server renders the values.
                let described = sqlx::query(AssertSqlSafe(format!("SELECT * FROM ({sql}) AS q"))).fetch_all(&mut connection).await.unwrap();
                let Some(first) = described.first() else { return Vec::new() };
                let columns: Vec<String> = first.columns().iter().map(|column| format!("q.\"{}\"::text", column.name())).collect();
                let rows = sqlx::query(AssertSqlSafe(format!("SELECT {} FROM ({sql}) AS q", columns.join(", "))));
                let rows = rows.fetch_all(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                rows.iter().map(|row| join((0..row.columns().len()).map(|place| row.get(place)).collect())).collect()
            }
        }
    }
}

/// A sink as the daemon runs it, without the daemon.
pub(crate) struct Sink {
    pub(crate) writer: SqlWriter,
    pub(crate) dead: Arc<Dead>,
    pub(crate) next: u64,
    topics: Vec<Arc<str>>,
    _stop: watch::Sender<bool>,
}

pub(crate) const LOG: &str = "6f1c3a52-log";

/// Keeps what is rejected, or refuses to.
#[derive(Default)]
pub(crate) struct Dead {
    pub(crate) letters: Mutex<Vec<(u64, String)>>,
    pub(crate) stops: std::sync::atomic::AtomicBool,
}

impl DeadLetters for Dead {
    fn reject<'a>(&'a self, record: &'a SinkRecord, error: Error) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.stops.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(error);
            }
            self.letters.lock().unwrap().push((record.offset, format!("{error:?}")));
            Ok(())
        })
    }
}

impl Dead {
    pub(crate) fn offsets(&self) -> Vec<u64> {
        self.letters.lock().unwrap().iter().map(|(offset, _)| *offset).collect()
    }
}

pub(crate) fn config(url: &str, entries: &[(&str, &str)]) -> SqlConfig {
    let all: ConfigValues = [("connection.url", url), ("flush.retry.delay.ms", "20")].iter().chain(entries).copied().collect();
    read_config(&all).map_err(|report| format!("{report:?}")).unwrap().0
}

/// Upsert by the record's key, deletes and truncates applied, tables created.
pub(crate) const UPSERT: &[(&str, &str)] = &[
    ("insert.mode", "upsert"),
    ("primary.key.mode", "record_key"),
    ("delete.enabled", "true"),
    ("truncate.enabled", "true"),
    ("schema.evolution", "basic"),
];

impl Sink {
    pub(crate) async fn open(url: &str, entries: &[(&str, &str)], topics: &[&str]) -> Result<Self> {
        let dead = Arc::new(Dead::default());
        let (stop, stopped) = watch::channel(false);
        let context = SinkContext::new("copy".into(), 0, Arc::clone(&dead) as _, stopped, Arc::new(NoMetrics));
        let mut writer = SqlConnector::open(config(url, entries), context).await?;
        let topics: Vec<Arc<str>> = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let assignments: Vec<_> = topics.iter().map(|topic| Assignment { topic_partition: place(topic), log: LOG.into() }).collect();
        let positions = writer.assign(&assignments).await?;
        let next = positions.iter().map(|position| position.offset).max().unwrap_or(0);
        Ok(Self { writer, dead, next, topics, _stop: stop })
    }

    /// Writes records as one batch; offsets go on from batch to batch.
    pub(crate) async fn write(&mut self, records: Vec<Record>) -> Result<Progress> {
        let batch = self.batch(records);
        let progress = self.writer.write(&batch).await?;
        self.next = batch.next[0].offset;
        Ok(progress)
    }

    pub(crate) fn batch(&self, records: Vec<Record>) -> RecordBatch {
        let count = records.len() as u64;
        let stored = |(record, offset): (Record, u64)| SinkRecord { topic: Arc::clone(&record.topic), partition: 0, offset, record };
        let records = records.into_iter().zip(self.next..).map(stored);
        let next = |topic: &Arc<str>| LogPosition { log: LOG.into(), topic_partition: place(topic), offset: self.next + count };
        RecordBatch { records: records.collect(), next: self.topics.iter().map(next).collect() }
    }
}

pub(crate) fn place(topic: &Arc<str>) -> TopicPartition {
    TopicPartition { topic: Arc::clone(topic), partition: 0 }
}

/// A captured table: its topic and schemas.
pub(crate) struct Captured {
    pub(crate) topic: Arc<str>,
    key: Option<Arc<Schema>>,
    pub(crate) row: Arc<Schema>,
    envelope: Arc<Schema>,
}

pub(crate) fn optional(kind: Kind) -> Arc<Schema> {
    Schema::of(kind).optional().build()
}

impl Captured {
    /// The first column is the key.
    pub(crate) fn new(topic: &str, columns: Vec<(&str, Arc<Schema>)>) -> Self {
        let key = Schema::structure(vec![Field::new(columns[0].0, Arc::clone(&columns[0].1))]).name(format!("{topic}.Key")).build();
        Self { key: Some(key), ..Self::without_key(topic, columns) }
    }

    pub(crate) fn without_key(topic: &str, columns: Vec<(&str, Arc<Schema>)>) -> Self {
        let fields = columns.into_iter().map(|(name, schema)| Field::new(name, schema)).collect();
        let row = Schema::structure(fields).name(format!("{topic}.Value")).optional().build();
        let source = Schema::structure(vec![Field::new("schema", optional(Kind::String)), Field::new("table", optional(Kind::String))]);
        let envelope = Schema::structure(vec![
            Field::new("before", Arc::clone(&row)),
            Field::new("after", Arc::clone(&row)),
            Field::new("source", source.name("io.debezium.connector.postgresql.Source").build()),
            Field::new("op", Schema::of(Kind::String).build()),
        ]);
        Self { topic: topic.into(), key: None, row, envelope: envelope.name(format!("{topic}.Envelope")).version(2).build() }
    }

    /// `id`, an integer key, and two texts.
    pub(crate) fn orders() -> Self {
        let id = Schema::of(Kind::Int32).build();
        Self::new("shop.public.orders", vec![("id", id), ("note", optional(Kind::String)), ("body", optional(Kind::String))])
    }

    fn event(&self, op: &str, key: Option<Value>, before: Value, after: Value) -> Record {
        let source = Value::Struct(vec!["public".into(), "orders".into()].into());
        let value = Value::Struct(vec![before, after, source, op.into()].into());
        Record::new(Arc::clone(&self.topic), self.key_of(key), SchemaAndValue::new(Arc::clone(&self.envelope), value))
    }

    fn key_of(&self, key: Option<Value>) -> SchemaAndValue {
        match (&self.key, key) {
            (Some(schema), Some(key)) => SchemaAndValue::new(Arc::clone(schema), Value::Struct(vec![key].into())),
            _ => SchemaAndValue::NONE,
        }
    }

    pub(crate) fn create(&self, values: Vec<Value>) -> Record {
        self.event("c", Some(values[0].clone()), Value::Null, Value::Struct(values.into()))
    }

    pub(crate) fn update(&self, values: Vec<Value>) -> Record {
        self.event("u", Some(values[0].clone()), Value::Null, Value::Struct(values.into()))
    }

    pub(crate) fn delete(&self, key: Value) -> Record {
        let mut before = vec![Value::NotInIdentity; self.row.fields().len()];
        before[0] = key.clone();
        self.event("d", Some(key), Value::Struct(before.into()), Value::Null)
    }

    pub(crate) fn tombstone(&self, key: Value) -> Record {
        Record::new(Arc::clone(&self.topic), self.key_of(Some(key)), SchemaAndValue::NONE)
    }

    pub(crate) fn truncate(&self) -> Record {
        self.event("t", None, Value::Null, Value::Null)
    }

    pub(crate) fn message(&self) -> Record {
        self.event("m", None, Value::Null, Value::Null)
    }

    /// The row alone, as `ExtractNewRecordState` leaves it.
    pub(crate) fn flat(&self, values: Vec<Value>) -> Record {
        let key = self.key_of(Some(values[0].clone()));
        Record::new(Arc::clone(&self.topic), key, SchemaAndValue::new(Arc::clone(&self.row), Value::Struct(values.into())))
    }
}

pub(crate) fn id(value: i32) -> Value {
    Value::Int32(value)
}
