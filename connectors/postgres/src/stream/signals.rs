//! Signals: what they ask of a stream, and how that is carried out.
//!
//! A row of the signalling table is carried out at the end of its transaction, so what it asks for is stored in the batch that stands
//! for that transaction (I1). Rows of a transaction of which a part is durable since an earlier run are looked at again, for the end
//! was not. A signal from elsewhere is carried out between two transactions and answered once that is durable; how it is heard while the
//! log rests is said in `rest`.
//!
//! What a signal says wrongly stops nothing: it is told of, or answered (I11). Signals change the state only; reading what they
//! ask for is the business of `chunks` and `blocking`.

use bytestring::ByteString;
use tailwater_api::signal::{Signal, SignalRequest};
use tailwater_api::{Error, ErrorKind, Result, Value};
use tailwater_kit::envelope::Change;
use tailwater_kit::notification::Happening;
use tailwater_kit::signals::{ExecuteSnapshot, Request, StopSnapshot};
use tracing::{info, warn};

use super::Streaming;
use super::chosen::{Chosen, choose, how_parts_are_read};
use super::rest::load_publication;
use crate::catalog::TableDefinition;
use crate::request::{TableRequest, pause};
use crate::table_states::ReadingTable;

/// What no table has for an oid (PostgreSQL's `InvalidOid`).
const NO_TABLE: u32 = 0;

const DOING: &str = "begin the snapshot";

/// A table that a signal asks for, or a name that no table has.
#[derive(Default)]
struct Asked {
    /// Place of its name in the signal
    place: usize,
    name: String,
    oid: u32,
    condition: Option<String>,
    roots: Vec<String>,
}

