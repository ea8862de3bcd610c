//! Whether a stored position can be continued on the server that answers: one total function (I3).
//!
//! | found | action |
//! |---|---|
//! | other system identifier | refused |
//! | slot missing, lost, of another database or plug-in | refused |
//! | slot that decodes prepared transactions before their commit, where that is not asked for | refused |
//! | same timeline, something durable beyond the server's end of log | diverged |
//! | newer timeline, all that is durable before its switch point | goes on below |
//! | newer timeline, something durable behind the switch point; older timeline; a branch the server does not know | diverged |
//! | a standby, and what is durable lies beyond its end of log, or on a newer timeline | waited for: it has not replayed that yet |
//! | position before the slot's `confirmed_flush_lsn` | gap: the server would skip it without a word |
//! | position at or after `confirmed_flush_lsn` | resume |
//!
//! `START_REPLICATION` with a place before `confirmed_flush_lsn` silently starts at `confirmed_flush_lsn` (PostgreSQL,
//! `CreateDecodingContext`), which is why the gap has to be found here, and once more when the slot is ours (`slot`). An offset taken over from Debezium names no
//! server; there is nothing to hold against the system identifier and the timeline. With
//! `lsn.flush.mode=connector_and_driver` Debezium confirms before it stores, so for its offsets a gap is only warned about.
//!
//! A slot decodes in two phases once it was asked to, and cannot be told that it did not for a while: of a transaction that was
//! prepared meanwhile nothing but its commit would come later.

use tailwater_api::{Error, ErrorKind};

use crate::lsn::Lsn;
use crate::position::Position;

/// The plug-in that our slots decode with.
pub(crate) const PLUGIN: &str = "pgoutput";

/// How all tables are read again where the place in the log is lost.
pub(crate) const RESNAPSHOT: &str = "set snapshot.mode to when_needed, which reads all tables again and tells where targets may keep rows \
                                     that were deleted meanwhile; to delete the connector's offsets instead (DELETE /connectors/NAME/offsets) \
                                     tells nothing of these, so empty the targets first";

/// How that is done where the slot is still there, and the place in it is of no use.
pub(crate) fn resnapshot_without(slot: Option<&str>) -> String {
    let (slot, named) = slot.map_or(("…", " (the slot.name)"), |slot| (slot, ""));
    format!("stop the connector, SELECT pg_drop_replication_slot('{slot}');{named} and {RESNAPSHOT}")
}

/// A timeline of the past and where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SwitchPoint {
    pub(crate) timeline: u32,
    pub(crate) end: Lsn,
}

/// What the server says about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotState {
    /// `None` for a physical slot
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) confirmed_flush: Option<Lsn>,
    /// Whether prepared transactions are decoded before their commit
    pub(crate) two_phase: bool,
    /// Whether the server removed log that the slot needs
    pub(crate) lost: bool,
    pub(crate) active_pid: Option<i32>,
    /// Why the server gave the slot up (`pg_replication_slots.invalidation_reason`, since PostgreSQL 17)
    pub(crate) invalidation: Option<String>,
}

/// What the server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) system: String,
    pub(crate) timeline: u32,
    /// End of the server's log
    pub(crate) end: Lsn,
    pub(crate) database: String,
    /// Whether it is a standby, whose log goes on to end further behind
    pub(crate) in_recovery: bool,
    /// History of the server's timeline
    pub(crate) switch_points: Vec<SwitchPoint>,
    /// Whether prepared transactions are asked for before their commit
    pub(crate) two_phase: bool,
    pub(crate) slot: Option<SlotState>,
}

/// What to do with a stored position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Go on from it.
    Resume,
    /// Go on from it, although the slot is ahead: Debezium confirmed before it stored.
    ResumeBehind { confirmed: Lsn },
    /// A standby may come to it: its log ends here so far.
    NotReplayed { end: Lsn, timeline: u32 },
    /// What stood after the position cannot be had.
    Refused(Refusal),
}

/// Why a position cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    OtherSystem { stored: String, found: String },
    SlotMissing,
    SlotLost { reason: Option<String> },
    SlotOfOtherDatabase { found: String },
    SlotOfOtherPlugin { found: String },
    SlotOfTwoPhases,
    Diverged { stored_timeline: u32, found_timeline: u32, ended: Option<Lsn> },
    BeyondEnd { end: Lsn },
    Gap { confirmed: Lsn },
}

