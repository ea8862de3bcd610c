//! Positions in the target (I13).
//!
//! The table `tailwater_offsets` has one row for each partition of each connector: the log, and the offset where to go
//! on. A batch moves its rows in its own transaction, from the offsets that this writer read to the new ones. If a row
//! is not what this writer read, somebody else writes; the transaction is rolled back and nothing of the batch stands.
//! The rows are moved first, so their locks make two writers wait for each other before they touch data.

use std::collections::HashMap;

use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{LogId, LogPosition};
use tailwater_api::{Error, ErrorKind};

use crate::datum::Datum;
use crate::dialect::Dialect;
use crate::failure::{Failure, Meaning};

/// Name of the table. It stands in the connection's own schema.
pub(crate) const TABLE: &str = "tailwater_offsets";

/// The statement that creates it.
pub(crate) const CREATE: &str = "CREATE TABLE IF NOT EXISTS tailwater_offsets (\
     connector text NOT NULL, topic text NOT NULL, \"partition\" bigint NOT NULL, log_id text NOT NULL, \"position\" bigint NOT NULL, \
     PRIMARY KEY (connector, topic, \"partition\"))";

/// Rows of one statement; six parameters each.
const MOST_ROWS: usize = 1000;

/// A row as this writer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) log: LogId,
    pub(crate) offset: u64,
}

/// The rows of the assigned partitions; `None` where the target has none yet.
pub(crate) type HeldPositions = HashMap<TopicPartition, Option<Held>>;

/// Creates the table where it is not there.
pub(crate) async fn create<D: Dialect>(database: &mut D) -> Result<(), Failure> {
    // Looking first lets a user without the right to create tables work with one that was made for it.
    if database.query("SELECT topic FROM tailwater_offsets WHERE 1 = 0", &[]).await.is_ok() {
        return Ok(());
    }
    for last in [false, true] {
        match database.execute(CREATE, &[]).await {
            Ok(_) => return Ok(()),
            // Two that create it at once; the second look finds it.
            Err(cause) if !last && matches!(D::meaning(&cause), Meaning::Data | Meaning::Exists) => {}
            Err(cause) => {
                let grant = database.grant(&cause, TABLE);
                let meaning = D::meaning(&cause);
                let failure = Failure::database(meaning, "create the table tailwater_offsets, which keeps positions in the target", cause);
                return Err(if meaning == Meaning::Other(ErrorKind::Unauthorised) {
                    failure.mend(format!("{grant}; or, as an owner, run {CREATE}; and grant SELECT, INSERT, UPDATE on it"))
                } else {
                    failure
                });
            }
        }
    }
    Ok(())
}

/// Reads the rows of `partitions`, after any transaction that is changing them has ended: a commit whose answer was
/// lost may still be under way (I12).
pub(crate) async fn read<D: Dialect>(
    database: &mut D,
    connector: &str,
    partitions: impl Iterator<Item = TopicPartition>,
) -> Result<HeldPositions, Failure> {
    let sql =
        format!("SELECT topic, \"partition\", log_id, \"position\" FROM tailwater_offsets WHERE connector = $1{}", D::WAIT_FOR_WRITERS);
    let rows = database.query(&sql, &[connector.to_owned().into()]).await.map_err(|cause| {
        let grant = database.grant(&cause, TABLE);
        let failure = Failure::database(D::meaning(&cause), "read the positions in tailwater_offsets", cause);
        if failure.meaning == Meaning::Other(ErrorKind::Unauthorised) { failure.mend(grant) } else { failure }
    })?;
    let mut held: HeldPositions = partitions.map(|partition| (partition, None)).collect();
    for row in rows {
        let Ok([Datum::Text(topic), Datum::Integer(partition), Datum::Text(log), Datum::Integer(offset)]) = <[Datum; 4]>::try_from(row)
        else {
            return Err(damaged("a row has other types than those it was created with").into());
        };
        let (Ok(partition), Ok(offset)) = (u32::try_from(partition), u64::try_from(offset)) else {
            return Err(damaged("a partition or position is negative or too large").into());
        };
        if let Some(place) = held.get_mut(&TopicPartition { topic: (&*topic).into(), partition }) {
            *place = Some(Held { log: (&*log).into(), offset });
        }
    }
    Ok(held)
}

fn damaged(cause: &'static str) -> Error {
    Error::new(ErrorKind::Unreadable, "read the positions in tailwater_offsets")
        .because(cause)
        .mend("correct the rows of tailwater_offsets by hand; do not delete them, or records are written again")
}

