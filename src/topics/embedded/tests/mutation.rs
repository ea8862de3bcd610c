//! Segments whose octets have changed.

use proptest::prelude::*;

use super::*;

/// A journal of several segments, with published records, and the numbers that it holds.
async fn sample(folder: &TempDir) -> Vec<i64> {
    let log = open_on(&FaultyDisk::default(), folder, EmbeddedOptions { segment_bytes: 1500, ..EmbeddedOptions::default() }).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    for number in 1..12_u64 {
        let from = number as i64 * 10;
        let pending = (number % 3 == 0).then(|| "p".into());
        let publish = if number % 4 == 0 { vec!["p".into()] } else { Vec::new() };
        append(&mut writer, number, SourceBatch { pending, publish, state: state(number), ..of_numbers("a", from..from + 4) }).await;
    }
    writer.close().await.unwrap();
    let read = log.read("a", 0, 0, usize::MAX).await.unwrap();
    read.iter().map(|read| read.record.value.value.as_struct().unwrap()[0].as_integer().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn changed_octets_are_seen_or_cut_off_and_never_read_as_something_else(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        change in 1..=255_u8,
        length in 1..40_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let whole = sample(&folder).await;
            let entries = std::fs::read_dir(folder.path().join("journals/shop")).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = entries.filter(|path| path.extension().is_some()).collect();
            files.sort();
            let path = which.get(&files);
            let mut octets = std::fs::read(path).unwrap();
            let place = place.index(octets.len());
            octets[place..].iter_mut().take(length).for_each(|octet| *octet ^= change);
            std::fs::write(path, &octets).unwrap();

            let log = open_on(&FaultyDisk::default(), &folder, EmbeddedOptions::default()).await;
            if let Err(error) = log.writer(&"shop".into()).await {
                return assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
            }
            // From every offset, so that records before and behind the damage are reached.
            for offset in 0..whole.len() {
                match log.read("a", 0, offset as u64, usize::MAX).await {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}"),
                    Ok(read) => {
                        for read in read {
                            let number = read.record.value.value.as_struct().unwrap()[0].as_integer().unwrap();
                            assert_eq!(number, whole[read.offset as usize]);
                        }
                    }
                }
            }
        });
    }
}