impl Streaming<'_> {
    /// Takes the row that a change wrote into the signalling table. Only inserted rows are signals.
    pub(super) fn hear(&mut self, change: &Change) {
        let Change::Create { after, .. } = change else { return };
        match signal(after) {
            Some(signal) => self.heard.push(signal),
            None => warn!("a row of the signalling table is no signal: its first columns have to be id, type and data, which are texts"),
        }
    }

    /// Carries out what the transaction that has just ended asked for.
    pub(super) async fn obey_heard(&mut self, xid: u32) -> Result<()> {
        for signal in std::mem::take(&mut self.heard) {
            if let Err(error) = self.obey(&signal, Some(xid)).await? {
                warn!(signal = %signal.id, "the signal is not carried out: {error}");
            }
        }
        Ok(())
    }

    /// Carries out a signal that came from elsewhere.
    pub(super) async fn obey_request(&mut self, request: SignalRequest) -> Result<()> {
        if let Err(error) = self.obey(&request.signal, None).await? {
            request.answer(Err(error));
            return Ok(());
        }
        let number = self.send().await?;
        let mut confirmed = self.context.confirmed();
        // Nobody is answered where the run ends before.
        tokio::spawn(async move {
            if confirmed.wait_for(|confirmed| *confirmed >= number).await.is_ok() {
                request.answer(Ok(()));
            }
        });
        Ok(())
    }

    /// Carries out a signal, found in transaction `xid`. The inner result is what is wrong with it.
    async fn obey(&mut self, signal: &Signal, xid: Option<u32>) -> Result<Result<()>> {
        match Request::parse(signal) {
            Ok(Request::Execute(snapshot)) => self.execute(&signal.id, &snapshot, xid).await,
            Ok(Request::Stop(stop)) => Ok(self.stop(&stop)),
            Ok(Request::Pause) => Ok(self.pause(true)),
            Ok(Request::Resume) => Ok(self.pause(false)),
            Ok(Request::Log(message)) => {
                let position = serde_json::Value::Object(self.position().to_offset()).to_string();
                info!(signal = %signal.id, "{}", message.replace("{}", &position));
                Ok(Ok(()))
            }
            Ok(Request::Window) => Ok(Ok(())),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn execute(&mut self, id: &str, snapshot: &ExecuteSnapshot, xid: Option<u32>) -> Result<Result<()>> {
        let is_known = self.chunks.requests().chain(self.blocking.requests()).any(|request| request.signal == id);
        if is_known {
            info!(signal = id, "the snapshot of this id is under way already");
            return Ok(Ok(()));
        }
        let session = self.session.get().await?;
        if let Some(xid) = xid {
            // It may have made the tables itself, and published them.
            session.await_visibility(xid).await?;
        }
        let load = async {
            let publication = load_publication(self.config, &self.facts, session).await?;
            Ok((publication, TableDefinition::load(session, None).await?))
        };
        let (publication, definitions) = match session.in_one_snapshot(load).await {
            Err(error) if error.kind() == ErrorKind::Missing => return Ok(Err(error)),
            loaded => loaded?,
        };
        let mut tables = choose(self.config, &publication, &definitions, snapshot);
        if snapshot.blocking {
            // As Debezium does: what the table holds are signals of the past.
            tables.retain(|Chosen { table, .. }| !self.config.is_signal_table(&table.schema, &table.name));
        }
        let names: Vec<String> = tables.iter().flat_map(Chosen::spellings).cloned().collect();
        let unknown: Vec<(usize, &str)> = snapshot.tables.without_match(&names).collect();
        let is_errored = |name: &str| self.plans.drops_changes_of(name);
        let parts = how_parts_are_read(self.config, &publication, &definitions, snapshot, is_errored);
        if tables.is_empty() {
            let unknown: Vec<&str> = unknown.iter().map(|(_, name)| *name).collect();
            if snapshot.blocking {
                self.tell_of_blocking(Happening::Started, &[]);
                self.tell_of_blocking(Happening::Completed, &[]);
                self.moved = true;
            } else {
                self.tell_of_missing(id, &unknown);
            }
            let missing = Error::new(ErrorKind::Missing, DOING).because(format!("no captured table matches {}", unknown.join(", ")));
            return Ok(Err(if parts.is_empty() { missing } else { missing.mend(parts.join("; ")) }));
        }
        for (_, name) in &unknown {
            warn!(signal = id, "no captured table matches {name}");
        }
        parts.iter().for_each(|part| warn!(signal = id, "{part}"));
        let tables = match self.asked_for(id, snapshot, &tables, &unknown) {
            Ok(tables) => tables,
            Err(cause) => return Ok(Err(Error::new(ErrorKind::Misconfigured, DOING).because(cause))),
        };
        let server = &self.config.relational.topic_prefix;
        self.batch.state.extend(tables.iter().map(|table| table.change(server)));
        let names = tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(",");
        info!(signal = id, tables = names, blocking = snapshot.blocking, "a signal asks for a snapshot");
        let (resting, beside): (Vec<_>, Vec<_>) = tables.into_iter().partition(ReadingTable::is_blocking);
        self.blocking.add(resting);
        if !beside.is_empty() {
            let names = beside.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(",");
            self.chunks.add(beside, &publication);
            self.tell(id, Happening::Started, &[("data_collections", &names)]);
        }
        self.moved = true;
        Ok(Ok(()))
    }

    /// What is to be read, one after another: the chosen tables, and in their turn the names that no table has, for which the signal is
    /// told so.
    ///
    /// # Errors
    /// Why nothing is read.
    fn asked_for(
        &self,
        id: &str,
        snapshot: &ExecuteSnapshot,
        tables: &[Chosen],
        unknown: &[(usize, &str)],
    ) -> Result<Vec<ReadingTable>, String> {
        let mut asked_for = Vec::new();
        for chosen in tables {
            let name = chosen.names[0].clone();
            let condition = match chosen.condition(snapshot) {
                Ok(condition) => condition.map(str::to_owned),
                Err(root) => {
                    return Err(format!("the rows of {root} are read as those of its partitions, and its statement reads all: name these"));
                }
            };
            if condition.is_some() && self.plans.drops_changes_of(&name) {
                return Err(format!("the table {name} is errored and is read whole, without a condition"));
            }
            let roots = chosen.names[1..].to_vec();
            asked_for.push(Asked { place: chosen.place(snapshot), name, oid: chosen.table.oid, condition, roots });
        }
        if !snapshot.blocking {
            // They are told of in their turn.
            asked_for.extend(unknown.iter().map(|(place, name)| Asked {
                place: *place,
                name: (*name).to_owned(),
                oid: NO_TABLE,
                ..Asked::default()
            }));
            asked_for.sort_by_key(|asked| asked.place);
        }
        let reading = |(order, Asked { name, oid, condition, roots, .. })| {
            let request = TableRequest {
                signal: id.to_owned(),
                order,
                // An errored table is always read while the log rests (`isolation`).
                blocking: snapshot.blocking || self.plans.drops_changes_of(&name),
                condition,
                surrogate: snapshot.surrogate_key.clone(),
                roots,
            };
            ReadingTable { name, oid, rows: 0, range: None, request: Some(request) }
        };
        Ok((self.next_order()..).zip(asked_for).map(reading).collect())
    }

    /// The place behind all tables that signals asked for.
    pub(super) fn next_order(&self) -> u64 {
        self.chunks.requests().chain(self.blocking.requests()).map(|request| request.order + 1).max().unwrap_or(0)
    }

    fn stop(&mut self, stop: &StopSnapshot) -> Result<()> {
        let mut stopped = self.chunks.stop(|table| ends(stop, table, false));
        let is_errored = |table: &ReadingTable| self.plans.drops_changes_of(&table.name);
        stopped.extend(self.blocking.stop(|table| ends(stop, table, is_errored(table))));
        if stopped.is_empty() {
            return Err(Error::new(ErrorKind::Missing, "stop the snapshot").because("no snapshot of such tables is asked for"));
        }
        let server = &self.config.relational.topic_prefix;
        self.batch.state.extend(stopped.iter().map(|table| table.removal(server)));
        let of = |table: &ReadingTable| table.request.as_ref().map(|request| (request.signal.clone(), request.blocking));
        for tables in stopped.chunk_by(|one, two| of(one) == of(two)) {
            let collections = tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(",");
            info!(tables = collections, "a signal stops the snapshot");
            let data = [("data_collections", &*collections)];
            match of(&tables[0]) {
                Some((_, true)) => self.tell_of_blocking(Happening::Aborted, &data),
                Some((signal, false)) => self.tell(&signal, Happening::Aborted, &data),
                None => {}
            }
        }
        self.let_rest(self.chunks.is_paused() && !self.chunks.is_idle());
        self.moved = true;
        Ok(())
    }

    fn pause(&mut self, paused: bool) -> Result<()> {
        if self.chunks.is_idle() || self.chunks.is_paused() == paused {
            let cause = if paused { "no snapshot is under way that does not rest already" } else { "no snapshot rests" };
            let doing = if paused { "pause the snapshot" } else { "resume the snapshot" };
            return Err(Error::new(ErrorKind::Missing, doing).because(cause));
        }
        self.let_rest(paused);
        let happening = if paused { Happening::Paused } else { Happening::Resumed };
        info!("a signal lets snapshots {}", if paused { "rest" } else { "go on" });
        for signal in self.chunks.signals() {
            let collections = self.chunks.collections(&signal);
            self.tell(&signal, happening, &[("data_collections", &collections)]);
        }
        self.moved = true;
        Ok(())
    }

    pub(super) fn let_rest(&mut self, paused: bool) {
        if self.chunks.is_paused() != paused {
            self.chunks.pause(paused);
            self.batch.state.push(pause(&self.config.relational.topic_prefix, paused));
        }
    }

    /// Tells, as Debezium does, of a snapshot that has none of its tables to read.
    fn tell_of_missing(&mut self, signal: &str, names: &[&str]) {
        self.tell(signal, Happening::Started, &[("data_collections", &names.join(","))]);
        for (index, name) in names.iter().enumerate() {
            let data = [
                ("scanned_collection", *name),
                ("total_rows_scanned", "0"),
                ("data_collections", &names[index..].join(",")),
                ("status", "UNKNOWN_SCHEMA"),
            ];
            self.tell(signal, Happening::TableScanCompleted, &data);
        }
        self.tell(signal, Happening::Completed, &[]);
        self.moved = true;
    }

    fn tell(&mut self, signal: &str, happening: Happening, data: &[(&str, &str)]) {
        if let Some(record) = self.chunks.tell(signal, happening, data) {
            self.batch.push(record);
        }
    }
}

/// Whether the signal ends the reading of the table, which a signal asked for.
pub(super) fn ends(stop: &StopSnapshot, table: &ReadingTable, is_errored: bool) -> bool {
    // An errored table is read while the log rests, whichever of the two was asked for (`isolation`).
    let is_of_type = stop.blocking.is_none_or(|blocking| blocking == table.is_blocking() || is_errored);
    let is_part_of_named = || table.request.as_ref().is_some_and(|request| request.roots.iter().any(|root| stop.names(root)));
    is_of_type && (stop.names(&table.name) || is_part_of_named())
}

/// The signal in a row: its first three columns, whatever they are called.
fn signal(row: &Value) -> Option<Signal> {
    let [id, kind, data, ..] = row.as_struct()? else { return None };
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let data = if data.is_null() { ByteString::new() } else { text(data)? };
    Some(Signal { id: text(id)?.into(), kind: text(kind)?.into(), data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_columns_of_a_row_are_a_signal() {
        let row = |values: &[Value]| Value::Struct(values.into());
        let found = signal(&row(&["1".into(), "log".into(), "{}".into(), Value::Int32(7)])).unwrap();
        assert_eq!(found, Signal { id: "1".into(), kind: "log".into(), data: "{}".into() });
        assert_eq!(signal(&row(&["1".into(), "log".into(), Value::Null])).unwrap().data, "");
        for wrong in [row(&["1".into(), "log".into()]), row(&[Value::Int32(1), "log".into(), "{}".into()]), Value::Null] {
            assert_eq!(signal(&wrong), None);
        }
    }
}
