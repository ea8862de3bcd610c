//! What is reported durable survives, what is not is never seen (I1).

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::segment;
use super::*;

fn small() -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 4000, ..EmbeddedOptions::default() }
}

async fn writer_ends(log: &EmbeddedLog, connector: &str) {
    let journal = log.shared.open_journal(connector).unwrap();
    while journal.has_writer.load(std::sync::atomic::Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        topic: u8,
        count: u8,
    },
    Pending {
        id: u8,
        count: u8,
    },
    Publish {
        id: u8,
        count: u8,
    },
    /// Waits until everything so far is durable
    Settle,
    /// From here on no fsync returns
    Stall,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_u8, 0..6_u8).prop_map(|(topic, count)| Step::Append { topic, count }),
        3 => (0..2_u8, 1..5_u8).prop_map(|(id, count)| Step::Pending { id, count }),
        2 => (0..2_u8, 0..3_u8).prop_map(|(id, count)| Step::Publish { id, count }),
        1 => Just(Step::Settle),
    ];
    (proptest::collection::vec(step.clone(), 1..25), proptest::collection::vec(step, 0..10)).prop_map(|(mut before, after)| {
        before.push(Step::Stall);
        before.extend(after);
        before
    })
}

/// Numbers that readers see after each batch.
#[derive(Clone, Default)]
struct Model {
    visible: Vec<i64>,
    pending: BTreeMap<u8, Vec<i64>>,
}

async fn power_loss(steps: Vec<Step>) {
    let folder = TempDir::new().unwrap();
    let (mut number, mut next, mut expected) = (0_u64, 0_i64, vec![Model::default()]);
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, small()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let mut is_stalled = false;
    for step in steps {
        let mut model = expected.last().unwrap().clone();
        let mut take = |topic: &str, count: u8| {
            let numbers = next..next + i64::from(count);
            next = numbers.end;
            (rows(topic, numbers.clone()), numbers)
        };
        let batch = match step {
            Step::Stall => {
                disk.stall_sync(true);
                is_stalled = true;
                continue;
            }
            Step::Settle => {
                if !is_stalled {
                    writer.durable().wait_for(|now| *now.as_ref().unwrap() >= number).await.unwrap();
                }
                continue;
            }
            Step::Append { topic, count } => {
                let (records, numbers) = take(["a", "b", "c"][topic as usize], count);
                model.visible.extend(numbers);
                SourceBatch { records, ..SourceBatch::default() }
            }
            Step::Pending { id, count } => {
                let (records, numbers) = take("a", count);
                model.pending.entry(id).or_default().extend(numbers);
                SourceBatch { records, pending: Some(id.to_string().into()), ..SourceBatch::default() }
            }
            Step::Publish { id, count } => {
                let (records, numbers) = take("b", count);
                model.visible.extend(model.pending.remove(&id).unwrap_or_default());
                model.visible.extend(numbers);
                SourceBatch { records, publish: vec![id.to_string().into()], ..SourceBatch::default() }
            }
        };
        number += 1;
        expected.push(model);
        writer.append(number, SourceBatch { state: state(number), ..batch }).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    disk.cut_power();
    let durable = (*writer.durable().borrow()).as_ref().ok().copied().unwrap_or(0);
    let before = log.shared.topics();
    drop(writer);
    writer_ends(&log, "shop").await;
    drop(log);
    disk.lose_power();

    let log = open_on(&FaultyDisk::default(), &folder, small()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let kept = writer.state().iter().next().map_or(0, |(_, offset)| offset["n"].as_u64().unwrap());
    assert!(kept >= durable, "{durable} was durable, {kept} is there");
    for topic in before {
        let now = log.shared.topics().into_iter().find(|info| info.name == topic.name).expect("what was seen stays");
        assert!(now.partitions[0].1 >= topic.partitions[0].1, "what was seen stays");
    }
    // Batches are there whole, in order, and none twice; what was pending and not published is gone.
    append(&mut writer, 1, of_numbers("d", 1_000_000..1_000_001)).await;
    let mut visible = expected[usize::try_from(kept).unwrap()].visible.clone();
    visible.push(1_000_000);
    let mut reader = log.reader(&"copy".into(), topics(&["a", "b", "c", "d"])).await.unwrap();
    assert_eq!(numbers(&read_some(&mut reader, visible.len()).await), visible);
}

/// Records until there are `count`.
async fn read_some(reader: &mut Box<dyn LogReader>, count: usize) -> Vec<SinkRecord> {
    let mut read = Vec::new();
    while read.len() < count {
        let polled = tokio::time::timeout(Duration::from_secs(10), reader.poll(2000)).await.expect("records are there").unwrap();
        if let Polled::Records(batch) = polled {
            read.extend(batch.records);
        }
    }
    read
}

#[test]
fn after_a_power_loss_there_is_a_prefix_that_holds_everything_durable() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(power_loss(steps));
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_refused_fsync_ends_the_writer_and_shows_nothing_and_the_next_one_goes_on() {
    let folder = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, SourceBatch { state: state(1), ..of_numbers("a", 0..3) }).await;
    disk.refuse_sync(true);
    writer.append(2, SourceBatch { state: state(2), ..of_numbers("a", 3..6) }).await.unwrap();
    let mut durable = writer.durable();
    let error = durable.wait_for(Result::is_err).await.unwrap().as_ref().unwrap_err().clone();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("refuses fsync"), "{error}");
    assert!(writer.append(3, of_numbers("a", 6..7)).await.is_err(), "it has ended for good");
    assert_eq!(log.shared.topics()[0].partitions, [(0, 3)]);
    drop(writer);

    // As long as the disk refuses, a new writer fails, too.
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    assert_eq!(writer.state().iter().next().unwrap().1["n"], 1);
    writer.append(1, of_numbers("a", 3..4)).await.unwrap();
    writer.durable().wait_for(Result::is_err).await.unwrap();
    drop(writer);

    disk.refuse_sync(false);
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, SourceBatch { state: state(2), ..of_numbers("a", 3..6) }).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_full_disk_is_said_and_with_new_room_it_goes_on() {
    let folder = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..3)).await;
    disk.set_room(Some(100));
    writer.append(2, of_numbers("a", 3..100)).await.unwrap();
    let mut durable = writer.durable();
    let error = durable.wait_for(Result::is_err).await.unwrap().as_ref().unwrap_err().clone();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert!(error.remedy().unwrap().contains("free space"));
    drop(writer);
    writer_ends(&log, "shop").await;
    disk.set_room(None);
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 3..5)).await;
    writer.close().await.unwrap();
    drop(log);
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn no_reader_sees_a_record_before_it_is_durable() {
    let folder = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..1)).await;
    disk.stall_sync(true);
    writer.append(2, of_numbers("a", 1..2)).await.unwrap();
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [0]);
    assert_eq!(log.read("a", 0, 0, 10).await.unwrap().len(), 1);
    assert_eq!(*writer.durable().borrow().as_ref().unwrap(), 1);
    disk.stall_sync(false);
    assert_eq!(numbers(&read_some(&mut reader, 1).await), [1]);
}