/// The table above.
pub(crate) fn decide(position: &Position, offer: &Offer, confirmed_before_stored: bool) -> Restart {
    if let Some(log) = &position.log
        && log.system != offer.system
    {
        return Restart::Refused(Refusal::OtherSystem { stored: log.system.clone(), found: offer.system.clone() });
    }
    let confirmed = match usable_slot(offer) {
        Ok(confirmed) => confirmed,
        Err(refusal) => return Restart::Refused(refusal),
    };
    let is_on_newer_timeline = position.log.as_ref().is_some_and(|log| log.timeline > offer.timeline);
    if offer.in_recovery && (is_on_newer_timeline || position.through > offer.end) {
        return Restart::NotReplayed { end: offer.end, timeline: offer.timeline };
    }
    if let Some(log) = &position.log {
        let diverged = |ended| Refusal::Diverged { stored_timeline: log.timeline, found_timeline: offer.timeline, ended };
        if log.timeline != offer.timeline {
            match offer.switch_points.iter().find(|past| past.timeline == log.timeline) {
                Some(past) if log.timeline < offer.timeline && position.through <= past.end => {}
                Some(past) => return Restart::Refused(diverged(Some(past.end))),
                None => return Restart::Refused(diverged(None)),
            }
        }
    }
    if position.through > offer.end {
        return Restart::Refused(Refusal::BeyondEnd { end: offer.end });
    }
    if position.resume >= confirmed {
        Restart::Resume
    } else if position.log.is_none() && confirmed_before_stored {
        Restart::ResumeBehind { confirmed }
    } else {
        Restart::Refused(Refusal::Gap { confirmed })
    }
}

/// The place up to which the slot is confirmed, if it is ours to use.
pub(crate) fn usable_slot(offer: &Offer) -> Result<Lsn, Refusal> {
    let Some(slot) = &offer.slot else {
        return Err(Refusal::SlotMissing);
    };
    if slot.plugin.as_deref() != Some(PLUGIN) {
        return Err(Refusal::SlotOfOtherPlugin { found: slot.plugin.clone().unwrap_or_else(|| "none (a physical slot)".into()) });
    }
    if slot.database.as_deref() != Some(&offer.database) {
        return Err(Refusal::SlotOfOtherDatabase { found: slot.database.clone().unwrap_or_default() });
    }
    if slot.two_phase && !offer.two_phase {
        return Err(Refusal::SlotOfTwoPhases);
    }
    match slot.confirmed_flush {
        Some(confirmed) if !slot.lost => Ok(confirmed),
        // Without it the slot was never consistent: its creation was interrupted.
        Some(_) | None => Err(Refusal::SlotLost { reason: slot.invalidation.clone() }),
    }
}

impl Refusal {
    /// Whether a new snapshot can mend it without touching what belongs to somebody else.
    pub(crate) fn snapshot_mends(&self) -> bool {
        match self {
            Self::OtherSystem { .. }
            | Self::SlotMissing
            | Self::SlotLost { .. }
            | Self::Diverged { .. }
            | Self::BeyondEnd { .. }
            | Self::Gap { .. } => true,
            Self::SlotOfOtherDatabase { .. } | Self::SlotOfOtherPlugin { .. } | Self::SlotOfTwoPhases => false,
        }
    }

