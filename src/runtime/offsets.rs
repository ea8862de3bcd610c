//! Where connectors stand, and moving it.
//!
//! A source's offsets are its state map; they move through the one writer of its log, like every resume point (I1, I13). A
//! sink's offsets are its positions in the topic log. Both move only while the connector is stopped, so nothing that runs can
//! overwrite them. The texts are those of Kafka Connect 4.3 (`Worker`, `SinkUtils`).

use std::sync::Arc;

use serde_json::Value;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;
use tailwater_api::source::SourceBatch;
use tailwater_api::state::{JsonMap, SourceState, StateChange};
use tailwater_api::{Error, ErrorKind, Result};

use crate::runtime::connector::Connector;
use crate::runtime::plugin::Plugin;
use crate::runtime::sink_task::lag as lag_gauge;
use crate::runtime::worker::{ConnectorType, Refused, RunState, Worker, WorkerInner};
use crate::state::TargetState;
use crate::topics::TopicInfo;

/// Offsets of a connector.
#[derive(Debug, Clone)]
pub enum Offsets {
    /// A source's map
    Source(SourceState),
    /// A sink's positions
    Sink(Vec<LogPosition>),
}

/// What has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// All there is
    Everything,
    /// What Tailwater keeps; the connector's own system knows positions too, and may have to be changed by hand
    WhatIsKeptHere,
}

/// Why offsets did not move.
#[derive(Debug)]
pub enum Immovable {
    /// The connector must be stopped, so that nothing that runs overwrites them
    NotStopped,
    /// The place that was asked for cannot be; the sentence says why
    Nowhere(String),
    /// As every change may be refused
    Refused(Refused),
}

impl From<Refused> for Immovable {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Error> for Immovable {
    fn from(error: Error) -> Self {
        Self::Refused(Refused::Failed(error))
    }
}

/// What a sink's positions are asked to become.
type Moves = Vec<(TopicPartition, Option<u64>)>;

impl Worker {
    /// Where a connector stands.
    ///
    /// # Errors
    /// It is unknown, or its state cannot be read.
    pub async fn offsets(&self, name: &str) -> Result<Offsets, Refused> {
        let connector = self.inner.find(name)?;
        let user = connector.log_user(&self.inner).map_err(Refused::Failed)?;
        let offsets = match kind(&connector) {
            ConnectorType::Sink => self.topics().committed(&user).await.map(Offsets::Sink),
            ConnectorType::Source => self.topics().source_state(&user).await.map(Offsets::Source),
        };
        offsets.map_err(Refused::Failed)
    }

    /// Replaces offsets of a stopped connector; `None` removes one. For a sink partitions are
    /// `{"kafka_topic","kafka_partition"}` and offsets `{"kafka_offset"}`. All have moved durably when it returns, or none has.
    ///
    /// # Errors
    /// The connector is unknown or not stopped, or an offset cannot be.
    pub async fn alter_offsets(&self, name: &str, changes: Vec<StateChange>) -> Result<Moved, Immovable> {
        self.while_stopped(name, move |worker, connector| async move {
            match kind(&connector) {
                ConnectorType::Sink => move_positions(&worker, &connector, sink_moves(changes)?).await?,
                ConnectorType::Source => change_state(&worker, &connector, changes).await?,
            }
            Ok(moved(&connector))
        })
        .await
    }

    /// Removes all offsets of a stopped connector: it begins anew when it runs.
    ///
    /// # Errors
    /// The connector is unknown or not stopped.
    pub async fn reset_offsets(&self, name: &str) -> Result<Moved, Immovable> {
        self.while_stopped(name, |worker, connector| async move {
            let (topics, user) = (&worker.parts.topics, connector.log_user(&worker)?);
            match kind(&connector) {
                ConnectorType::Sink => {
                    let committed = topics.committed(&user).await?;
                    let moves = committed.into_iter().map(|position| (position.topic_partition, None)).collect();
                    move_positions(&worker, &connector, moves).await?;
                }
                ConnectorType::Source => {
                    let state = topics.source_state(&user).await?;
                    let forget = |(partition, _): (&JsonMap, _)| StateChange { partition: partition.clone(), offset: None };
                    change_state(&worker, &connector, state.iter().map(forget).collect()).await?;
                }
            }
            Ok(moved(&connector))
        })
        .await
    }

