//! What makes way at the limits of a journal, and what does not.

use super::*;

#[tokio::test]
async fn a_group_longer_than_the_limit_makes_way_for_the_next_one() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, EmbeddedOptions { max_bytes: Some(1000), ..EmbeddedOptions::default() }).unwrap();
    log.retain_for(Vec::new());
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    for number in 1..4 {
        append(&mut writer, number, of_numbers("a", 0..100)).await;
    }
    assert_eq!(log.shared.topics()[0].partitions, [(100, 300)], "nobody reads it: the oldest made way");
}

#[tokio::test]
async fn a_snapshot_that_cannot_fit_is_an_error_and_not_a_wait_without_end() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, EmbeddedOptions { max_bytes: Some(1000), ..EmbeddedOptions::default() }).unwrap();
    log.retain_for(Vec::new());
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let pending = |numbers| SourceBatch { pending: Some("a#1".into()), ..of_numbers("a", numbers) };
    append(&mut writer, 1, pending(0..100)).await;
    append(&mut writer, 2, pending(100..200)).await;
    let error = writer.append(3, pending(200..300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.remedy().unwrap().contains("topics.embedded.max.bytes"));
    append(&mut writer, 3, SourceBatch { publish: vec!["a#1".into()], ..SourceBatch::default() }).await;
    assert_eq!(log.shared.topics()[0].partitions, [(0, 200)], "publishing makes room and needs none");
}

#[tokio::test]
async fn nothing_is_removed_before_the_sinks_are_known() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { retention_bytes: Some(1), segment_bytes: 1, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    for number in 1..4 {
        append(&mut writer, number, of_numbers("a", 0..1)).await;
    }
    log.shared.retention.expire().unwrap();
    assert_eq!(log.shared.topics()[0].partitions, [(0, 3)]);
    log.retain_for(Vec::new());
    log.shared.retention.expire().unwrap();
    assert_eq!(log.shared.topics()[0].partitions, [(2, 3)]);
}

#[tokio::test]
async fn two_that_want_room_at_once_remove_a_segment_once() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { segment_bytes: 1, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    for number in 1..3 {
        append(&mut writer, number, of_numbers("a", 0..1)).await;
    }
    let journal = log.shared.journal_of("a").unwrap();
    let oldest = *journal.lock().segments.keys().next().unwrap();
    journal.remove_segment(oldest).unwrap();
    journal.remove_segment(oldest).unwrap();
    assert_eq!(log.shared.topics()[0].partitions, [(1, 2)]);
}

#[tokio::test]
async fn a_data_directory_is_locked_as_long_as_a_thread_still_writes() {
    let folder = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    disk.stall_sync(true);
    writer.append(1, of_numbers("a", 0..3)).await.unwrap();
    drop((writer, log));
    assert_eq!(folder::lock(folder.path()).unwrap_err().kind(), ErrorKind::Conflict);
    disk.stall_sync(false);
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    assert_eq!(log.shared.topics()[0].partitions, [(0, 3)]);
}

#[tokio::test]
async fn an_append_that_was_dropped_while_it_waited_leaves_no_gap() {
    let folder = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    disk.stall_sync(true);
    let wide = |number| {
        let mut batch = of_numbers("a", number..number + 1);
        batch.records[0].headers.push("wide", SchemaAndValue { schema: None, value: "x".repeat(1 << 20).into() });
        batch
    };
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(100), writer.append(sent as u64 + 1, wide(sent))).await.is_ok() {
        sent += 1;
    }
    assert!((1..20).contains(&sent), "what waits for the disk is bounded");
    disk.stall_sync(false);
    append(&mut writer, sent as u64 + 2, of_numbers("a", sent + 1..sent + 2)).await;
    let read = log.read("a", 0, 0, usize::MAX).await.unwrap();
    let numbers: Vec<i64> = read.iter().map(|read| read.record.value.value.as_struct().unwrap()[0].as_integer().unwrap()).collect();
    assert_eq!(numbers, (0..sent + 2).collect::<Vec<_>>());
    writer.close().await.unwrap();
    drop(log);
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    assert_eq!(log.shared.topics()[0].partitions, [(0, sent as u64 + 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn discovering_committing_and_expiring_never_wait_for_each_other_in_a_circle() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { segment_bytes: 500, retention_bytes: Some(0), ..EmbeddedOptions::default() };
    let log = Arc::new(open_with(&folder, options).unwrap());
    log.retain_for(vec![("sink".into(), reading::pattern("t.*"))]);
    let mut writer = log.writer(&"source".into()).await.unwrap();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (expiring, over) = (Arc::clone(&log), Arc::clone(&is_over));
    let expiry = tokio::task::spawn_blocking(move || {
        while !over.load(std::sync::atomic::Ordering::Acquire) {
            expiring.shared.retention.expire().unwrap();
        }
    });
    let reading = Arc::clone(&log);
    let reader = tokio::spawn(async move {
        let mut reader = reading.reader(&"sink".into(), reading::pattern("t.*")).await.unwrap();
        let mut read = 0;
        while read < 300 {
            if let Polled::Records(batch) = reader.poll(1 << 20).await.unwrap() {
                read += batch.records.len();
                reader.commit(batch.next).await.unwrap();
            }
        }
    });
    for number in 0..300 {
        append(&mut writer, number + 1, of_numbers(&format!("t{number}"), 0..1)).await;
    }
    tokio::time::timeout(Duration::from_secs(60), reader).await.expect("it ends").unwrap();
    is_over.store(true, std::sync::atomic::Ordering::Release);
    expiry.await.unwrap();
}

#[tokio::test]
async fn positions_of_a_deleted_sink_stay_as_long_as_it_could_go_on_from_them() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { retention_bytes: Some(1), segment_bytes: 1, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    let subscription = || Subscription::Topics(vec!["a".into()]);
    log.retain_for(vec![("kept".into(), subscription()), ("deleted".into(), subscription())]);
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    for number in 1..4 {
        append(&mut writer, number, of_numbers("a", 0..1)).await;
    }
    let place = || TopicPartition { topic: "a".into(), partition: 0 };
    log.move_positions(&"kept".into(), vec![(place(), Some(1))]).await.unwrap();
    log.move_positions(&"deleted".into(), vec![(place(), Some(1))]).await.unwrap();
    log.retain_for(vec![("kept".into(), subscription())]);
    log.shared.expire().unwrap();
    assert_eq!(log.shared.topics()[0].partitions, [(1, 3)]);
    assert_eq!(log.committed(&"deleted".into()).await.unwrap().len(), 1, "it could be made again");
    log.move_positions(&"kept".into(), vec![(place(), Some(3))]).await.unwrap();
    log.shared.expire().unwrap();
    assert_eq!(log.shared.topics()[0].partitions, [(2, 3)]);
    assert_eq!(log.committed(&"deleted".into()).await.unwrap(), []);
    assert_eq!(log.shared.store.as_ref().unwrap().positions().unwrap().keys().collect::<Vec<_>>(), ["kept"]);
}