    /// The error of a connector that may not take a new snapshot.
    pub(crate) fn into_error(self, slot: &str, position: Option<Lsn>) -> Error {
        let kind = if self.snapshot_mends() { ErrorKind::HistoryGone } else { ErrorKind::Conflict };
        let doing = match position {
            Some(_) => format!("continue with slot {slot}"),
            None => format!("use slot {slot}"),
        };
        let (cause, mend) = match self {
            Self::OtherSystem { stored, found } => (
                format!("the stored position belongs to the server with system identifier {stored}, this one is {found}"),
                format!("connect to the former server, or {RESNAPSHOT}"),
            ),
            Self::SlotMissing => ("the slot does not exist any more; changes since the stored position are lost".into(), RESNAPSHOT.into()),
            Self::SlotLost { reason } => {
                (lost_because(reason.as_deref()), format!("SELECT pg_drop_replication_slot('{slot}'); and {RESNAPSHOT}"))
            }
            Self::SlotOfOtherDatabase { found } => (
                format!("it belongs to database {found}"),
                "name another slot with slot.name; slots are shared by all databases of a server".into(),
            ),
            Self::SlotOfOtherPlugin { found } => {
                (format!("its plug-in is {found}, not {PLUGIN}"), "name another slot with slot.name; this one is somebody else's".into())
            }
            Self::SlotOfTwoPhases => (
                "it decodes prepared transactions before their commit, and transaction.two.phase is false".into(),
                format!("set transaction.two.phase to true; to give it up, {}", resnapshot_without(Some(slot))),
            ),
            Self::Diverged { stored_timeline, found_timeline, ended } => {
                let ended = ended.map_or_else(|| "which this server never had".to_owned(), |end| format!("which ended at {end}"));
                (
                    format!(
                        "the stored position lies on timeline {stored_timeline}, {ended}; the server is on timeline {found_timeline}, \
                         so changes were published that no longer exist there"
                    ),
                    RESNAPSHOT.into(),
                )
            }
            Self::BeyondEnd { end } => (
                format!(
                    "the server's log ends at {end}: it was restored from an older state, and changes were published that no longer exist there"
                ),
                RESNAPSHOT.into(),
            ),
            Self::Gap { confirmed } => (
                format!("the slot is confirmed up to {confirmed}: changes between were given to somebody else or were skipped"),
                RESNAPSHOT.into(),
            ),
        };
        let error = Error::new(kind, doing).because(cause).mend(mend);
        match position {
            Some(position) => error.at(position),
            None => error,
        }
    }
}

