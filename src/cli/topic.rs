//! `topic list` and `topic read`: of a running worker over REST, or of the journals of one that is down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use serde_json::value::RawValue;
use tailwater_api::config::ConfigValues;
use tailwater_api::{Error, ErrorKind};

use super::client::{Address, Client};
use super::open::{Opened, open_read_only};
use super::output::{Output, print, table};
use super::{Exit, Failure};
use crate::config::check::flatten;
use crate::config::worker_file;
use crate::connectors;
use crate::converters::Converters;
use crate::rest::{record_line, segment};
use crate::topics::UNAVAILABLE;

/// Time before an answer that broke off is asked for again.
const PAUSE: Duration = Duration::from_millis(200);
/// Records asked for at once.
const STEP: u64 = 500;

#[derive(Subcommand)]
pub(super) enum Topic {
    /// Shows all topics
    List {
        #[command(flatten)]
        place: Place,
        /// Form of the result
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Prints the records of a topic, one JSON object a line
    Read(Read),
}

/// Where the topics are.
#[derive(Args)]
pub(super) struct Place {
    #[command(flatten)]
    address: Address,
    /// Read the journals of a worker that is down, without a lock
    #[arg(long, conflicts_with = "url")]
    data_dir: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Read {
    /// Name of the topic
    name: String,
    /// Begin with the oldest record; so it does by default without --follow, and at the end with it
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Begin with this offset
    #[arg(long)]
    offset: Option<u64>,
    /// Partition to read
    #[arg(long, default_value_t = 0)]
    partition: u32,
    /// End after so many records
    #[arg(long)]
    max: Option<u64>,
    /// Wait for more at the end of the topic
    #[arg(long, conflicts_with = "data_dir")]
    follow: bool,
    /// The worker file, for the converters of sources that name none (with --data-dir)
    #[arg(long, requires = "data_dir")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

impl Topic {
    pub(super) async fn execute(self) -> Result<Exit, Failure> {
        match self {
            Self::List { place, output } => {
                let topics = place.topics().await?;
                match output {
                    Output::Text => print(&list(&topics))?,
                    Output::Json => print(&format!("{topics}\n"))?,
                }
                Ok(Exit::Done)
            }
            Self::Read(read) => read.execute().await,
        }
    }
}

impl Place {
    /// As `/topics` answers.
    async fn topics(&self) -> Result<Value, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(crate::rest::topics_answer(&open_read_only(data_dir).await?.topics.topics().await?)),
            None => self.address.client()?.get("/topics").await,
        }
    }
}

fn list(topics: &Value) -> String {
    let mut rows = Vec::new();
    for topic in topics.as_array().into_iter().flatten() {
        for partition in topic["partitions"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let connector = topic["connector"].as_str().unwrap_or("-").to_owned();
            rows.push([
                text(&topic["name"]),
                connector,
                text(&partition["partition"]),
                text(&partition["first_offset"]),
                text(&partition["next_offset"]),
            ]);
        }
    }
    table(["TOPIC", "CONNECTOR", "PARTITION", "FIRST", "NEXT"], &rows)
}

/// Gives records of one partition as lines, from an offset on.
enum Reader {
    Worker(Client),
    Journal { opened: Opened, converters: Converters },
}

impl Read {
    async fn execute(self) -> Result<Exit, Failure> {
        let mut offset = self.start().await?;
        let mut left = self.max.unwrap_or(u64::MAX);
        if self.follow {
            return self.follow(offset, left).await;
        }
        let mut reader = match &self.place.data_dir {
            Some(data_dir) => journal(data_dir, &self.name, self.config.as_deref()).await?,
            None => Reader::Worker(self.place.address.client()?),
        };
        while left > 0 {
            let lines = reader.read(&self.name, self.partition, offset, STEP.min(left)).await?;
            let Some((last, _)) = lines.last() else { break };
            offset = last + 1;
            left -= u64::try_from(lines.len()).unwrap_or(left).min(left);
            print(&lines.iter().map(|(_, line)| format!("{line}\n")).collect::<String>())?;
        }
        Ok(Exit::Done)
    }