#[tokio::test]
async fn dead_letters_of_many_share_fsyncs_and_are_durable_when_kept() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let all = (0..50).map(|number| {
        let log = log.clone();
        tokio::spawn(async move { log.append(rows("dead", number..number + 1)).await })
    });
    // A caller that gives up in the middle does no harm.
    let given_up = tokio::spawn({
        let log = log.clone();
        async move { log.append(rows("dead", 1000..1001)).await }
    });
    tokio::task::yield_now().await;
    given_up.abort();
    for kept in futures_util::future::join_all(all).await {
        kept.unwrap().unwrap();
    }
    log.close().await.unwrap();
    assert_eq!(log.append(rows("dead", 0..1)).await.unwrap_err().kind(), ErrorKind::Restarting);
    drop(log);
    let log = open(&folder).await;
    let read = log.read("dead", 0, 0, 1000).await.unwrap();
    assert!((50..=51).contains(&read.len()));
    assert_eq!(log.shared.topics()[0].writer, None);
}

#[tokio::test]
async fn pending_records_wait_for_others_to_share_their_fsync() {
    let folder = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let log = open_on(&disk, &folder, EmbeddedOptions::default()).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, of_numbers("a", 0..1)).await;
    let (start, before) = (std::time::Instant::now(), disk.syncs());
    for number in 2..400 {
        let pending = SourceBatch { pending: Some("rows".into()), ..of_numbers("a", 0..1) };
        writer.append(number, pending).await.unwrap();
        // Some of the time the thread is idle.
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let published = SourceBatch { publish: vec!["rows".into()], ..SourceBatch::default() };
    append(&mut writer, 400, published).await;
    let most = start.elapsed().as_millis() / 5 + 2;
    assert!(u128::from(disk.syncs() - before) <= most, "{} fsyncs in {:?}", disk.syncs() - before, start.elapsed());
    assert_eq!(log.read("a", 0, 0, 1000).await.unwrap().len(), 399);
}

#[tokio::test]
async fn short_appends_stand_where_zeros_were_and_a_complete_segment_has_none() {
    let folder = TempDir::new().unwrap();
    let journal = folder.path().join("journals/shop");
    let options = EmbeddedOptions { segment_bytes: 50_000, ..EmbeddedOptions::default() };
    let log = open_on(&FaultyDisk::default(), &folder, options).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let facts = || log.shared.open_journal("shop").unwrap().lock().segments.clone();
    let on_disk = |first| segment::path(&journal, first).metadata().unwrap().len();
    append(&mut writer, 1, of_numbers("a", 0..1)).await;
    let (length, number) = (on_disk(0), &mut 1);
    while facts().len() < 2 {
        *number += 1;
        append(&mut writer, *number, of_numbers("a", 0..100)).await;
    }
    let (closed, last) = (facts()[&0].length, *facts().last_key_value().unwrap().0);
    assert!(length > 10 * closed && *number > 3, "the first append made room for all");
    assert_eq!(on_disk(0), closed, "complete");
    assert!(segment::octets_behind(&journal, last, 0).unwrap() == facts()[&last].length && on_disk(last) > facts()[&last].length);

    // A long append makes no room: nobody waits for it, and the next ones are as long.
    let mut octets = facts()[&last].length;
    while octets < 50_000 {
        *number += 1;
        append(&mut writer, *number, of_numbers("a", 0..100)).await;
        octets = facts()[&last].length;
    }
    append(&mut writer, *number + 1, of_numbers("a", 0..20_000)).await;
    let (last, facts_of_last) = facts().last_key_value().map(|(first, facts)| (*first, facts.clone())).unwrap();
    assert_eq!(on_disk(last), facts_of_last.length);
    writer.close().await.unwrap();
    drop(log);
    let log = open_on(&FaultyDisk::default(), &folder, EmbeddedOptions::default()).await;
    assert_eq!(log.shared.topics()[0].partitions[0].1, log.read("a", 0, 0, usize::MAX).await.unwrap().len() as u64);
}
