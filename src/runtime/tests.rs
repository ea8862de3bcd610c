//! Whole connectors on the doubles. Connectors' names differ from test to test, since scripted ones are told apart by them.

mod lifecycle;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tailwater_api::config::ConfigValues;
use tailwater_api::record::{Record, SchemaAndValue, TopicPartition};
use tailwater_api::sink::LogPosition;
use tailwater_api::state::JsonMap;

use crate::config::providers::Providers;
use crate::runtime::offsets::Offsets;
use crate::runtime::testing::{MemoryLog, MemoryStore, MemoryTopics, Nobody, deed, deeds};
use crate::runtime::worker::{Refused, Restart, RunState, Worker, WorkerOptions, WorkerParts};
use crate::state::redb::RedbStore;
use crate::state::{ConnectorStore, StoredConnector, TargetState};
use crate::topics::TopicLog;
use crate::topics::embedded::{EmbeddedLog, EmbeddedOptions};

struct House {
    log: Arc<MemoryLog>,
    store: Arc<MemoryStore>,
}

impl House {
    fn new() -> Self {
        Self { log: MemoryLog::new(), store: Arc::default() }
    }

    async fn worker(&self) -> Worker {
        self.worker_with(1 << 20, Duration::from_secs(5)).await
    }

    async fn worker_with(&self, memory_budget: usize, shutdown_timeout: Duration) -> Worker {
        let topics = Arc::new(MemoryTopics(Arc::clone(&self.log)));
        worker_on(topics, Arc::clone(&self.store) as _, memory_budget, shutdown_timeout).await
    }

    async fn fill(&self, topic: &str, count: usize) {
        let record = Record::new(topic.into(), SchemaAndValue::NONE, SchemaAndValue::NONE);
        MemoryTopics(Arc::clone(&self.log)).append(vec![record; count]).await.unwrap();
    }
}

async fn worker_on(topics: Arc<dyn TopicLog>, store: Arc<dyn ConnectorStore>, memory_budget: usize, shutdown_timeout: Duration) -> Worker {
    let (data_dir, defaults) = (PathBuf::new(), ConfigValues::default());
    let options = WorkerOptions { data_dir, memory_budget, shutdown_timeout, defaults, worker_id: "127.0.0.1:8083".into() };
    let parts = WorkerParts { topics, store, providers: Providers::default(), metrics: Arc::new(Nobody) };
    Worker::start_with(options, parts).await.unwrap()
}

fn config(entries: &[(&str, &str)]) -> JsonMap {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
}

fn generator(topic: &str, rows: u64) -> JsonMap {
    config(&[("connector.class", "generator"), ("generator.topics", topic), ("generator.rows", &rows.to_string())])
}

fn sink(topic: &str, more: &[(&str, &str)]) -> JsonMap {
    let mut entries = config(&[("connector.class", "scripted-sink"), ("topics", topic), ("offset.flush.interval.ms", "20")]);
    entries.extend(config(more));
    entries
}

async fn create(worker: &Worker, name: &str, config: JsonMap) {
    worker.create(name, config, TargetState::Running, None).await.unwrap();
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to pass that {what}");
}

async fn task_state(worker: &Worker, name: &str) -> (RunState, String) {
    let task = worker.get(name).await.unwrap().tasks.remove(0);
    (task.state, task.trace.unwrap_or_default())
}

