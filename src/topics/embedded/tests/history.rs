//! Positions of another history, and what is still there.

use super::super::index;
use super::super::segment;
use super::*;

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn an_older_copy_that_has_grown_past_a_position_is_history_gone() {
    let (folder, older) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..10)).await;
    let early = at(&log, "a", 4);
    writer.close().await.unwrap();
    drop(log);
    copy_folder(folder.path(), older.path());

    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 10..20)).await;
    let lost = at(&log, "a", 15);
    // Positions live as long as their records.
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    reader.poll(1).await.unwrap();
    reader.seek(early.clone()).await.unwrap();
    reader.seek(lost.clone()).await.unwrap();
    drop((reader, writer, log));

    let log = open(&older).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    reader.poll(1).await.unwrap();
    reader.seek(early.clone()).await.unwrap();
    assert_eq!(reader.seek(lost.clone()).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    // The same offset is there again, with another record.
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 500..600)).await;
    reader.seek(early).await.unwrap();
    assert_eq!(reader.seek(lost).await.unwrap_err().kind(), ErrorKind::HistoryGone);
}

#[tokio::test]
async fn a_copy_made_while_it_was_written_ends_where_it_was_made() {
    let (folder, older) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..10)).await;
    copy_folder(&folder.path().join("journals"), &older.path().join("journals"));
    append(&mut writer, 2, of_numbers("a", 10..20)).await;
    let (kept, lost) = (at(&log, "a", 10), at(&log, "a", 11));
    let log = open(&older).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 500..600)).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    reader.poll(1).await.unwrap();
    reader.seek(kept).await.unwrap();
    assert_eq!(reader.seek(lost).await.unwrap_err().kind(), ErrorKind::HistoryGone);
}

#[tokio::test]
async fn a_position_in_a_quiet_topic_outlives_many_starts() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("quiet", 0..5)).await;
    let position = at(&log, "quiet", 5);
    writer.close().await.unwrap();
    drop(log);
    for start in 0..5 {
        let log = open(&folder).await;
        let mut writer = log.writer(&"shop".into()).await.unwrap();
        append(&mut writer, 1, of_numbers("busy", start..start + 3)).await;
        writer.close().await.unwrap();
        let mut reader = log.reader(&"copy".into(), topics(&["quiet"])).await.unwrap();
        reader.poll(1).await.unwrap();
        reader.seek(position.clone()).await.unwrap();
        assert_eq!(reader.lag(), 0);
    }
}

#[tokio::test]
async fn a_sink_that_was_dropped_behind_is_told_so() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { max_bytes: Some(40_000), when_full: FullPolicy::Drop, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    log.retain_for(vec![("copy".into(), topics(&["a"]))]);
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..10)).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    reader.commit(vec![at(&log, "a", 5)]).await.unwrap();
    for number in 2..40 {
        append(&mut writer, number, of_numbers("a", 0..200)).await;
    }
    assert!(log.shared.topics()[0].partitions[0].0 > 5, "the oldest went");
    assert!(matches!(reader.poll(1000).await.unwrap(), Polled::Assigned(_)));
    assert_eq!(reader.poll(1000).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    assert!(log.read("a", 0, 0, 1).await.unwrap()[0].offset > 5, "whoever only looks begins at the first");
}

#[tokio::test]
async fn what_is_pending_and_then_forgotten_holds_no_room() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { max_bytes: Some(20_000), segment_bytes: 2000, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    log.retain_for(Vec::new());
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    for (number, id) in [(1, "given up"), (2, "published")] {
        append(&mut writer, number, SourceBatch { pending: Some(id.into()), ..of_numbers("a", 0..5) }).await;
    }
    let forgets = SourceBatch { publish: vec!["published".into()], forget_pending: true, ..of_numbers("b", 0..1) };
    append(&mut writer, 3, forgets).await;
    // Far more than there is room for beside a first segment that stays.
    for number in 4..100 {
        append(&mut writer, number, of_numbers("b", 0..30)).await;
    }
    let of_nobody = SourceBatch { publish: vec!["given up".into()], ..of_numbers("b", 0..1) };
    append(&mut writer, 100, of_nobody).await;
    assert_eq!(log.shared.topics()[0].partitions[0], (5, 5), "of the rows one half was published once, and went with its segment");
}

