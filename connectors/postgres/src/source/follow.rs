//! Follows the log, once what has to be done before is done: begins what runs beside the stream, attaches to the slot, and again
//! wherever the stream asks for other options.

use tailwater_api::metrics::Gauge;
use tailwater_api::source::SourceContext;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::signals::channels::Channels;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;

use super::{Protocol, Run, captured, plug_in, send_state};
use crate::acknowledge::{Acknowledgements, Durable, answer, answer_interval};
use crate::arrivals::Arrivals;
use crate::blocking::BlockingSnapshots;
use crate::chunks::Chunks;
use crate::config::FlushMode;
use crate::connect::replication_options;
use crate::definitions::Definitions;
use crate::event::LogicalMessages;
use crate::position::Position;
use crate::replication::ReplicationConnection;
use crate::request::are_paused;
use crate::retention::Retention;
use crate::snapshot::tables_to_read;
use crate::stream::{Ended, Start, Streaming};
use crate::table_states::ReadingTable;
use crate::{heartbeat, slot};

impl Run {
    /// Follows the log from `position`.
    pub(super) async fn stream(mut self, context: &mut SourceContext, position: Position) -> Result<()> {
        let mut binary = self.facts.version >= 140_000 && self.plans.are_binary(&captured(&self.config, &self.definitions));
        let heartbeat = self.config.relational.heartbeat.clone();
        let action = heartbeat.and_then(|heartbeat| Some((heartbeat.action_query?, heartbeat.interval)));
        let connected = context.metrics().gauge("source_connected", "1 while the source's log is followed.", None);
        let mut beside = JoinSet::new();
        beside.spawn(Retention::new(&**context.metrics()).keep_measuring(self.config.clone()));
        let (own_signals, own) = mpsc::channel(1);
        let (owed, owed_names) = watch::channel(std::mem::take(&mut self.owed).into_iter().collect());
        let (left, left_publication) = watch::channel(Vec::new());
        let refused = std::mem::take(&mut self.refused);
        let publication = self.publication.as_ref();
        if let Some(arrivals) = Arrivals::new(&self.config, &self.facts, publication, &self.definitions, refused, owed_names, left) {
            beside.spawn(arrivals.watch(own_signals));
        }
        if let Some((query, interval)) = action {
            beside.spawn(heartbeat::keep_acting(self.config.clone(), query, interval, self.cancellations.clone()));
        }

        let xmin = if self.config.xmin_interval.is_zero() {
            None
        } else {
            let (sender, xmin) = watch::channel(slot::catalog_xmin(&self.sql, &self.config.slot).await?);
            beside.spawn(slot::keep_xmin_current(self.config.clone(), sender));
            Some(xmin)
        };

        let mut definitions = Definitions::new(&self.config, &self.blocks, context.state());
        if let Some(definitions) = &mut definitions {
            let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
            let batch = definitions.tell_new(&self.plans, &self.blocks, self.publication.as_ref(), &tables, &position);
            if !batch.records.is_empty() {
                let reservation = context.reserve(batch.weight()).await;
                context.send(batch, reservation).await?;
            }
        }
        let server = self.config.relational.topic_prefix.clone();
        let place = |position: &Position| Durable { resume: position.resume, through: position.through };
        // I1: a place that this run has sent itself may still be on its way.
        let stored = Position::load(context.state(), &server)?.map(|stored| place(&stored));
        let acknowledgements = Acknowledgements::new(stored.filter(|stored| *stored == place(&position)));
        let (blocking, reading) = std::mem::take(&mut self.reading).into_iter().partition(ReadingTable::is_blocking);
        let paused = are_paused(context.state(), &server);
        let chunks = Chunks::new(
            self.config.clone(),
            self.facts.version,
            self.publication.as_ref(),
            context,
            self.cancellations.clone(),
            reading,
            paused,
        );
        let blocking = BlockingSnapshots::new(blocking);
        let signals = Channels::open(&self.config.relational.signals, context.take_signals(), own);
        let log = position.log.clone().ok_or_else(|| Error::new(ErrorKind::Bug, "follow the log").because("the position names no log"))?;
        self.errored.iter().for_each(|table| self.plans.drop_changes_of(&table.name));
        let (config, facts) = (self.config.clone(), self.facts);
        // The log may be followed for weeks.
        drop(self.sql);
        let standby = if facts.in_recovery { Some(ReplicationConnection::connect(&replication_options(&config)).await?) } else { None };
        let messages = LogicalMessages::new(&config, &self.blocks);
        let start = Start {
            plans: self.plans,
            session: self.session,
            blocks: self.blocks,
            xmin,
            messages,
            definitions,
            log,
            position,
            acknowledgements: acknowledgements.clone(),
            facts: facts.clone(),
            standby,
            chunks,
            blocking,
            signals,
            owed,
            left: left_publication.clone(),
            errored: self.errored,
            cancellations: self.cancellations,
        };
        let (stopping, confirmed) = (context.stopping(), context.confirmed());
        let mut streaming = Streaming::new(&config, context, start);
        let mut protocol = Protocol::new(&config, &facts);
        // Whether it is stopped while it follows the log.
        let followed = async {
            loop {
                let options = plug_in::options(&config, protocol, binary);
                let from = streaming.connect(protocol, binary);
                let Some((mut stream, feedback)) = slot::attach(&config, stopping.clone(), from, &options).await? else {
                    return Ok(false);
                };
                let _connected = Connected::begin(connected.clone());
                info!(slot = %config.slot, %from, binary, protocol = protocol.version().number(), "follows the log");
                let mut answering = JoinSet::new();
                answering.spawn(answer(
                    feedback,
                    acknowledgements.clone(),
                    confirmed.clone(),
                    answer_interval(config.status_interval, facts.wal_sender_timeout),
                    config.flush_mode != FlushMode::Manual,
                ));
                let panicked = |doing: &str, cause| Err(Error::new(ErrorKind::Bug, doing).because(cause));
                let ended = tokio::select! {
                    ended = streaming.run(&mut stream) => ended?,
                    Some(ended) = answering.join_next() => {
                        return ended.unwrap_or_else(|cause| panicked("answer the server", cause)).map(|()| false);
                    }
                    Some(ended) = beside.join_next() => {
                        return ended.unwrap_or_else(|cause| panicked("watch the server beside the log", cause)).map(|()| false);
                    }
                };
                match ended {
                    Ended::SpillFull => protocol.in_progress = false,
                    Ended::NeedsText => binary = false,
                    Ended::Stopped => return Ok(true),
                }
            }
        };
        let followed = followed.await;
        drop(streaming);
        drop(beside);
        // I11: what the end kept the stream from storing; once more does no harm.
        let left = left_publication.borrow().clone();
        let stored = if left.is_empty() { Ok(()) } else { send_state(context, left).await };
        let is_stopped = followed?;
        stored?;
        if is_stopped && config.drop_slot_on_stop {
            let mut connection = ReplicationConnection::connect(&replication_options(&config)).await?;
            connection.drop_slot(&config.slot).await?;
        }
        Ok(())
    }
}

/// The log is followed.
struct Connected(Gauge);

impl Connected {
    fn begin(figure: Gauge) -> Self {
        figure.set(1);
        Self(figure)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.set(0);
    }
}