async fn eventually_failed(worker: &Worker, name: &str) -> String {
    eventually("the task failed", async || task_state(worker, name).await.0 == RunState::Failed).await;
    task_state(worker, name).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_generated_record_reaches_the_sink_once_and_positions_follow() {
    let house = House::new();
    let worker = house.worker().await;
    create(&worker, "whole-source", generator("whole", 5000)).await;
    create(&worker, "whole-sink", sink("whole", &[])).await;
    eventually("all is written", async || deeds("whole-sink").written.len() == 5000).await;
    assert_eq!(deeds("whole-sink").written, (0..5000).collect::<Vec<_>>());
    eventually("positions are kept", async || house.log.committed_offset("whole-sink", "whole") == Some(5000)).await;
    let Offsets::Source(state) = worker.offsets("whole-source").await.unwrap() else { panic!("a source has a state") };
    assert_eq!(state.iter().next().unwrap().1["sequence"], 5000);
    assert_eq!(worker.get("whole-source").await.unwrap().topics, ["whole"]);
    assert_eq!(worker.get("whole-sink").await.unwrap().topics, ["whole"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_only_what_is_durable_is_confirmed() {
    let house = House::new();
    house.log.hold_durability.send_replace(true);
    let worker = house.worker().await;
    create(&worker, "confirms", config(&[("connector.class", "scripted-source")])).await;
    eventually("it runs", async || deeds("confirms").runs == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(deeds("confirms").confirmed, 0);
    house.log.release();
    eventually("it is confirmed", async || deeds("confirms").confirmed == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_refused_record_stops_the_task_before_its_position_passes() {
    let house = House::new();
    house.fill("refused", 10).await;
    let worker = house.worker().await;
    create(&worker, "refuses", sink("refused", &[("script.reject.offset", "4")])).await;
    let trace = eventually_failed(&worker, "refuses").await;
    assert!(trace.starts_with("rejected: ") && trace.contains("\tto mend it: ") && trace.contains("errors.tolerance=all"), "{trace}");
    assert_eq!(house.log.committed_offset("refuses", "refused"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_refused_record_is_kept_as_a_dead_letter_and_the_rest_goes_on() {
    let house = House::new();
    house.fill("letters", 10).await;
    let worker = house.worker().await;
    let tolerant = [
        ("script.reject.offset", "4"),
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "dead"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
    ];
    create(&worker, "keeps", sink("letters", &tolerant)).await;
    eventually("the rest is kept", async || house.log.committed_offset("keeps", "letters") == Some(10)).await;
    let letters = house.log.records("dead");
    let headers: Vec<_> = letters[0].headers.iter().map(|header| (&*header.name, header.value.value.as_text().unwrap())).collect();
    assert_eq!(letters.len(), 1);
    assert!(headers.starts_with(&[
        ("__connect.errors.topic", "letters"),
        ("__connect.errors.partition", "0"),
        ("__connect.errors.offset", "4")
    ]));
    assert!(headers.contains(&("__connect.errors.stage", "TASK_PUT")));
    assert!(headers.contains(&("__connect.errors.exception.class.name", "io.tailwater.errors.rejected")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tolerated_record_without_a_dead_letter_topic_is_dropped_and_positions_move_on() {
    let house = House::new();
    house.fill("dropped", 3).await;
    let worker = house.worker().await;
    create(&worker, "drops", sink("dropped", &[("script.reject.offset", "1"), ("errors.tolerance", "all")])).await;
    eventually("positions move on", async || house.log.committed_offset("drops", "dropped") == Some(3)).await;
    assert_eq!(deeds("drops").written, [0, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_records_count_only_after_a_flush_and_a_full_buffer_flushes_at_once() {
    let house = House::new();
    house.fill("accepted", 10).await;
    let worker = house.worker().await;
    create(&worker, "accepts", sink("accepted", &[("script.behaviour", "accepted"), ("offset.flush.interval.ms", "600000")])).await;
    create(&worker, "overflows", sink("accepted", &[("script.behaviour", "large-buffer"), ("offset.flush.interval.ms", "600000")])).await;
    eventually("the full buffer is flushed", async || house.log.committed_offset("overflows", "accepted") == Some(10)).await;
    eventually("the other wrote", async || deeds("accepts").written.len() == 10).await;
    assert_eq!((deeds("accepts").flushes, house.log.committed_offset("accepts", "accepted")), (0, None));
    worker.shutdown().await;
    assert_eq!((deeds("accepts").flushes, deeds("accepts").closed), (1, 1), "a shutdown drains");
    assert_eq!(house.log.committed_offset("accepts", "accepted"), Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_in_the_target_win_over_ours() {
    let house = House::new();
    house.fill("target", 10).await;
    let topic_partition = TopicPartition { topic: "target".into(), partition: 0 };
    let position = |offset| LogPosition { log: "memory".into(), topic_partition: topic_partition.clone(), offset };
    house.log.commit("holds", position(2));
    deed("holds", |deeds| deeds.held.insert(topic_partition.clone(), position(7)));
    let worker = house.worker().await;
    create(&worker, "holds", sink("target", &[("script.behaviour", "position")])).await;
    eventually("it caught up", async || house.log.committed_offset("holds", "target") == Some(10)).await;
    assert_eq!(deeds("holds").written, [7, 8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_learns_of_a_position_that_only_the_target_holds() {
    let house = House::new();
    house.fill("quiet", 10).await;
    let topic_partition = TopicPartition { topic: "quiet".into(), partition: 0 };
    let end = LogPosition { log: "memory".into(), topic_partition: topic_partition.clone(), offset: 10 };
    deed("ahead", |deeds| deeds.held.insert(topic_partition, end));
    let worker = house.worker().await;
    create(&worker, "ahead", sink("quiet", &[("script.behaviour", "position")])).await;
    eventually("retention knows", async || house.log.committed_offset("ahead", "quiet") == Some(10)).await;
    assert!(deeds("ahead").written.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lost_its_position_is_written_from_the_beginning() {
    let house = House::new();
    house.fill("emptied", 10).await;
    let topic_partition = TopicPartition { topic: "emptied".into(), partition: 0 };
    house.log.commit("refills", LogPosition { log: "memory".into(), topic_partition, offset: 7 });
    let worker = house.worker().await;
    create(&worker, "refills", sink("emptied", &[("connector.class", "keeping-sink"), ("script.behaviour", "position")])).await;
    eventually("it caught up", async || house.log.committed_offset("refills", "emptied") == Some(10)).await;
    assert_eq!(deeds("refills").written, (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_keeps_the_positions_of_records_that_transforms_dropped_too() {
    let house = House::new();
    house.fill("dropped", 10).await;
    let worker = house.worker().await;
    let drops = [
        ("connector.class", "keeping-sink"),
        ("script.behaviour", "position"),
        ("transforms", "unwrap"),
        ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState"),
        ("transforms.unwrap.delete.tombstone.handling.mode", "drop"),
    ];
    create(&worker, "remembers", sink("dropped", &drops)).await;
    eventually("the target knows", async || deeds("remembers").held.values().any(|held| held.offset == 10)).await;
    assert!(deeds("remembers").written.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_beyond_the_log_stops_the_sink_and_skips_nothing() {
    let house = House::new();
    house.fill("short", 3).await;
    let topic_partition = TopicPartition { topic: "short".into(), partition: 0 };
    let beyond = LogPosition { log: "memory".into(), topic_partition: topic_partition.clone(), offset: 9 };
    deed("beyond", |deeds| deeds.held.insert(topic_partition, beyond));
    let worker = house.worker().await;
    create(&worker, "beyond", sink("short", &[])).await;
    let trace = eventually_failed(&worker, "beyond").await;
    assert!(trace.starts_with("history-gone: ") && !trace.contains("next try"), "{trace}");
    assert!(deeds("beyond").written.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_to_be_written_is_delivered_again() {
    let house = House::new();
    house.fill("again", 10).await;
    let worker = house.worker().await;
    create(&worker, "reopens", sink("again", &[("script.failing.runs", "2"), ("retriable.restart.connector.wait.ms", "10")])).await;
    eventually("all is written", async || deeds("reopens").written.len() == 10).await;
    assert_eq!(deeds("reopens").runs, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_stalled_sink_starves_nobody() {
    let house = House::new();
    let worker = house.worker_with(200_000, Duration::from_millis(100)).await;
    create(&worker, "starve-source", generator("starve", 20_000)).await;
    create(&worker, "starve-stalled", sink("starve", &[("script.behaviour", "stall")])).await;
    create(&worker, "starve-sink", sink("starve", &[])).await;
    eventually("the other sink has everything", async || deeds("starve-sink").written.len() == 20_000).await;
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_log_that_holds_appends_does_not_keep_a_stop_from_being_heard() {
    let house = House::new();
    let worker = house.worker_with(1 << 20, Duration::from_millis(200)).await;
    house.log.hold_appends.send_replace(true);
    create(&worker, "held", generator("held", 100_000)).await;
    eventually("it runs", async || task_state(&worker, "held").await.0 == RunState::Running).await;
    worker.shutdown().await;
    assert!(house.log.records("held").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_fails_at_every_other_write_delivers_everything_once_in_order() {
    let house = House::new();
    let worker = house.worker_with(50_000, Duration::from_secs(5)).await;
    create(&worker, "often-source", generator("often", 3000)).await;
    create(&worker, "often", sink("often", &[("script.behaviour", "fails-often"), ("retriable.restart.connector.wait.ms", "1")])).await;
    eventually("all is written", async || deeds("often").written.len() >= 3000).await;
    assert_eq!(deeds("often").written, (0..3000).collect::<Vec<_>>());
    assert!(deeds("often").runs > 3, "it did fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_hold_every_record_once_however_often_the_worker_dies() {
    const ROWS: u64 = 20_000;
    let (house, folder) = (House::new(), tempfile::tempdir().unwrap());
    let path = folder.path().to_str().unwrap();
    let entries = [
        ("connector.class", "file"),
        ("topics", "dies"),
        ("path", path),
        ("json.content", "value"),
        ("rotate.bytes", "50000"),
        ("offset.flush.interval.ms", "5"),
        ("retriable.restart.connector.wait.ms", "5"),
    ];
    let mut worker = house.worker_with(100_000, Duration::ZERO).await;
    let mut source = generator("dies", ROWS);
    source.extend(config(&[("generator.shape", "flat"), ("generator.rate", "20000")]));
    create(&worker, "dies-source", source).await;
    create(&worker, "dies-sink", config(&entries)).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Without time to drain, every task is ended where it stands.
        worker.shutdown().await;
        worker = house.worker_with(100_000, Duration::ZERO).await;
    }
    eventually("all positions are kept", async || house.log.committed_offset("dies-sink", "dies") == Some(ROWS)).await;
    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
    files.sort();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let ids: Vec<u64> = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap()).collect();
    assert!(files.len() > 10 && ids.iter().copied().eq(0..ROWS), "{} files, {} rows", files.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_through_the_converters_of_its_source() {
    let house = House::new();
    let worker = house.worker().await;
    let mut source = generator("reads", 3);
    source.extend(config(&[
        ("generator.shape", "flat"),
        ("generator.payload.bytes", "3"),
        ("key.converter", "json"),
        ("key.converter.schemas.enable", "false"),
        ("value.converter", "json"),
        ("value.converter.schemas.enable", "false"),
    ]));
    create(&worker, "reads", source).await;
    eventually("all is there", async || house.log.records("reads").len() == 3).await;
    let mut reader = worker.topic_reader("reads".to_owned(), 0).await.unwrap();
    let read = reader.read(1, 1).await.unwrap();
    let (stored, converted) = &read[0];
    assert_eq!((read.len(), stored.offset), (1, 1));
    assert_eq!(converted.key.as_deref(), Some(&b"{\"id\":1}"[..]));
    assert_eq!(converted.value.as_deref(), Some(&b"{\"id\":1,\"payload\":\"he \"}"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_topic_is_given_what_comes_and_let_go_when_the_worker_stops() {
    let house = House::new();
    house.fill("followed", 10).await;
    let worker = house.worker().await;
    let mut reader = worker.topic_reader("followed".to_owned(), 0).await.unwrap();
    assert_eq!(reader.follow(0, 100).await.unwrap().len(), 10);
    let (more, ()) = tokio::join!(reader.follow(10, 100), house.fill("followed", 1));
    assert_eq!(more.unwrap()[0].0.offset, 10);
    let (end, ()) = tokio::join!(reader.follow(11, 100), worker.shutdown());
    assert_eq!(end.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_sink_whose_transforms_drop_everything_still_moves_on() {
    let house = House::new();
    house.fill("filtered", 10).await;
    let worker = house.worker().await;
    let drops = [
        ("transforms", "unwrap"),
        ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState"),
        ("transforms.unwrap.delete.tombstone.handling.mode", "drop"),
    ];
    create(&worker, "filters", sink("filtered", &drops)).await;
    eventually("its positions move", async || house.log.committed_offset("filters", "filtered") == Some(10)).await;
    assert!(deeds("filters").written.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_the_record_as_it_stood_on_its_topic() {
    let house = House::new();
    for topic in ["before_1", "before_2"] {
        let value = SchemaAndValue { schema: None, value: topic.into() };
        let record = Record::new(topic.into(), SchemaAndValue::NONE, value);
        MemoryTopics(Arc::clone(&house.log)).append(vec![record; 6]).await.unwrap();
    }
    let worker = house.worker().await;
    // Two topics become one: topic, partition and offset as the target sees them name two records.
    let routes = [
        ("transforms", "route"),
        ("transforms.route.type", "org.apache.kafka.connect.transforms.RegexRouter"),
        ("transforms.route.regex", "before_.*"),
        ("transforms.route.replacement", "after"),
        ("script.reject.offset", "4"),
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "dead-routes"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
    ];
    create(&worker, "routes", sink("before_1,before_2", &routes)).await;
    for topic in ["before_1", "before_2"] {
        eventually("its positions move", async || house.log.committed_offset("routes", topic) == Some(6)).await;
    }
    let letters = house.log.records("dead-routes");
    let mut stood_in: Vec<_> = letters.iter().map(|letter| letter.value.value.as_text().unwrap()).collect();
    stood_in.sort_unstable();
    assert_eq!(stood_in, ["before_1", "before_2"]);
    for letter in &letters {
        let named = &letter.headers.last("__connect.errors.topic").unwrap().value.value;
        assert_eq!(named.as_text(), letter.value.value.as_text());
    }
}

/// The same promises on the log that is shipped: a worker that dies without draining, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_log_files_hold_every_record_once_however_often_the_worker_dies() {
    const ROWS: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let open = async || {
        // Tasks that were ended let go of the data directory at their next await.
        let mut opened = None;
        eventually("the data directory is free", async || {
            let Ok(store) = RedbStore::open(folder.path()) else { return false };
            opened = EmbeddedLog::open(folder.path(), EmbeddedOptions::default(), store.clone()).ok().map(|topics| (topics, store));
            opened.is_some()
        })
        .await;
        let (topics, store) = opened.unwrap();
        worker_on(Arc::new(topics), Arc::new(store), 100_000, Duration::ZERO).await
    };
    let mut worker = open().await;
    let mut source = generator("embedded", ROWS);
    source.extend(config(&[("generator.shape", "flat"), ("generator.rate", "20000")]));
    create(&worker, "embedded-source", source).await;
    let entries = [
        ("connector.class", "file"),
        ("topics", "embedded"),
        ("path", out.to_str().unwrap()),
        ("json.content", "value"),
        ("offset.flush.interval.ms", "5"),
        ("retriable.restart.connector.wait.ms", "5"),
    ];
    create(&worker, "embedded-sink", config(&entries)).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(80)).await;
        worker.shutdown().await;
        drop(worker);
        worker = open().await;
    }
    eventually("all positions are kept", async || {
        let Ok(Offsets::Sink(positions)) = worker.offsets("embedded-sink").await else { return false };
        positions.first().is_some_and(|position| position.offset == ROWS)
    })
    .await;
    let entries = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
    files.sort();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let ids: Vec<u64> = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap()).collect();
    assert!(ids.iter().copied().eq(0..ROWS), "{} rows", ids.len());
}
