//! How a table is published while it is read, which may change at any time.
//!
//! The log publishes each change as the publication was where the change stands in it. So a read takes the rows and columns
//! that the publication names in the read's own snapshot, and rows and events agree (I7): a read that does not see the change
//! of the publication holds what was published until then, and what follows that change in the log is published by the new
//! filter for rows that were read by the old one, as it is for rows that were streamed by it. The filter that a session found at its begin
//! would be wrong for a read that sees the change: a row that only the new one names would be missing though its changes follow,
//! and one that only the old one names would be there though no change of it ever follows.
//!
//! A read that sees the change must not begin too early. A transaction may have changed a row before it, which the old filter
//! kept out of the log, and be invisible to the read: the row would be emitted as it was before, and nothing would tell
//! of the change any more. So the first read that sees another filter comes to nothing, and the next has to see each transaction that
//! ran then: its snapshot's oldest number is not below the first number that was free then. What a read does not see after that has
//! begun behind the change.
//!
//! Rows that the old filter left out stand before the key at which the read goes on, too, or lack columns. So the table is read from its
//! beginning, also where the change came between two runs: what was published stands with the key range (`read`). Rows that the new filter
//! leaves out and that were emitted already stay, as those do that were streamed; this is told (I11).
//!
//! A table that the publication does not name any more is not read until it does again: its changes do not come, and what its filter
//! kept back is not to be shown because somebody takes the table out and puts it in anew.

use serde_json::json;
use tailwater_api::Result;

use super::read::DOING;
use crate::catalog::{Publication, PublishedTable};
use crate::connect::{SqlConnection, sql_error};

/// What a publication says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) table: PublishedTable,
    /// Whether stored generated columns are published
    pub(super) generated: bool,
}

impl Said {
    /// As the snapshot of the session's transaction sees it; `None` where the table is not published under its own name.
    pub(super) async fn load(sql: &SqlConnection, server_version: u32, publication: &str, table: u32) -> Result<Option<Self>> {
        let loaded = PublishedTable::load(sql, server_version, publication, table).await?;
        Ok(loaded.map(|(table, generated)| Self { table, generated }))
    }

    /// A text that another content has not; `None` where all rows and columns are published.
    pub(super) fn text(&self, row_filter: Option<&str>) -> Option<String> {
        let columns = &self.table.columns;
        (columns.is_some() || row_filter.is_some() || self.generated).then(|| json!([columns, row_filter, self.generated]).to_string())
    }
}

/// How reads of a session have found the table published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    /// `None` where it is not published
    said: Option<Said>,
    /// Transactions with lower numbers have to be visible to a read.
    after: u64,
}

/// What a read finds.
pub(super) enum Finding {
    /// The publication is as it was, and the read may rely on it.
    Same,
    /// Transactions run that began before it changed.
    Early,
    /// It does not publish the table any more.
    Withdrawn,
    /// It publishes the table otherwise, and this is to be known of it from now on.
    Changed(Published),
}

impl Published {
    /// As the publication says it when a session begins.
    pub(super) fn at_begin(publication: Option<&Publication>, table: u32) -> Self {
        let said =
            publication.and_then(|publication| Some(Said { table: publication.table(table)?.clone(), generated: publication.generated }));
        Self { said, after: 0 }
    }

    /// Holds it against what the publication says now, in the snapshot of the read's transaction.
    pub(super) async fn hold_against(&self, sql: &SqlConnection, now: Option<&Said>) -> Result<Finding> {
        let is_same = self.said.as_ref() == now;
        if is_same && self.after == 0 {
            return Ok(Finding::Same);
        }
        let (oldest, free) = numbers(sql).await?;
        Ok(match (is_same, now) {
            (true, _) if oldest >= self.after => Finding::Same,
            (true, _) => Finding::Early,
            (false, None) => Finding::Withdrawn,
            (false, Some(now)) => Finding::Changed(Self { said: Some(now.clone()), after: free }),
        })
    }
}

/// The lowest number of a transaction that the snapshot may not see, and the first that was free when it was taken.
async fn numbers(sql: &SqlConnection) -> Result<(u64, u64)> {
    let query = "SELECT txid_snapshot_xmin(seen), txid_snapshot_xmax(seen) FROM txid_current_snapshot() AS seen";
    let row = sql.query_one(query, &[]).await.map_err(|error| sql_error(DOING, error))?;
    Ok((row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_has_a_text_of_its_own() {
        let said = |columns, generated| Said { table: PublishedTable { oid: 1, columns, filtered_by: None }, generated };
        let (plain, listed, generated) = (said(None, false), said(Some(vec!["id".into()]), false), said(None, true));
        let texts = std::collections::HashSet::from([listed.text(None), plain.text(Some("id")), generated.text(None)]);
        assert_eq!((texts.len(), plain.text(None)), (3, None));
    }
}