/// Why a slot is lost, by the server's reason (PostgreSQL 18, `pg_replication_slots`), and how it is kept from happening again.
fn lost_because(reason: Option<&str>) -> String {
    match reason {
        Some("idle_timeout") => "nobody used the slot for longer than idle_replication_slot_timeout, so the server gave it up".into(),
        Some("rows_removed") => {
            "the primary removed catalog rows that the slot of this standby needs; set hot_standby_feedback = on and primary_slot_name"
                .into()
        }
        Some("wal_level_insufficient") => "the primary had a wal_level below logical for a while".into(),
        Some("wal_removed") | None => "the server has removed log that the slot needs (max_slot_wal_keep_size)".into(),
        Some(other) => format!("the server has given the slot up: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::position::{LastMessage, LogIdentity, MessageKind, SnapshotProgress};

    fn position(resume: u64) -> Position {
        Position {
            log: Some(LogIdentity { system: "7".into(), timeline: 1, slot: "s".into() }),
            resume: Lsn::new(resume),
            through: Lsn::new(resume),
            last_commit: None,
            partial: None,
            snapshot: SnapshotProgress::Streaming,
            last: LastMessage { lsn: Lsn::new(resume), xid: None, timestamp: 0, kind: MessageKind::Commit },
        }
    }

    fn slot(confirmed: u64) -> SlotState {
        SlotState {
            plugin: Some(PLUGIN.into()),
            database: Some("shop".into()),
            confirmed_flush: Some(Lsn::new(confirmed)),
            two_phase: false,
            lost: false,
            active_pid: None,
            invalidation: None,
        }
    }

    fn offer(confirmed: u64) -> Offer {
        Offer {
            system: "7".into(),
            timeline: 1,
            end: Lsn::new(1000),
            database: "shop".into(),
            in_recovery: false,
            switch_points: Vec::new(),
            two_phase: false,
            slot: Some(slot(confirmed)),
        }
    }

    fn promoted(confirmed: u64, switched_at: u64) -> Offer {
        let switch_points = vec![SwitchPoint { timeline: 1, end: Lsn::new(switched_at) }];
        Offer { timeline: 2, switch_points, ..offer(confirmed) }
    }

    #[test]
    fn a_position_at_or_after_the_confirmed_place_resumes() {
        assert_eq!(decide(&position(100), &offer(100), false), Restart::Resume);
        assert_eq!(decide(&position(101), &offer(100), false), Restart::Resume);
    }

    #[test]
    fn a_position_before_the_confirmed_place_is_a_gap() {
        assert_eq!(decide(&position(99), &offer(100), false), Restart::Refused(Refusal::Gap { confirmed: Lsn::new(100) }));
        assert_eq!(decide(&position(99), &offer(100), true), Restart::Refused(Refusal::Gap { confirmed: Lsn::new(100) }));
    }

    #[test]
    fn debeziums_driver_may_have_confirmed_what_was_not_stored() {
        let taken_over = Position { log: None, ..position(99) };
        assert_eq!(decide(&taken_over, &offer(100), true), Restart::ResumeBehind { confirmed: Lsn::new(100) });
        assert_eq!(decide(&taken_over, &offer(100), false), Restart::Refused(Refusal::Gap { confirmed: Lsn::new(100) }));
    }

    #[test]
    fn a_newer_timeline_resumes_up_to_its_switch_point() {
        assert_eq!(decide(&position(100), &promoted(50, 100), false), Restart::Resume);
        let diverged = Refusal::Diverged { stored_timeline: 1, found_timeline: 2, ended: Some(Lsn::new(99)) };
        assert_eq!(decide(&position(100), &promoted(50, 99), false), Restart::Refused(diverged));
    }

    #[test]
    fn a_newer_timeline_with_a_slot_ahead_is_a_gap() {
        assert_eq!(decide(&position(100), &promoted(101, 200), false), Restart::Refused(Refusal::Gap { confirmed: Lsn::new(101) }));
    }

    #[test]
    fn an_older_or_unknown_timeline_has_diverged() {
        let mut older = position(100);
        older.log.as_mut().unwrap().timeline = 3;
        let diverged = |stored| Restart::Refused(Refusal::Diverged { stored_timeline: stored, found_timeline: 2, ended: None });
        assert_eq!(decide(&older, &promoted(50, 200), false), diverged(3));
        let unknown = Offer { switch_points: Vec::new(), ..promoted(50, 200) };
        assert_eq!(decide(&position(100), &unknown, false), diverged(1));
    }

    #[test]
    fn a_position_beyond_the_end_of_the_log_is_refused() {
        assert_eq!(decide(&position(1001), &offer(100), false), Restart::Refused(Refusal::BeyondEnd { end: Lsn::new(1000) }));
    }

    #[test]
    fn a_standby_is_waited_for_until_it_has_replayed_what_is_durable() {
        let standby = |offer| Offer { in_recovery: true, ..offer };
        assert_eq!(decide(&position(1000), &standby(offer(100)), false), Restart::Resume);
        let not_replayed = Restart::NotReplayed { end: Lsn::new(1000), timeline: 1 };
        assert_eq!(decide(&position(1001), &standby(offer(100)), false), not_replayed);
        // It follows its primary to the newer timeline.
        let mut newer = position(100);
        newer.log.as_mut().unwrap().timeline = 2;
        assert_eq!(decide(&newer, &standby(offer(100)), false), not_replayed);
        // What it never had, or will not come to, is refused at once.
        assert!(matches!(decide(&position(100), &standby(promoted(50, 99)), false), Restart::Refused(Refusal::Diverged { .. })));
        assert_eq!(decide(&position(99), &standby(offer(100)), false), Restart::Refused(Refusal::Gap { confirmed: Lsn::new(100) }));
        let slotless = Offer { slot: None, ..standby(offer(100)) };
        assert_eq!(decide(&position(1001), &slotless, false), Restart::Refused(Refusal::SlotMissing));
    }

    #[test]
    fn what_is_durable_behind_a_resume_point_that_is_held_back_counts_for_timelines_and_the_end_of_the_log() {
        let held = |through| Position { through: Lsn::new(through), ..position(100) };
        assert_eq!(decide(&held(150), &promoted(50, 150), false), Restart::Resume);
        assert!(matches!(decide(&held(150), &promoted(50, 149), false), Restart::Refused(Refusal::Diverged { .. })));
        assert_eq!(decide(&held(1000), &offer(100), false), Restart::Resume);
        assert_eq!(decide(&held(1001), &offer(100), false), Restart::Refused(Refusal::BeyondEnd { end: Lsn::new(1000) }));
    }

    #[test]
    fn another_system_is_refused_before_anything_is_compared() {
        let other = Offer { system: "8".into(), slot: None, ..offer(100) };
        let refusal = Refusal::OtherSystem { stored: "7".into(), found: "8".into() };
        assert_eq!(decide(&position(100), &other, false), Restart::Refused(refusal));
    }

    #[test]
    fn a_slot_that_is_missing_lost_or_not_ours_is_refused() {
        let with = |slot| decide(&position(100), &Offer { slot, ..offer(100) }, false);
        assert_eq!(with(None), Restart::Refused(Refusal::SlotMissing));
        assert_eq!(with(Some(SlotState { lost: true, ..slot(100) })), Restart::Refused(Refusal::SlotLost { reason: None }));
        assert_eq!(with(Some(SlotState { confirmed_flush: None, ..slot(100) })), Restart::Refused(Refusal::SlotLost { reason: None }));
        let other = SlotState { database: Some("b".into()), ..slot(100) };
        assert_eq!(with(Some(other)), Restart::Refused(Refusal::SlotOfOtherDatabase { found: "b".into() }));
        let other = SlotState { plugin: Some("decoderbufs".into()), ..slot(100) };
        assert_eq!(with(Some(other)), Restart::Refused(Refusal::SlotOfOtherPlugin { found: "decoderbufs".into() }));
        let two_phases = SlotState { two_phase: true, ..slot(100) };
        assert_eq!(with(Some(two_phases.clone())), Restart::Refused(Refusal::SlotOfTwoPhases));
        for slot in [two_phases, slot(100)] {
            let asked_for = Offer { two_phase: true, slot: Some(slot), ..offer(100) };
            assert_eq!(decide(&position(100), &asked_for, false), Restart::Resume);
        }
        let physical = SlotState { plugin: None, database: None, ..slot(100) };
        assert!(matches!(with(Some(physical)), Restart::Refused(Refusal::SlotOfOtherPlugin { .. })));
    }

    #[test]
    fn every_refusal_says_how_to_mend_it() {
        let at = Some(Lsn::new(1));
        for refusal in [
            Refusal::OtherSystem { stored: "7".into(), found: "8".into() },
            Refusal::SlotMissing,
            Refusal::SlotLost { reason: Some("idle_timeout".into()) },
            Refusal::SlotOfOtherDatabase { found: "b".into() },
            Refusal::SlotOfOtherPlugin { found: "x".into() },
            Refusal::SlotOfTwoPhases,
            Refusal::Diverged { stored_timeline: 1, found_timeline: 2, ended: None },
            Refusal::BeyondEnd { end: Lsn::new(1) },
            Refusal::Gap { confirmed: Lsn::new(1) },
        ] {
            let mends = refusal.snapshot_mends();
            let error = refusal.into_error("s", at);
            assert!(error.remedy().is_some_and(|mend| !mend.is_empty()));
            assert_eq!(error.kind() == ErrorKind::HistoryGone, mends);
        }
    }

    proptest! {
        // I3: whatever is found, the stream never starts where the server would skip silently.
        #[test]
        fn a_stream_is_resumed_only_where_the_server_has_all_from_the_stored_place_on(
            resume in 0_u64..2000, confirmed in 0_u64..2000, end in 0_u64..2000, stored_timeline in 1_u32..4, timeline in 1_u32..4,
            switches in proptest::collection::vec((1_u32..4, 0_u64..2000), 0..3), in_recovery: bool,
        ) {
            let mut stored = position(resume);
            stored.log.as_mut().unwrap().timeline = stored_timeline;
            let switch_points = switches.iter().map(|&(timeline, end)| SwitchPoint { timeline, end: Lsn::new(end) }).collect();
            let offer = Offer { timeline, end: Lsn::new(end), switch_points, in_recovery, ..offer(confirmed) };
            match decide(&stored, &offer, false) {
                Restart::Resume => prop_assert!(confirmed <= resume && resume <= end && stored_timeline <= timeline),
                Restart::NotReplayed { .. } => prop_assert!(in_recovery && (resume > end || stored_timeline > timeline)),
                Restart::ResumeBehind { .. } => prop_assert!(false, "the position is ours"),
                Restart::Refused(_) => {}
            }
        }
    }
}