/// Moves the rows to `next` if they are what `held` says, in the transaction that is open (I13).
pub(crate) async fn advance<D: Dialect>(
    database: &mut D,
    connector: &str,
    held: &HeldPositions,
    next: &[LogPosition],
) -> Result<(), Failure> {
    let (mut moved, mut new) = (Vec::new(), Vec::new());
    for position in next {
        match held.get(&position.topic_partition) {
            Some(Some(old)) => moved.push((position, old)),
            Some(None) => new.push(position),
            None => {
                let doing = format!("move the position of {}", position.topic_partition);
                return Err(Error::new(ErrorKind::Bug, doing).because("the partition was not assigned to this writer").into());
            }
        }
    }
    for rows in moved.chunks(MOST_ROWS) {
        let mut parameters = vec![connector.to_owned().into()];
        let mut values = Vec::new();
        for (position, old) in rows {
            let first = parameters.len() + 1;
            parameters.extend([
                (*position.topic_partition.topic).to_owned().into(),
                Datum::Integer(position.topic_partition.partition.into()),
                (*old.log).to_owned().into(),
                integer(old.offset)?,
                (*position.log).to_owned().into(),
                integer(position.offset)?,
            ]);
            let kinds = ["text", "bigint", "text", "bigint", "text", "bigint"].iter().enumerate();
            let row: Vec<String> = kinds.map(|(place, kind)| format!("CAST(${} AS {kind})", first + place)).collect();
            values.push(format!("({})", row.join(", ")));
        }
        let sql = format!(
            "UPDATE tailwater_offsets SET log_id = v.column5, \"position\" = v.column6 FROM (VALUES {}) AS v \
             WHERE connector = $1 AND topic = v.column1 AND \"partition\" = v.column2 AND log_id = v.column3 AND \"position\" = v.column4",
            values.join(", ")
        );
        let touched = database.execute(&sql, &parameters).await.map_err(|cause| failed(database, cause))?;
        if touched != rows.len() as u64 {
            return Err(conflict(rows.iter().map(|(position, _)| &position.topic_partition)));
        }
    }
    for rows in new.chunks(MOST_ROWS) {
        let mut parameters = vec![connector.to_owned().into()];
        let mut values = Vec::new();
        for position in rows {
            let first = parameters.len() + 1;
            parameters.extend([
                (*position.topic_partition.topic).to_owned().into(),
                Datum::Integer(position.topic_partition.partition.into()),
                (*position.log).to_owned().into(),
                integer(position.offset)?,
            ]);
            values.push(format!("($1, ${first}, ${}, ${}, ${})", first + 1, first + 2, first + 3));
        }
        let sql =
            format!("INSERT INTO tailwater_offsets (connector, topic, \"partition\", log_id, \"position\") VALUES {}", values.join(", "));
        if let Err(cause) = database.execute(&sql, &parameters).await {
            if D::meaning(&cause) == Meaning::Data {
                return Err(conflict(rows.iter().map(|position| &position.topic_partition)));
            }
            return Err(failed(database, cause));
        }
    }
    Ok(())
}

/// Removes the rows of a connector whose name never comes again. They do no harm where they stay.
pub(crate) async fn forget<D: Dialect>(database: &mut D, connector: &str) {
    let sql = "DELETE FROM tailwater_offsets WHERE connector = $1";
    if let Err(cause) = database.execute(sql, &[connector.to_owned().into()]).await {
        tracing::warn!(error.mend = "delete its rows in tailwater_offsets by hand", "positions of {connector} stay in the target: {cause}");
    }
}

fn failed<D: Dialect>(database: &D, cause: sqlx::Error) -> Failure {
    let grant = database.grant(&cause, TABLE);
    let failure = Failure::database(D::meaning(&cause), "move the positions in tailwater_offsets", cause);
    if failure.meaning == Meaning::Other(ErrorKind::Unauthorised) { failure.mend(grant) } else { failure }
}

fn integer(offset: u64) -> Result<Datum, Error> {
    i64::try_from(offset).map(Datum::Integer).map_err(|_| Error::new(ErrorKind::Bug, format!("store the offset {offset}")))
}

fn conflict<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> Failure {
    let partitions: Vec<String> = partitions.map(ToString::to_string).collect();
    Error::new(ErrorKind::Conflict, format!("move the positions of {} in tailwater_offsets", partitions.join(", ")))
        .because("another writer has moved them; nothing of this batch was written")
        .mend("run one task for each partition: stop the other worker, or give the other connector another name")
        .into()
}