    /// Brings the lag of sinks up to date that nobody else brings up to date, because no task of theirs runs: paused, stopped and
    /// failed ones. To be called before figures are shown.
    ///
    /// # Errors
    /// The positions cannot be read.
    pub async fn refresh_lag(&self) -> Result<()> {
        for connector in self.inner.all() {
            let info = connector.info(&self.inner);
            let Some(subscription) = connector.subscription(&self.inner) else { continue };
            if info.tasks.iter().any(|task| task.state == RunState::Running) {
                continue;
            }
            // Who names a secret that cannot be read has failed and says so.
            let Ok(user) = connector.log_user(&self.inner) else { continue };
            let committed = self.topics().committed(&user).await?;
            let topics = self.topics().topics().await?;
            let lag: u64 =
                topics.iter().filter(|topic| subscription.covers(&topic.name).unwrap_or(true)).map(|topic| behind(topic, &committed)).sum();
            for task in 0..info.tasks.len().max(1) as u32 {
                let gauge = lag_gauge(&*self.inner.parts.metrics.task(&info.name, task));
                // What belongs to no task is shown with the first.
                gauge.set(if task == 0 { i64::try_from(lag).unwrap_or(i64::MAX) } else { 0 });
            }
        }
        Ok(())
    }

    async fn while_stopped<F>(
        &self,
        name: &str,
        change: impl FnOnce(Arc<WorkerInner>, Arc<Connector>) -> F + Send + 'static,
    ) -> Result<Moved, Immovable>
    where
        F: Future<Output = Result<Moved, Immovable>> + Send,
    {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move {
            let connector = inner.find(&name)?;
            let _changing = connector.changing.lock().await;
            inner.check_present(&connector)?;
            if connector.stored().target != TargetState::Stopped || connector.has_tasks() {
                return Err(Immovable::NotStopped);
            }
            change(Arc::clone(&inner), Arc::clone(&connector)).await
        })
        .await
    }
}

/// How many records of a topic lie behind the committed positions, all partitions together.
fn behind(topic: &TopicInfo, committed: &[LogPosition]) -> u64 {
    let partitions = (0..).zip(&topic.partitions);
    partitions
        .map(|(partition, (first, next))| {
            let place =
                |position: &&LogPosition| position.topic_partition.topic == topic.name && position.topic_partition.partition == partition;
            let offset = committed.iter().find(place).map_or(*first, |position| position.offset);
            next.saturating_sub(offset.max(*first))
        })
        .sum()
}

fn kind(connector: &Connector) -> ConnectorType {
    // A class that this program does not have can only be looked at: it has no sink's positions.
    connector.plugin().map_or(ConnectorType::Source, Plugin::kind)
}

fn moved(connector: &Connector) -> Moved {
    match connector.plugin() {
        Some(plugin) if plugin.kind() == ConnectorType::Sink && !plugin.target_keeps_positions() => Moved::Everything,
        Some(_) | None => Moved::WhatIsKeptHere,
    }
}

async fn change_state(worker: &WorkerInner, connector: &Connector, state: Vec<StateChange>) -> Result<(), Immovable> {
    let mut writer = worker.parts.topics.writer(&connector.log_user(worker)?).await?;
    writer.append(1, SourceBatch { state, ..SourceBatch::default() }).await?;
    Ok(writer.close().await?)
}

