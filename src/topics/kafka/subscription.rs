//! Which topics the consumer of a sink reads, and where they end: both are looked up every few seconds.
//!
//! A pattern means what it means in Java, and a topic that does not exist yet is no error. One that is named and that the consumer's user
//! may not see is: brokers leave such topics out of their list without a word, so those that are missing from it are asked for by name. A
//! pattern covers what its user may see. All is asked by the consumer's own client, so it goes by the same rights as reading.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use tailwater_api::Result;
use tailwater_api::record::TopicPartition;

use super::errors::{failed, failed_with_code};
use super::reader::{Consumer, Ends, lock, offsets};
use super::{KafkaLog, PATIENCE, blocking};
use crate::topics::Subscription;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Looks every few seconds which topics the subscription covers and where the partitions that are read end.
pub(super) async fn keep_subscribed(log: KafkaLog, consumer: Weak<Consumer>, subscription: Subscription, ends: Arc<Ends>) {
    let mut subscribed = BTreeSet::new();
    loop {
        let (Some(consumer), log, wanted) = (consumer.upgrade(), log.clone(), subscription.clone()) else { return };
        let (known, seen) = (subscribed.clone(), Arc::clone(&ends));
        let looked = blocking(move || {
            let covered = match subscribe(&log, &consumer, &wanted, &known) {
                Ok(covered) => covered,
                // The consumer itself meets what keeps brokers from answering, and says so to the task.
                Err(error) if error.kind().is_transient() => {
                    tracing::debug!("{error}");
                    known
                }
                Err(error) => {
                    consumer.context().fail(error.again());
                    return Err(error);
                }
            };
            match ends_of(&consumer) {
                Ok(found) => *lock(&seen) = found,
                Err(error) => tracing::debug!("{error}"),
            }
            Ok(covered)
        });
        // Without an answer the task has got the error.
        let Ok(covered) = looked.await else { return };
        subscribed = covered;
        tokio::time::sleep(LOOK).await;
    }
}

/// Subscribes to what `wanted` covers now, unless that is what is `known`, and says what it is.
fn subscribe(log: &KafkaLog, consumer: &Consumer, wanted: &Subscription, known: &BTreeSet<Arc<str>>) -> Result<BTreeSet<Arc<str>>> {
    let mut covered = BTreeSet::new();
    for (topic, _) in log.list(consumer)? {
        if wanted.covers(&topic)? {
            covered.insert(topic);
        }
    }
    let named = match wanted {
        Subscription::Topics(names) => names.as_slice(),
        Subscription::Pattern(_) => &[],
    };
    for name in named.iter().filter(|name| !covered.contains(name.as_str())) {
        check_rights(consumer, name)?;
    }
    if covered != *known {
        let names: Vec<&str> = covered.iter().map(|name| &**name).collect();
        consumer.subscribe(&names).map_err(|error| failed("subscribe to topics", &error))?;
        tracing::debug!("subscribed to {names:?}");
    }
    Ok(covered)
}

/// An error if the consumer's user may not see the topic, whether it is there or not (I11).
fn check_rights(consumer: &Consumer, topic: &str) -> Result<()> {
    let doing = || format!("look for the topic {topic}");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(|error| failed(doing(), &error))?;
    let errors = metadata.topics().iter().filter_map(|found| found.error().map(RDKafkaErrorCode::from));
    match errors.into_iter().find(|code| *code == RDKafkaErrorCode::TopicAuthorizationFailed) {
        Some(code) => Err(failed_with_code(doing(), code)),
        None => Ok(()),
    }
}

/// The ends of the partitions that are read.
fn ends_of(consumer: &Consumer) -> Result<BTreeMap<TopicPartition, u64>> {
    let doing = "look for the ends of topics";
    let mut asked = consumer.assignment().map_err(|error| failed(doing, &error))?;
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    asked.set_all_offsets(Offset::End).map_err(|error| failed(doing, &error))?;
    let found = consumer.offsets_for_times(asked, PATIENCE).map_err(|error| failed(doing, &error))?;
    Ok(offsets(&found).into_iter().filter_map(|(place, end)| Some((place, end?))).collect())
}
