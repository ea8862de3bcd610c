//! What sinks read, in which groups, and where they go on.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_goes_on_behind_what_it_committed() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    write(&log, "t", 0..10).await;
    let mut reader = log.reader(&sink("copy"), topics(&["t", "later"])).await.unwrap();
    assert_eq!(assigned(&mut *reader).await[0].topic_partition.topic, Arc::from("t"));
    let (values, places) = take(&mut *reader, 10).await;
    assert_eq!(values, numbers(0..10));
    reader.commit(places.clone()).await.unwrap();
    assert_eq!(log.committed(&"copy".into()).await.unwrap(), places);
    drop(reader);
    write(&log, "t", 10..15).await;
    let mut reader = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    assigned(&mut *reader).await;
    assert_eq!(take(&mut *reader, 5).await.0, numbers(10..15));
    assert_eq!(log.used_by("copy", None)[0].0, Arc::from("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_partition_is_as_far_behind_as_its_committed_position_says() {
    let cluster = mock();
    cluster.create_topic("t", 2, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let in_partition = async |partition, values: std::ops::Range<u32>| {
        let mut writer = log.writer(&"shop".into()).await.unwrap();
        let record = |number: u32| Record { partition: Some(partition), ..text("t", "k", &number.to_string()) };
        writer.append(1, SourceBatch { records: values.map(record).collect(), ..SourceBatch::default() }).await.unwrap();
        writer.close().await.unwrap();
    };
    in_partition(0, 0..10).await;
    let mut reader = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    assigned(&mut *reader).await;
    let (_, places) = take(&mut *reader, 10).await;
    reader.commit(places).await.unwrap();
    drop(reader);
    in_partition(1, 0..3).await;
    let mut reader = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    assert_eq!(assigned(&mut *reader).await.len(), 2);
    // It begins to read, and nothing of it is handed out.
    assert!(reader.poll(1 << 20).now_or_never().is_none());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while reader.lag() != 3 {
        assert!(tokio::time::Instant::now() < deadline, "{} behind", reader.lag());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_a_pattern_that_tries_too_much_ends_the_task_and_says_so() {
    let cluster = mock();
    cluster.create_topic(&"ab".repeat(40), 1, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let pattern = tailwater_kit::java_regex::JavaRegex::new("(a|b|ab)*(?=c)(a|b|ab)*d").unwrap();
    let mut reader = log.reader(&sink("copy"), Subscription::Pattern(Box::new(pattern))).await.unwrap();
    let polled = tokio::time::timeout(Duration::from_secs(60), reader.poll(1 << 20)).await.expect("the reader says something");
    let error = polled.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error:?}");
    assert!(error.to_string().contains("topics.regex") && error.remedy().is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_own_position_wins_and_another_history_is_refused() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    write(&log, "t", 0..10).await;
    let mut reader = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    let Assignment { topic_partition, log: id } = assigned(&mut *reader).await.remove(0);
    let at = |log: &str, offset| LogPosition { log: Arc::from(log), topic_partition: topic_partition.clone(), offset };
    assert_eq!(reader.seek(at("another", 7)).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    assert_eq!(reader.seek(at(&id, 11)).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    reader.seek(at(&id, 7)).await.unwrap();
    assert_eq!(take(&mut *reader, 3).await.0, numbers(7..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_converter_reads_comes_alone_with_its_bytes() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = vec![text("t", "1", "1"), text("t", "2", "{no json"), text("t", "3", "3")];
    writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    writer.close().await.unwrap();
    let mut reader = log.reader(&"copy".into(), topics(&["t"])).await.unwrap();
    assigned(&mut *reader).await;
    let Polled::Records(batch) = next(&mut *reader).await else { panic!("records") };
    assert_eq!(batch.records[0].record.value.value, Value::Int64(1));
    let Polled::Unreadable(unreadable) = next(&mut *reader).await else { panic!("the unreadable record") };
    assert_eq!(unreadable.error.kind(), ErrorKind::Unreadable);
    assert_eq!((unreadable.record.offset, unreadable.next.offset), (1, 2));
    assert_eq!(unreadable.record.record.value.value, Value::Bytes("{no json".into()));
    let Polled::Records(batch) = next(&mut *reader).await else { panic!("records") };
    assert_eq!(batch.records[0].record.value.value, Value::Int64(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_unknown_values_come_through_with_and_without_schemas() {
    use tailwater_api::{Field, Kind, Schema};
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let text = || Schema::of(Kind::String).optional().build();
    let schema =
        Schema::structure(vec![Field::new("note", text()), Field::new("amount", Schema::of(Kind::Int32).optional().build())]).build();
    let value = Value::Struct(Box::new([Value::Unchanged, Value::NotInIdentity]));
    let record = Record::new(Arc::from("t"), SchemaAndValue::NONE, SchemaAndValue::new(schema, value.clone()));
    for (number, schemas) in [(1, "true"), (2, "false")] {
        let config = [("value.converter", "json"), ("value.converter.schemas.enable", schemas)];
        let user = LogUser { config: Arc::new(config.into_iter().collect()), ..LogUser::from(schemas) };
        let mut writer = log.writer(&user).await.unwrap();
        writer.append(1, SourceBatch { records: vec![record.clone()], ..SourceBatch::default() }).await.unwrap();
        writer.close().await.unwrap();
        let mut reader = log.reader(&user, topics(&["t"])).await.unwrap();
        let Assignment { topic_partition, log: id } = assigned(&mut *reader).await.remove(0);
        reader.seek(LogPosition { log: id, topic_partition, offset: number - 1 }).await.unwrap();
        let Polled::Records(batch) = next(&mut *reader).await else { panic!("records") };
        let read = &batch.records[0].record;
        assert!(read.headers.as_slice().is_empty(), "the header is ours alone");
        match schemas {
            "true" => assert_eq!(read.value.value, value),
            _ => {
                let entries = [("note".into(), Value::Unchanged), ("amount".into(), Value::NotInIdentity)];
                assert_eq!(read.value.value, Value::Map(Box::new(entries)));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_moves_only_after_its_task_has_given_it_up() {
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let (log, _) = opened(&broker.bootstrap_servers(), true).await;
    let config = [("topic.creation.default.partitions", "2"), ("topic.creation.default.replication.factor", "1")];
    let source = LogUser { config: Arc::new(config.into_iter().collect()), ..LogUser::from("shop") };
    let mut writer = log.writer(&source).await.unwrap();
    let both = |number: u32| {
        (0..2).map(|partition| Record { partition: Some(partition), ..text("t", "k", &format!("{partition}-{number}")) }).collect()
    };
    writer.append(1, SourceBatch { records: both(1), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 1).await.unwrap();

    let mut first = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    assert_eq!(assigned(&mut *first).await.len(), 2);
    let mut places = BTreeMap::new();
    while places.len() < 2 {
        let Polled::Records(batch) = next(&mut *first).await else { panic!("records") };
        places.extend(batch.next.into_iter().map(|position| (position.topic_partition.partition, position)));
    }

    let mut second = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    // The second asks to join; the first is told, and answers after it has committed.
    let (moved, _) = tokio::join!(
        async {
            loop {
                match next(&mut *first).await {
                    Polled::Revoked(gone) => {
                        first.commit(places.values().cloned().collect()).await.unwrap();
                        let _ = tokio::time::timeout(Duration::from_secs(2), first.poll(1 << 20)).await;
                        return gone;
                    }
                    Polled::Assigned(_) => {}
                    other => panic!("a revocation, not {other:?}"),
                }
            }
        },
        async {
            let taken = assigned(&mut *second).await;
            assert_eq!(taken.len(), 1);
        }
    );
    assert_eq!(moved.len(), 1, "a cooperative group moves what it must");
    writer.append(2, SourceBatch { records: both(2), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 2).await.unwrap();
    let mut read = take(&mut *second, 1).await.0;
    read.extend(take(&mut *first, 1).await.0);
    read.sort();
    assert_eq!(read, ["0-2", "1-2"], "each new record once, and no old one");

    drop((first, second));
    let place = |partition| TopicPartition { topic: Arc::from("t"), partition };
    // Members that were dropped leave in the background.
    let mut tries = 0;
    while let Err(error) = log.move_positions(&"copy".into(), vec![(place(0), Some(1)), (place(1), None)]).await {
        tries += 1;
        assert!(tries < 50, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let committed = log.committed(&"copy".into()).await.unwrap();
    assert_eq!(committed.iter().map(|position| (position.topic_partition.partition, position.offset)).collect::<Vec<_>>(), [(0, 1)]);
    let beyond = log.move_positions(&"copy".into(), vec![(place(0), Some(99))]).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Misconfigured);
}
