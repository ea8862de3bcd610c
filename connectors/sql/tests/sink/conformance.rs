//! The suites that every sink must pass, on both kinds of target.

use tailwater_api::{Kind, Record, Schema};
use tailwater_sql::SqlConnector;
use tailwater_testkit::conformance::sink;

use crate::harness::{Captured, Target, config, id, targets};

/// Into a table without a key, where a row that is written twice stands twice.
const APPEND: &[(&str, &str)] = &[("schema.evolution", "basic")];

fn numbers(numbers: std::ops::Range<i32>) -> Vec<Record> {
    let log = Captured::without_key("shop.public.log", vec![("n", Schema::of(Kind::Int32).build())]);
    numbers.map(|number| log.create(vec![id(number)])).collect()
}

fn rows(numbers: impl IntoIterator<Item = i32>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

async fn read(target: &Target) -> Vec<String> {
    target.rows("SELECT n FROM shop_public_log ORDER BY n").await
}

#[tokio::test]
async fn flush_means_durable() {
    for target in targets("conformance_flush").await {
        let config = config(&target.url(), APPEND);
        let batches = vec![numbers(0..500), numbers(500..501), numbers(501..700)];
        sink::flush_means_durable::<SqlConnector, _>(&config, batches, rows(0..700), async || read(&target).await).await;
    }
}

#[tokio::test]
async fn rejected_rows_reach_the_dead_letters() {
    for target in targets("conformance_rejected").await {
        target.run("CREATE TABLE shop_public_log (n int CHECK (n NOT IN (0, 41, 42, 99)))").await;
        let config = config(&target.url(), APPEND);
        let expected = rows((0..100).filter(|number| ![0, 41, 42, 99].contains(number)));
        let read = async || read(&target).await;
        sink::rejected_rows_reach_the_dead_letters::<SqlConnector, _>(&config, numbers(0..100), &[0, 41, 42, 99], expected, read).await;
    }
}

#[tokio::test]
async fn positions_are_in_the_target() {
    for target in targets("conformance_positions").await {
        let config = config(&target.url(), APPEND);
        let batches = vec![numbers(0..500), numbers(500..501), numbers(501..700)];
        sink::positions_are_in_the_target::<SqlConnector, _>(&config, batches, rows(0..700), async || read(&target).await).await;
    }
}

#[tokio::test]
async fn an_older_writer_is_fenced() {
    for target in targets("conformance_fenced").await {
        let config = config(&target.url(), APPEND);
        let batches = [numbers(0..10), numbers(10..20)];
        sink::an_older_writer_is_fenced::<SqlConnector, _>(&config, batches, rows(0..10), async || read(&target).await).await;
    }
}
