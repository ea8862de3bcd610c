//! What is committed: positions, and the lengths of the files that still grow.
//!
//! As a file it is a JSON object:
//! `{"version":1,"positions":[{"log":…,"topic":…,"partition":0,"offset":12}],"files":[{"name":…,"routed":…,"topic":…,"partition":0,"length":345,"opened":MS,"header":…}]}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;
use tailwater_api::{Error, ErrorKind, Result};

use crate::storage::file_name;

const VERSION: u64 = 1;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) positions: BTreeMap<TopicPartition, LogPosition>,
    pub(crate) files: Vec<GrowingFile>,
}

/// Whose records a file holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RoutedPartition {
    /// Topic of the records, to which a transform may have routed them
    pub(crate) topic: Arc<str>,
    /// Where they stand; their offsets are of this partition
    pub(crate) stands_in: TopicPartition,
}

/// A file that still grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrowingFile {
    pub(crate) name: String,
    pub(crate) content: RoutedPartition,
    /// Committed bytes; 0 for a file that is about to be made
    pub(crate) length: u64,
    /// When it was begun, milliseconds since 1970 UTC
    pub(crate) opened: u64,
    /// Its header row, for CSV
    pub(crate) header: Vec<u8>,
}

impl RoutedPartition {
    /// Name of a file that begins at `offset`. Where several topics are routed into one, their offsets are not enough to
    /// tell their files apart.
    pub(crate) fn file_name(&self, offset: u64, extension: &str) -> String {
        let TopicPartition { topic, partition } = &self.stands_in;
        let routed = if self.topic == *topic { String::new() } else { format!("{}+", file_name(&self.topic)) };
        format!("{routed}{}+{partition}+{offset:020}.{extension}", file_name(topic))
    }
}

impl Manifest {
    pub(crate) fn to_text(&self) -> Vec<u8> {
        let positions: Vec<_> = self.positions.values().map(position_to_json).collect();
        let files: Vec<_> = self.files.iter().map(file_to_json).collect();
        json!({"version": VERSION, "positions": positions, "files": files}).to_string().into_bytes()
    }

    pub(crate) fn from_text(text: &[u8]) -> Result<Self> {
        let unreadable = |why: String| {
            Error::new(ErrorKind::Unreadable, "read the manifest of the file sink")
                .because(why)
                .mend("restore it from a copy; without it, files and positions cannot be brought together")
        };
        let json: Json = serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))?;
        if json["version"].as_u64() != Some(VERSION) {
            return Err(unreadable(format!("its version is {}, not {VERSION}", json["version"])));
        }
        let entries = |name: &str| json[name].as_array().ok_or_else(|| unreadable(format!("it has no {name}")));
        let mut manifest = Self::default();
        for entry in entries("positions")? {
            let position = position_from_json(entry).ok_or_else(|| unreadable(format!("{entry} is no position")))?;
            manifest.positions.insert(position.topic_partition.clone(), position);
        }
        for entry in entries("files")? {
            manifest.files.push(file_from_json(entry).ok_or_else(|| unreadable(format!("{entry} is no file")))?);
        }
        Ok(manifest)
    }
}

fn position_to_json(position: &LogPosition) -> Json {
    let place = &position.topic_partition;
    json!({"log": &*position.log, "topic": &*place.topic, "partition": place.partition, "offset": position.offset})
}

fn position_from_json(json: &Json) -> Option<LogPosition> {
    Some(LogPosition { log: json["log"].as_str()?.into(), topic_partition: place_from_json(json)?, offset: json["offset"].as_u64()? })
}

fn file_to_json(file: &GrowingFile) -> Json {
    let place = &file.content.stands_in;
    let header = String::from_utf8_lossy(&file.header);
    json!({"name": file.name, "routed": &*file.content.topic, "topic": &*place.topic, "partition": place.partition, "length": file.length, "opened": file.opened, "header": header})
}

fn file_from_json(json: &Json) -> Option<GrowingFile> {
    Some(GrowingFile {
        name: json["name"].as_str()?.to_owned(),
        content: RoutedPartition { topic: json["routed"].as_str()?.into(), stands_in: place_from_json(json)? },
        length: json["length"].as_u64()?,
        opened: json["opened"].as_u64()?,
        header: json["header"].as_str()?.as_bytes().to_vec(),
    })
}

fn place_from_json(json: &Json) -> Option<TopicPartition> {
    Some(TopicPartition { topic: json["topic"].as_str()?.into(), partition: u32::try_from(json["partition"].as_u64()?).ok()? })
}