    /// Prints what is there and what comes, until there were `left` records. An answer that breaks off is asked for again behind its last
    /// whole line; where that cannot be, the worker says why.
    async fn follow(&self, mut offset: u64, mut left: u64) -> Result<Exit, Failure> {
        let client = self.place.address.client()?;
        while left > 0 {
            let path = format!("/topics/{}/follow?partition={}&offset={offset}&limit={left}", segment(&self.name), self.partition);
            let mut answer = client.begin(reqwest::Method::GET, &path, None).await?;
            let mut received = Vec::new();
            while let Ok(Some(chunk)) = answer.chunk().await {
                received.extend_from_slice(&chunk);
                let Some(end) = memchr::memrchr(b'\n', &received) else { continue };
                let whole: Vec<u8> = received.drain(..=end).collect();
                for line in whole.split_inclusive(|octet| *octet == b'\n') {
                    offset = offset_of(line).map_err(|error| not_a_worker(&error))? + 1;
                    left = left.saturating_sub(1);
                }
                print(&String::from_utf8_lossy(&whole))?;
            }
            if left > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(Exit::Done)
    }

    /// The offset of the first record to read.
    async fn start(&self) -> Result<u64, Failure> {
        let topics = self.place.topics().await?;
        let topic = topics.as_array().into_iter().flatten().find(|topic| topic["name"] == self.name.as_str());
        let topic = topic
            .ok_or_else(|| Error::new(ErrorKind::Missing, format!("read the topic {}", self.name)).because("there is no such topic"))?;
        let partitions = topic["partitions"].as_array().into_iter().flatten();
        let partition = partitions.into_iter().find(|partition| partition["partition"] == self.partition);
        let partition = partition.ok_or_else(|| Failure::failed(format!("the topic {} has no partition {}", self.name, self.partition)))?;
        let end = if self.follow && !self.from_beginning { "next_offset" } else { "first_offset" };
        Ok(self.offset.or_else(|| partition[end].as_u64()).unwrap_or_default())
    }
}

/// Opens the journals, with the converters that the topic's source names.
async fn journal(data_dir: &Path, topic: &str, config: Option<&Path>) -> Result<Reader, Failure> {
    let worker = worker_file::load(config, &[]);
    let worker = worker.map_err(|report| Failure::invalid(&config.unwrap_or(Path::new("")).display().to_string(), &report))?;
    let opened = open_read_only(data_dir).await?;
    let writer = opened.topics.topics().await?.into_iter().find(|info| *info.name == *topic).and_then(|info| info.writer);
    let stored = opened.store.list().await?.into_iter().find(|stored| Some(stored.name.as_str()) == writer.as_deref());
    let values = match &stored {
        Some(stored) => flatten(&stored.config).map_err(|report| Failure::invalid(&stored.name, &report))?,
        None => ConfigValues::default(),
    };
    let plugin = values.get("connector.class").and_then(connectors::find);
    let placeholder = plugin.map_or_else(|| UNAVAILABLE.to_owned(), |plugin| plugin.unavailable_value_placeholder(&values));
    let (converters, _) =
        Converters::from_config(&values, &worker.values, &placeholder).map_err(|report| Failure::invalid(topic, &report))?;
    Ok(Reader::Journal { opened, converters })
}

impl Reader {
    /// At most `limit` offsets and lines; none at the end.
    async fn read(&mut self, topic: &str, partition: u32, offset: u64, limit: u64) -> Result<Vec<(u64, String)>, Failure> {
        match self {
            Self::Worker(client) => {
                let path = format!("/topics/{}/records?partition={partition}&offset={offset}&limit={limit}", segment(topic));
                let text = client.send(reqwest::Method::GET, &path, None).await?;
                lines(&text).map_err(|error| not_a_worker(&error))
            }
            Self::Journal { opened, converters } => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let mut lines = Vec::new();
                for stored in opened.topics.read(topic, partition, offset, limit).await? {
                    let mut line = String::new();
                    record_line::write(&stored, &converters.convert(&stored.record)?, &mut line);
                    lines.push((stored.offset, line));
                }
                Ok(lines)
            }
        }
    }
}

/// The records of an answer, each exactly as it was written.
fn lines(answer: &str) -> serde_json::Result<Vec<(u64, String)>> {
    let records: Vec<&RawValue> = serde_json::from_str(answer)?;
    records.into_iter().map(|raw| Ok((offset_of(raw.get().as_bytes())?, raw.get().to_owned()))).collect()
}

fn offset_of(record: &[u8]) -> serde_json::Result<u64> {
    #[derive(serde::Deserialize)]
    struct Place {
        offset: u64,
    }
    Ok(serde_json::from_slice::<Place>(record)?.offset)
}

fn not_a_worker(error: &serde_json::Error) -> Failure {
    Failure::failed(format!("the worker does not answer as one does: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_an_answer_stay_as_they_are() {
        let answer = "[\n{\"topic\":\"t\",\"offset\":7,\"value\":\"1.10\"},\n{\"topic\":\"t\",\"offset\":9}]\n";
        let expected =
            [(7, "{\"topic\":\"t\",\"offset\":7,\"value\":\"1.10\"}".to_owned()), (9, "{\"topic\":\"t\",\"offset\":9}".to_owned())];
        assert_eq!(lines(answer).unwrap(), expected);
        assert_eq!(lines("[]\n").unwrap(), []);
    }

    #[test]
    fn topics_become_a_table() {
        let topics =
            json!([{"name": "a", "connector": null, "log": "l", "partitions": [{"partition": 0, "first_offset": 1, "next_offset": 5}]}]);
        assert_eq!(list(&topics), "TOPIC  CONNECTOR  PARTITION  FIRST  NEXT\na      -          0          1      5\n");
    }
}
