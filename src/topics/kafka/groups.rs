//! The positions of sinks: what the consumer group of each has committed.
//!
//! The group is `connect-NAME`, as Connect names it, or the one that the connector names by `consumer.override.group.id`. Whatever is asked
//! of it or done to it goes by the rights of the connector's own clients, like reading.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;
use tailwater_api::{Error, ErrorKind, Result};

use super::client::Role;
use super::contents::watermarks;
use super::errors::{failed, failed_with_code};
use super::observer::{ObservingClient, observing_client};
use super::{KafkaLog, PATIENCE, blocking, drop_off_the_async_threads};
use crate::topics::LogUser;

const GROUP: &str = "group.id";

/// The group of a sink, spoken for without being a member of it.
pub(super) struct Group {
    log: KafkaLog,
    name: String,
    client: ObservingClient,
}

impl KafkaLog {
    /// The settings of a member of a sink's group.
    pub(super) fn member(&self, user: &LogUser) -> Result<ClientConfig> {
        let mut config = self.options.client(Role::Consumer, Some(&user.config))?;
        if config.get(GROUP).is_none() {
            config.set(GROUP, format!("connect-{}", user.connector));
        }
        Ok(config)
    }

    /// The group of a sink. Waits for no broker.
    pub(super) fn group(&self, user: &LogUser) -> Result<Group> {
        let mut config = self.member(user)?;
        // That is a member's.
        config.remove("group.instance.id");
        let name = config.get(GROUP).unwrap_or_default().to_owned();
        Ok(Group { log: self.clone(), name, client: observing_client(&config)? })
    }

    /// Moves and forgets positions of a sink, as `TopicLog::move_positions` says.
    pub(super) async fn move_group(&self, user: LogUser, moves: Vec<(TopicPartition, Option<u64>)>) -> Result<()> {
        let log = self.clone();
        let admin = self.options.client(Role::Admin, Some(&user.config))?;
        let forgets = moves.iter().any(|(_, offset)| offset.is_none());
        let (group, positions) = blocking(move || {
            let group = log.group(&user)?;
            let positions = group.moved(moves)?;
            Ok((group, positions))
        })
        .await?;
        // Kafka forgets a group or nothing. Should this process end before the rest is committed again, the sink reads from the
        // beginning: twice, but all.
        if forgets && let Err(error) = delete(&admin, &group.name).await {
            drop_off_the_async_threads(group);
            return Err(error);
        }
        blocking(move || group.commit(&positions)).await
    }
}

impl Group {
    /// All that is committed. Waits for brokers, like all that follows.
    pub(super) fn positions(&self) -> Result<Vec<LogPosition>> {
        let mut all = TopicPartitionList::new();
        for (name, partitions) in self.log.list(&self.client)? {
            for partition in 0..partitions {
                all.add_partition(&name, i32::try_from(partition).unwrap_or(i32::MAX));
            }
        }
        let committed = self.client.committed_offsets(all, PATIENCE);
        let committed = committed.map_err(|error| failed(format!("read the positions of the group {}", self.name), &error))?;
        let position = |element: &TopicPartitionListElem<'_>| {
            let topic_partition = TopicPartition { topic: element.topic().into(), partition: u32::try_from(element.partition()).ok()? };
            Some(LogPosition { log: self.log.log_id(element.topic()), topic_partition, offset: offset_of(element.offset())? })
        };
        Ok(committed.elements().iter().filter_map(position).collect())
    }

    /// All positions as they are after `moves`, each of which must be possible.
    fn moved(&self, moves: Vec<(TopicPartition, Option<u64>)>) -> Result<Vec<LogPosition>> {
        let topics: BTreeMap<_, _> = self.log.list(&self.client)?.into_iter().collect();
        let mut positions = self.positions()?;
        for (place, offset) in moves {
            positions.retain(|position| position.topic_partition != place);
            let Some(offset) = offset else { continue };
            let doing = || format!("go to offset {offset} of {place}");
            if topics.get(&place.topic).is_none_or(|partitions| place.partition as usize >= *partitions) {
                return Err(Error::new(ErrorKind::Missing, doing()).because("there is no such topic or partition"));
            }
            let (first, next) = watermarks(&self.client, &place.topic, place.partition)?;
            if !(first..=next).contains(&offset) {
                let why = format!("it has the offsets {first} to {next}");
                return Err(Error::new(ErrorKind::Misconfigured, doing()).because(why));
            }
            positions.push(LogPosition { log: self.log.log_id(&place.topic), topic_partition: place, offset });
        }
        Ok(positions)
    }

    fn commit(&self, positions: &[LogPosition]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let moved = self.client.commit(&to_list(positions)?, CommitMode::Sync);
        moved.map_err(|error| failed(format!("move the positions of the group {}", self.name), &error))
    }
}

async fn delete(admin: &ClientConfig, group: &str) -> Result<()> {
    let doing = || format!("forget the positions of the group {group}");
    let admin = AdminClient::from_config_and_context(admin, DefaultClientContext).map_err(|error| failed(doing(), &error))?;
    let deleted = admin.delete_groups(&[group], &AdminOptions::new().request_timeout(Some(PATIENCE))).await;
    drop_off_the_async_threads(admin);
    match deleted.map_err(|error| failed(doing(), &error))?.into_iter().next() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound))) | None => Ok(()),
        Some(Err((_, code))) => Err(failed_with_code(doing(), code)),
    }
}

/// Positions as librdkafka takes them.
pub(super) fn to_list(positions: &[LogPosition]) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for LogPosition { topic_partition: place, offset, .. } in positions {
        let number = i32::try_from(place.partition).unwrap_or(i32::MAX);
        let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
        list.add_partition_offset(&place.topic, number, offset).map_err(|error| failed("name positions", &error))?;
    }
    Ok(list)
}

/// The offset that a list of partitions says, if it says one.
pub(super) fn offset_of(offset: Offset) -> Option<u64> {
    match offset {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    }
}
