//! `/topics`, `/topics/NAME/records` and `/topics/NAME/follow`: what stands in the topic log, and what comes.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use tailwater_api::Error;

use super::failure::Failure;
use super::requests::{Parameters, Segments};
use super::{Api, answers, record_line};
use crate::runtime::topic_reader::TopicReader;

/// Records of one answer where the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// Most records of one answer.
const MAX_LIMIT: usize = 10_000;
/// An answer that has reached this ends early (I6); the next request goes on behind its last record.
const MAX_ANSWER: usize = 4 << 20;
/// Records read from the log at once.
const STEP: usize = 100;

pub(super) async fn list(State(api): State<Api>) -> Result<Response, Failure> {
    Ok(answers::json(StatusCode::OK, &answers::topics(&api.worker()?.topics().topics().await?)))
}

/// Where to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) limit: Option<usize>,
}

/// Reads `partition` (0), `offset` (0) and `limit`.
pub(super) fn range(parameters: &[(String, String)]) -> Result<Range, Failure> {
    fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, Failure> {
        value.parse().map_err(|_| Failure::bad_request(format!("{key} must be a number, not {value:?}")))
    }
    let mut range = Range { partition: 0, offset: 0, limit: None };
    for (key, value) in parameters {
        match key.as_str() {
            "partition" => range.partition = number(key, value)?,
            "offset" => range.offset = number(key, value)?,
            "limit" => range.limit = Some(number(key, value)?),
            _ => return Err(Failure::bad_request(format!("Unknown parameter {key:?}; known are partition, offset and limit"))),
        }
    }
    Ok(range)
}

/// A JSON array of records, one a line, in the form of [`record_line::write`]. Empty at the end of the partition.
pub(super) async fn records(
    State(api): State<Api>,
    Segments(topic): Segments<String>,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let Range { partition, mut offset, limit } = range(parameters.as_slice())?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let mut reader = api.worker()?.topic_reader(topic, partition).await?;
    let mut answer = String::from("[");
    let mut count = 0;
    while count < limit && answer.len() < MAX_ANSWER {
        let records = reader.read(offset, STEP.min(limit - count)).await?;
        let Some((last, _)) = records.last() else { break };
        offset = last.offset + 1;
        for (stored, converted) in &records {
            answer.push_str(if count == 0 { "\n" } else { ",\n" });
            record_line::write(stored, converted, &mut answer);
            count += 1;
        }
    }
    answer.push_str("]\n");
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}

/// Records, one a line, each sent as soon as it is durable: an answer that ends behind `limit` records, or when the worker stops.
pub(super) async fn follow(State(api): State<Api>, Segments(topic): Segments<String>, parameters: Parameters) -> Result<Response, Failure> {
    let Range { partition, offset, limit } = range(parameters.as_slice())?;
    let mut reader = api.worker()?.topic_reader(topic, partition).await?;
    // What is wrong is answered while it can be.
    reader.read(offset, 1).await?;
    let lines = try_unfold((reader, offset, limit.unwrap_or(usize::MAX)), next_lines);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Where an answer stands that follows a topic: at an offset, with so many records left.
type Following = (TopicReader, u64, usize);

async fn next_lines((mut reader, offset, left): Following) -> Result<Option<(String, Following)>, Error> {
    if left == 0 {
        return Ok(None);
    }
    let records = reader.follow(offset, STEP.min(left)).await?;
    let Some((last, _)) = records.last() else { return Ok(None) };
    let next = last.offset + 1;
    let mut lines = String::new();
    for (stored, converted) in &records {
        record_line::write(stored, converted, &mut lines);
        lines.push('\n');
    }
    Ok(Some((lines, (reader, next, left - records.len()))))
}
