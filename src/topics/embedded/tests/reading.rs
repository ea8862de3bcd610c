//! Reading: portions, wake-ups, topics that come later.

use super::super::segment;
use tailwater_kit::java_regex::JavaRegex;

use super::*;

pub(super) fn pattern(pattern: &str) -> Subscription {
    Subscription::Pattern(Box::new(JavaRegex::new(pattern).unwrap()))
}

#[tokio::test]
async fn a_poll_returns_no_more_than_it_may_of_a_large_group() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..1000)).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert!(matches!(reader.poll(1).await.unwrap(), Polled::Assigned(_)));
    assert_eq!(reader.lag(), 1000);
    let mut read = Vec::new();
    while read.len() < 1000 {
        let Polled::Records(batch) = reader.poll(10_000).await.unwrap() else { panic!("records are there") };
        let weight: usize = batch.records.iter().map(|record| record.record.weight()).sum();
        assert!(weight < 11_000, "{weight}");
        assert_eq!(batch.next[0].offset, batch.records.last().unwrap().offset + 1);
        read.extend(batch.records);
        assert_eq!(reader.lag(), 1000 - read.len() as u64);
    }
    assert_eq!(numbers(&read), (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dropped_poll_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..500)).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 500 {
        tokio::select! {
            biased;
            polled = reader.poll(2000) => if let Polled::Records(batch) = polled.unwrap() {
                read.extend(batch.records);
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(numbers(&read), (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_seek_in_one_partition_skips_nothing_of_another() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..10)).await;
    append(&mut writer, 2, of_numbers("b", 100..110)).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a", "b"])).await.unwrap();
    assert!(matches!(reader.poll(1).await.unwrap(), Polled::Assigned(_)));
    // A poll that is dropped while it reads both, unless the read is quicker than the look at it.
    let handed = futures_util::FutureExt::now_or_never(reader.poll(1 << 20));
    reader.seek(at(&log, "a", 8)).await.unwrap();
    let expected: Vec<i64> = if handed.is_none() { [8, 9].into_iter().chain(100..110).collect() } else { vec![8, 9] };
    let mut read = numbers(&read_all(&mut reader).await);
    read.sort_unstable();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn topics_and_journals_that_come_later_are_assigned_before_their_first_record() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut reader = log.reader(&"copy".into(), pattern("shop\\..*")).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut assigned: Vec<String> = Vec::new();
        let mut read = Vec::new();
        while read.len() < 6 {
            match reader.poll(1000).await.unwrap() {
                Polled::Assigned(partitions) => assigned.extend(partitions.iter().map(|place| place.topic_partition.topic.to_string())),
                Polled::Records(batch) => {
                    for record in &batch.records {
                        assert!(assigned.iter().any(|topic| **topic == *record.record.topic));
                    }
                    read.extend(batch.records);
                }
                Polled::Revoked(_) | Polled::Unreadable(_) => panic!("nothing is revoked"),
            }
        }
        (assigned, numbers(&read))
    });
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let mut both = rows("shop.a", 0..2);
    both.extend(rows("other", 90..95));
    append(&mut writer, 1, SourceBatch { records: both, ..SourceBatch::default() }).await;
    append(&mut writer, 2, of_numbers("shop.b", 2..4)).await;
    let mut another = log.writer(&"another".into()).await.unwrap();
    append(&mut another, 1, of_numbers("shop.c", 4..6)).await;
    let (assigned, mut read) = reading.await.unwrap();
    read.sort_unstable();
    assert_eq!((assigned.len(), read), (3, vec![0, 1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended_over_segments_and_publications() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { segment_bytes: 3000, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let (mut number, mut sent) = (0, 0);
    for round in 0..4_i64 {
        for part in 0..20 {
            number += 1;
            // Two tables are read at once.
            let id = if part % 2 == 0 { "even" } else { "odd" };
            let batch = SourceBatch { pending: Some(id.into()), ..of_numbers("a", 0..3) };
            append(&mut writer, number, batch).await;
            sent += 3;
        }
        number += 1;
        let publish = vec!["odd".into(), "even".into()];
        append(&mut writer, number, SourceBatch { publish, ..of_numbers("a", round * 1000..round * 1000 + 2) }).await;
        sent += 2;
    }
    let all = log.read("a", 0, 0, usize::MAX).await.unwrap();
    assert_eq!(all.len(), sent);
    assert_eq!(all.iter().map(|record| record.offset).collect::<Vec<_>>(), (0..sent as u64).collect::<Vec<_>>());
    for page in [1, 7, 100] {
        let mut offset = 0;
        while offset < sent as u64 {
            let read = log.read("a", 0, offset, page).await.unwrap();
            assert_eq!(read.len(), page.min(sent - offset as usize));
            for record in &read {
                assert_eq!((record.offset, &record.record), (offset, &all[offset as usize].record));
                offset += 1;
            }
        }
    }
    assert_eq!(log.read("a", 0, sent as u64, 10).await.unwrap().len(), 0);
    assert_eq!(log.read("b", 0, 0, 10).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(log.read("a", 1, 0, 10).await.unwrap_err().kind(), ErrorKind::Missing);
}

#[tokio::test]
async fn readers_see_the_schemas_of_the_source_and_one_for_all_segments() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { segment_bytes: 500, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let sent = record("a", 1);
    for number in 1..20 {
        append(&mut writer, number, SourceBatch { records: vec![sent.clone()], ..SourceBatch::default() }).await;
    }
    assert!(segment::list(&folder.path().join("journals/shop")).unwrap().len() > 3);
    let id = |record: &Record| record.value.schema.as_ref().unwrap().id();
    for read in log.read("a", 0, 0, 100).await.unwrap() {
        assert_eq!(id(&read.record), id(&sent));
    }
}

#[tokio::test]
async fn a_topic_belongs_to_one_journal() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut one = log.writer(&"one".into()).await.unwrap();
    append(&mut one, 1, of_numbers("a", 0..1)).await;
    let mut two = log.writer(&"two".into()).await.unwrap();
    let error = two.append(1, of_numbers("a", 0..1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("the connector one"), "{error}");
    append(&mut two, 1, of_numbers("b", 0..1)).await;
    assert_eq!(log.append(rows("b", 0..1)).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn partitions_are_kept_as_demanded() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let mut records = rows("a", 0..2);
    records[1].partition = Some(2);
    append(&mut writer, 1, SourceBatch { records, ..SourceBatch::default() }).await;
    assert_eq!(log.shared.topics()[0].partitions, [(0, 1), (0, 0), (0, 1)]);
    assert_eq!(log.read("a", 2, 0, 5).await.unwrap()[0].partition, 2);
    let mut far = rows("a", 0..1);
    far[0].partition = Some(1000);
    let error = writer.append(2, SourceBatch { records: far, ..SourceBatch::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_log_can_be_looked_at_while_it_is_written() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..3)).await;
    let looked = EmbeddedLog::open_read_only(folder.path()).unwrap();
    assert_eq!(looked.shared.topics()[0].partitions, [(0, 3)]);
    assert_eq!(looked.read("a", 0, 1, 10).await.unwrap().len(), 2);
    append(&mut writer, 2, of_numbers("a", 3..4)).await;
    assert_eq!(EmbeddedLog::open_read_only(folder.path()).unwrap().read("a", 0, 0, 10).await.unwrap().len(), 4);
    assert_eq!(open_with(&folder, EmbeddedOptions::default()).err().unwrap().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn positions_move_all_or_none_and_the_next_reader_begins_there() {
    let folder = TempDir::new().unwrap();
    let place = |partition| TopicPartition { topic: "moved".into(), partition };
    {
        let log = open(&folder).await;
        let mut writer = log.writer(&"source".into()).await.unwrap();
        append(&mut writer, 1, of_numbers("moved", 0..10)).await;
        log.move_positions(&"copy".into(), vec![(place(0), Some(7))]).await.unwrap();
        // The end is a place to begin at; what lies beyond it, or is not there, is none, and then nothing moves.
        log.move_positions(&"other".into(), vec![(place(0), Some(10))]).await.unwrap();
        for (moves, kind) in [
            (vec![(place(0), Some(3)), (place(0), Some(11))], ErrorKind::Misconfigured),
            (vec![(place(0), Some(3)), (place(1), Some(0))], ErrorKind::Missing),
        ] {
            assert_eq!(log.move_positions(&"copy".into(), moves).await.unwrap_err().kind(), kind);
        }
        assert_eq!(log.committed(&"copy".into()).await.unwrap(), [at(&log, "moved", 7)]);
        log.close().await.unwrap();
    }
    let log = open(&folder).await;
    let subscription = || Subscription::Topics(vec!["moved".into()]);
    let mut reader = log.reader(&"copy".into(), subscription()).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [7, 8, 9]);
    drop(reader);
    log.move_positions(&"copy".into(), vec![(place(0), None), (place(5), None)]).await.unwrap();
    assert_eq!(log.committed(&"copy".into()).await.unwrap(), []);
    let mut reader = log.reader(&"copy".into(), subscription()).await.unwrap();
    assert_eq!(read_all(&mut reader).await.len(), 10);
}
