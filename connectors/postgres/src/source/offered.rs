//! What the server offers a run: who it is, its slot, and whether the stored position can be continued there.

use tailwater_api::{Error, ErrorKind, Result};
use tracing::warn;

use super::Run;
use crate::config::FlushMode;
use crate::connect::replication_options;
use crate::lsn::Lsn;
use crate::position::{LogIdentity, Position};
use crate::replication::{ReplicationConnection, SlotLife, SnapshotAction};
use crate::restart::{Offer, Restart, SwitchPoint, decide, usable_slot};
use crate::slot;

/// The server as the replication protocol sees it.
pub(super) struct Server {
    pub(super) connection: ReplicationConnection,
    pub(super) offer: Offer,
    pub(super) log: LogIdentity,
}

impl Run {
    /// Asks the server who it is and what its slot is.
    pub(super) async fn identify(&self) -> Result<Server> {
        let mut connection = ReplicationConnection::connect(&replication_options(&self.config)).await?;
        let identity = connection.identify_system().await?;
        let switch_points = if identity.timeline > 1 {
            let history = connection.timeline_history(identity.timeline).await?;
            history.into_iter().map(|past| SwitchPoint { timeline: past.timeline, end: past.end }).collect()
        } else {
            Vec::new()
        };
        let offer = Offer {
            system: identity.system_id.clone(),
            timeline: identity.timeline,
            end: identity.xlog_position,
            database: self.config.dbname.clone(),
            in_recovery: self.facts.in_recovery,
            switch_points,
            two_phase: self.config.two_phase,
            slot: slot::load_created(&self.sql, &self.config.slot).await?,
        };
        let log = LogIdentity { system: identity.system_id, timeline: identity.timeline, slot: self.config.slot.clone() };
        Ok(Server { connection, offer, log })
    }

    /// The stored position if it can be continued, `None` where a new beginning is made.
    pub(super) fn hold_against(&self, stored: Option<Position>, offer: &Offer) -> Result<Option<Position>> {
        let Some(position) = stored else {
            return match usable_slot(offer) {
                Ok(_) => Ok(None),
                Err(refusal) if offer.slot.is_none() || (self.config.snapshot.if_history_is_gone && refusal.snapshot_mends()) => Ok(None),
                Err(refusal) => Err(refusal.into_error(&self.config.slot, None)),
            };
        };
        match decide(&position, offer, self.config.flush_mode == FlushMode::ConnectorAndDriver) {
            Restart::Resume => Ok(Some(position)),
            Restart::ResumeBehind { confirmed } => {
                warn!(
                    "the slot is confirmed up to {confirmed}, but the position taken over from Debezium is {}: with \
                     lsn.flush.mode=connector_and_driver that may be right, and changes between may be lost",
                    position.resume
                );
                // The server begins there, whatever it is asked for.
                Ok(Some(Position { resume: confirmed, through: position.through.max(confirmed), ..position }))
            }
            Restart::NotReplayed { end, timeline } => {
                let cause = format!(
                    "the server is a standby that has come to {end} on timeline {timeline} so far, and changes up to {} are published",
                    position.through
                );
                Err(Error::new(ErrorKind::Restarting, format!("continue with slot {}", self.config.slot))
                    .because(cause)
                    .at(position.resume)
                    .mend("see to it that the standby follows its primary (SELECT * FROM pg_stat_wal_receiver;), or follow the primary"))
            }
            Restart::Refused(refusal) if self.config.snapshot.if_history_is_gone && refusal.snapshot_mends() => {
                let reason = refusal.into_error(&self.config.slot, Some(position.resume));
                warn!("a new snapshot is taken, as snapshot.mode allows: {}", reason.sentence());
                Ok(None)
            }
            Restart::Refused(refusal) => Err(refusal.into_error(&self.config.slot, Some(position.resume))),
        }
    }

    /// Where to start without a snapshot: the slot's place, or that of a new slot.
    pub(super) async fn slot_without_snapshot(&self, offered: &mut Server) -> Result<Lsn> {
        match usable_slot(&offered.offer) {
            Ok(confirmed) => Ok(confirmed),
            Err(_) => {
                self.drop_unusable_slot(offered).await?;
                let creation = offered.connection.create_slot(&self.config.slot, self.slot_life(), SnapshotAction::Nothing);
                Ok(slot::explain_wait(&self.sql, &self.config.slot, creation).await.map_err(slot::creation_refused)?.consistent_point)
            }
        }
    }

    /// A slot of ours lives on in the standbys where the server can do that.
    pub(super) fn slot_life(&self) -> SlotLife {
        if self.config.failover_slot && self.facts.version >= 170_000 && !self.facts.in_recovery {
            SlotLife::Failover
        } else {
            SlotLife::Permanent
        }
    }

    /// A slot of ours that lost its log is in the way of a new one. One of somebody else, or with other options,
    /// stays, whatever the stored position is worth.
    pub(super) async fn drop_unusable_slot(&self, offered: &mut Server) -> Result<()> {
        if offered.offer.slot.is_some() {
            if let Some(refusal) = usable_slot(&offered.offer).err().filter(|refusal| !refusal.snapshot_mends()) {
                return Err(refusal.into_error(&self.config.slot, None));
            }
            warn!(slot = %self.config.slot, "the slot is of no use any more and is dropped");
            offered.connection.drop_slot(&self.config.slot).await?;
        }
        Ok(())
    }
}