#[tokio::test]
async fn what_is_pending_or_unread_is_not_deleted() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { retention_bytes: Some(1), segment_bytes: 2000, ..EmbeddedOptions::default() };
    let log = open_with(&folder, options).unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let pending = SourceBatch { pending: Some("t".into()), ..of_numbers("a", 0..5) };
    append(&mut writer, 1, pending).await;
    for number in 2..20 {
        append(&mut writer, number, of_numbers("b", 0..30)).await;
    }
    log.shared.retention.expire().unwrap();
    assert_eq!(
        log.shared.topics().iter().find(|info| &*info.name == "b").unwrap().partitions[0].0,
        0,
        "the segment with pending rows is the oldest"
    );
    log.retain_for(vec![("copy".into(), topics(&["a"]))]);
    append(&mut writer, 20, SourceBatch { publish: vec!["t".into()], ..SourceBatch::default() }).await;
    for number in 21..40 {
        append(&mut writer, number, of_numbers("b", 0..30)).await;
    }
    log.shared.retention.expire().unwrap();
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [0, 1, 2, 3, 4]);
    reader.commit(vec![at(&log, "a", 5)]).await.unwrap();
    log.shared.retention.expire().unwrap();
    let b = log.shared.topics().into_iter().find(|info| &*info.name == "b").unwrap();
    assert!(b.partitions[0].0 > 0);
    assert_eq!(log.shared.topics()[0].partitions[0], (5, 5), "of the table nothing is left");
    let next = b.partitions[0].1;
    writer.close().await.unwrap();
    drop((reader, log));
    let log = open(&folder).await;
    assert_eq!(log.shared.topics()[0].partitions[0], (5, 5));
    assert_eq!(log.shared.topics()[1].partitions[0], (b.partitions[0].0, next));
}

#[tokio::test]
async fn a_journal_opens_the_same_with_and_without_its_indexes() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions { segment_bytes: 3000, ..EmbeddedOptions::default() };
    {
        let log = open_with(&folder, options).unwrap();
        let mut writer = log.writer(&"shop".into()).await.unwrap();
        for number in 1..60 {
            let mut batch = of_numbers(["a", "b"][number as usize % 2], 0..8);
            match number % 10 {
                2 | 4 => batch.pending = Some("t".into()),
                6 => batch.publish = vec!["t".into()],
                _ => batch.state = state(number),
            }
            append(&mut writer, number, batch).await;
        }
        writer.close().await.unwrap();
    }
    let journals = folder.path().join("journals/shop");
    let segments = segment::list(&journals).unwrap();
    assert!(segments.len() > 5);
    let facts = async || {
        let log = open(&folder).await;
        let journal = log.shared.open_journal("shop").unwrap();
        let durable = journal.lock();
        (durable.segments.clone(), durable.partitions.clone(), durable.state.clone(), durable.sequence, durable.octets)
    };
    let with = facts().await;
    for segment in &segments[..segments.len() - 1] {
        let index = index::path(&journals, *segment);
        assert!(index.exists(), "each complete segment has one");
        std::fs::remove_file(index).unwrap();
    }
    assert_eq!(facts().await, with);
    let index = index::path(&journals, segments[1]);
    let mut octets = std::fs::read(&index).expect("it was made anew");
    octets[12] ^= 1;
    std::fs::write(index, octets).unwrap();
    assert_eq!(facts().await, with);
}

#[tokio::test]
async fn a_committed_position_that_is_gone_is_an_error_unless_the_target_knows_better() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..10)).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    reader.commit(vec![LogPosition { offset: 11, ..at(&log, "a", 0) }]).await.unwrap();
    let mut without = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert!(matches!(without.poll(1).await.unwrap(), Polled::Assigned(_)));
    for _ in 0..2 {
        assert_eq!(without.poll(1).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    }
    let mut with = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert!(matches!(with.poll(1).await.unwrap(), Polled::Assigned(_)));
    with.seek(at(&log, "a", 8)).await.unwrap();
    assert_eq!(numbers(&read_all(&mut with).await), [8, 9]);
}