async fn move_positions(worker: &WorkerInner, connector: &Connector, moves: Moves) -> Result<(), Immovable> {
    let moved = worker.parts.topics.move_positions(&connector.log_user(worker)?, moves).await;
    moved.map_err(|error| match error.kind() {
        // The connector is there; it is the request that names what is not.
        ErrorKind::Missing => Immovable::Nowhere(error.to_string()),
        _ => error.into(),
    })
}

/// Reads a sink's partitions and offsets.
fn sink_moves(changes: Vec<StateChange>) -> Result<Moves, Immovable> {
    let wrong = |message: &str| Err(Immovable::Nowhere(message.to_owned()));
    let mut moves = Moves::new();
    for StateChange { partition, offset } in changes {
        let (Some(topic), Some(number)) = (partition.get("kafka_topic"), partition.get("kafka_partition")) else {
            return wrong("The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'");
        };
        let Some(topic) = topic.as_str() else {
            return wrong("Kafka topic names must be valid strings and may not be null");
        };
        let Some(partition) = whole(number) else {
            return Err(Immovable::Nowhere(format!(
                "Failed to parse the following Kafka partition value in the provided offsets: '{number}'. Partition values for Kafka need to be integers, not negative."
            )));
        };
        let offset = match offset.as_ref().map(|offset| offset.get("kafka_offset")) {
            None => None,
            Some(None) => return wrong("The offset for a sink connector should either be null or contain the key 'kafka_offset'"),
            Some(Some(offset)) => match whole(offset) {
                Some(offset) => Some(offset),
                None => {
                    return Err(Immovable::Nowhere(format!(
                        "Failed to parse the following Kafka offset value in the provided offsets: '{offset}'. Offset values for Kafka need to be integers, not negative."
                    )));
                }
            },
        };
        moves.push((TopicPartition { topic: Arc::from(topic), partition }, offset));
    }
    Ok(moves)
}

/// A whole number, written as a number or, as Connect takes it too, as text.
fn whole<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    let number = match value {
        Value::Number(number) => number.as_u64()?,
        Value::String(text) => text.parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    T::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(partition: &str, offset: &str) -> StateChange {
        StateChange { partition: serde_json::from_str(partition).unwrap(), offset: serde_json::from_str(offset).unwrap() }
    }

    #[test]
    fn positions_are_numbers_or_texts_of_numbers() {
        let moves = sink_moves(vec![
            change(r#"{"kafka_topic":"a","kafka_partition":0}"#, r#"{"kafka_offset":7}"#),
            change(r#"{"kafka_topic":"a","kafka_partition":"1"}"#, r#"{"kafka_offset":"8"}"#),
            change(r#"{"kafka_topic":"b","kafka_partition":2}"#, "null"),
        ]);
        let place = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
        assert_eq!(moves.unwrap(), [(place("a", 0), Some(7)), (place("a", 1), Some(8)), (place("b", 2), None)]);
    }

    #[test]
    fn what_is_no_position_is_refused_and_says_why() {
        let cases = [
            (r#"{"topic":"a"}"#, "null", "must contain the keys"),
            (r#"{"kafka_topic":null,"kafka_partition":0}"#, "null", "must be valid strings"),
            (r#"{"kafka_topic":"a","kafka_partition":-1}"#, "null", "partition value"),
            (r#"{"kafka_topic":"a","kafka_partition":0.5}"#, "null", "partition value"),
            (r#"{"kafka_topic":"a","kafka_partition":5000000000}"#, "null", "partition value"),
            (r#"{"kafka_topic":"a","kafka_partition":0}"#, "{}", "kafka_offset"),
            (r#"{"kafka_topic":"a","kafka_partition":0}"#, r#"{"kafka_offset":-3}"#, "offset value"),
            (r#"{"kafka_topic":"a","kafka_partition":0}"#, r#"{"kafka_offset":null}"#, "offset value"),
        ];
        for (partition, offset, part) in cases {
            let refused = format!("{:?}", sink_moves(vec![change(partition, offset)]).unwrap_err());
            assert!(refused.contains(part), "{partition} {offset}: {refused}");
        }
    }
}
