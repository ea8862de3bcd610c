//! Where a new beginning reads from, and the tables as of then.
//!
//! The creation of a slot waits for open transactions, for as long as these please. A table may be made meanwhile: its rows are in the
//! snapshot that the slot exports, and not in the log behind it. So what is captured is looked at again behind the slot (I11).
//!
//! What is published only then has changes between the slot and that moment that neither the snapshot nor the log tells of. Another
//! anchor behind that holds them, and so does one behind any other change of what the publication names, such as a row filter. A table that
//! is made in a publication of all tables, or in a schema that it names, is published from its birth.

use std::collections::HashSet;

use tailwater_api::Result;
use tailwater_kit::crash_point::crash_point;
use tracing::info;

use super::captured::{warn_about_unlogged, warn_about_untold_keys};
use super::offered::Server;
use super::unpublished::warn_about_unpublished;
use super::{Run, captured};
use crate::catalog::TableDefinition;
use crate::lsn::Lsn;
use crate::position::LogIdentity;
use crate::replication::SnapshotAction;
use crate::restart::usable_slot;
use crate::snapshot::{Anchor, temporary_anchor};
use crate::{publication, slot};

/// Where tables are read that nobody has read.
pub(super) struct Beginning {
    pub(super) anchor: Anchor,
    /// From where the slot sends; not behind the anchor
    pub(super) slot: Lsn,
    pub(super) log: LogIdentity,
}

impl Run {
    /// Anchors a new beginning in the snapshot of the new slot, or of a temporary one where the slot is there already.
    pub(super) async fn begin_anew(&mut self, mut offered: Server) -> Result<Beginning> {
        let (mut anchor, slot) = match usable_slot(&offered.offer) {
            Ok(confirmed) => (temporary_anchor(&self.config, &self.sql).await?, confirmed),
            Err(_) => {
                self.drop_unusable_slot(&mut offered).await?;
                let creation = offered.connection.create_slot(&self.config.slot, self.slot_life(), SnapshotAction::Export);
                let created = slot::explain_wait(&self.sql, &self.config.slot, creation).await.map_err(slot::creation_refused)?;
                info!(slot = %self.config.slot, at = %created.consistent_point, "created the slot");
                // The position that names it is not stored yet.
                crash_point("slot-created");
                let lsn = created.consistent_point;
                (Anchor { lsn, exported: created.snapshot_name, _keeper: Some(offered.connection) }, lsn)
            }
        };
        while self.look_again().await? {
            // It may hold the last slot that is free.
            drop(anchor);
            anchor = temporary_anchor(&self.config, &self.sql).await?;
        }
        Ok(Beginning { anchor, slot, log: offered.log })
    }

    /// Looks again at what is captured, and publishes what came where the configuration asks for it. Says whether the publication names
    /// something else than it did.
    pub(super) async fn look_again(&mut self) -> Result<bool> {
        let definitions = TableDefinition::load(&self.sql, None).await?;
        let captured = captured(&self.config, &definitions);
        let known: HashSet<u32> = self.definitions.iter().map(|table| table.oid).collect();
        let is_news = |table: &TableDefinition| !known.contains(&table.oid);
        let (publication, refused) = publication::ensure(&self.sql, &self.config, &self.facts, &definitions, &self.refused).await?;
        warn_about_unlogged(&self.config, &definitions.iter().filter(|table| is_news(table)).cloned().collect::<Vec<_>>());
        warn_about_unpublished(&self.config, &self.facts, &publication, &definitions, is_news);
        warn_about_untold_keys(&self.config, &captured.into_iter().filter(|table| is_news(table)).collect::<Vec<_>>());
        let is_changed = self.publication.as_ref().is_none_or(|before| before.named != publication.named);
        self.plans.know(self.session.load_types().await?, definitions.clone());
        self.definitions = definitions;
        (self.publication, self.refused) = (Some(publication), refused);
        Ok(is_changed)
    }
}
