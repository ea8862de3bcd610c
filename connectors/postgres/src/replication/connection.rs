//! The commands of the replication protocol (PostgreSQL 18, "Streaming Replication Protocol").

use std::fmt::Write;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tailwater_api::{Error, ErrorKind, Result};

use super::feedback::FeedbackSender;
use super::startup::{self, ConnectOptions, LIFT_LATER_LIMITS};
use super::stream::ReplicationStream;
use super::wire::Wire;
use crate::catalog::quote_identifier;
use crate::lsn::Lsn;
use crate::octets::{Malformed, Octets};

/// How long the removal of a slot waits for whoever uses it.
const DROP_PATIENCE: Duration = Duration::from_secs(30);

/// One row of an answer.
pub type Row = Vec<Option<String>>;

/// Which server this is and where its log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Number that tells clusters apart; a copy of a cluster's files keeps it
    pub system_id: String,
    /// Timeline, which grows by one with every promotion
    pub timeline: u32,
    /// End of the log that is flushed, or replayed on a standby
    pub xlog_position: Lsn,
    /// The database of this session
    pub database: String,
}

/// An earlier timeline of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineEnd {
    /// Its number
    pub timeline: u32,
    /// Where it was left for the next one
    pub end: Lsn,
}

/// What becomes of the snapshot that a new slot begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Others may read in it, as long as the connection is left alone.
    Export,
    /// The transaction that the slot is created in reads in it.
    Use,
    /// It is not wanted.
    Nothing,
}

/// How long a slot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotLife {
    /// As long as its connection
    Temporary,
    /// Until it is dropped
    Permanent,
    /// Until it is dropped, and standbys may take it over (PostgreSQL 17 and later)
    Failover,
}

/// A slot that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name
    pub name: String,
    /// Transactions whose commit record stands before are in the snapshot, the slot sends all others.
    pub consistent_point: Lsn,
    /// Name of the exported snapshot
    pub snapshot_name: Option<String>,
}

/// A session that takes replication commands. While a snapshot that it exported is used, it has to be kept and left
/// alone. Dropping it ends the session.
pub struct ReplicationConnection {
    wire: Wire,
    /// Major version of the server: 15
    major: u32,
}

impl ReplicationConnection {
    /// Connects to the database of `options` for logical replication. Dropping the future gives up.
    ///
    /// # Errors
    /// `unreachable`, `timed-out`, `restarting`, `unauthorised` (password, host rules, right to replicate),
    /// `missing` (no such database), `throttled` (too many connections), `misconfigured` (TLS), `unsupported`
    /// (authentication), each with what mends it.
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        let session = startup::begin(options).await?;
        let digits = session.server_version.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
        let major = digits.parse().map_err(|_| {
            Error::new(ErrorKind::Unreadable, "read the server's version").because(format!("it says {:?}", session.server_version))
        })?;
        let mut connection = Self { wire: session.wire, major };
        connection.run(LIFT_LATER_LIMITS, "lift the limits of the session").await?;
        Ok(connection)
    }

    /// Major version of the server: 15.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.major
    }

    /// Runs one command and returns its rows as text. Not cancel-safe: after a dropped call the connection is of no
    /// use any more.
    ///
    /// # Errors
    /// What the server refuses; `unreachable`.
    pub async fn simple_query(&mut self, command: &str) -> Result<Vec<Row>> {
        self.run(command, &format!("run {command}")).await
    }

    async fn run(&mut self, command: &str, doing: &str) -> Result<Vec<Row>> {
        self.send(command, doing).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.wire.receive_any(doing).await? {
                (b'D', body) => rows.push(row(&body).map_err(|error| Error::new(ErrorKind::Unreadable, doing).because(error))?),
                // The row's description, the end of the command, an empty command; a notice, a changed setting, a
                // notification: none of them holds a row.
                (b'T' | b'C' | b'I' | b'N' | b'S' | b'A', _) => {}
                (b'E', body) => refused = Some(self.wire.refused(&body, doing)),
                (b'Z', _) => return refused.map_or(Ok(rows), Err),
                (letter, _) => return Err(out_of_turn(doing, letter)),
            }
        }
    }

    async fn send(&mut self, command: &str, doing: &str) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| Error::new(ErrorKind::Misconfigured, doing).because(error))?;
        self.wire.send(&message, doing).await
    }

    /// Asks the server who it is.
    ///
    /// # Errors
    /// See [`Self::simple_query`]; `unreadable` for an answer that does not parse.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let doing = "identify the server";
        let rows = self.run("IDENTIFY_SYSTEM", doing).await?;
        let identity = rows.into_iter().next().and_then(|row| {
            let [system_id, timeline, position, database] = <[_; 4]>::try_from(row).ok()?;
            Some(SystemIdentity {
                system_id: system_id?,
                timeline: timeline?.parse().ok()?,
                xlog_position: position?.parse().ok()?,
                database: database?,
            })
        });
        identity.ok_or_else(|| Error::new(ErrorKind::Unreadable, doing).because("the answer does not parse"))
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// See [`Self::simple_query`].
    pub async fn show(&mut self, setting: &str) -> Result<String> {
        let doing = format!("read the setting {setting}");
        let rows = self.run(&format!("SHOW {setting}"), &doing).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        value.ok_or_else(|| Error::new(ErrorKind::Unreadable, doing).because("the answer is empty"))
    }

    /// The timelines before `timeline`, oldest first, and where each was left.
    ///
    /// # Errors
    /// See [`Self::simple_query`]; `unreadable` for an answer that does not parse.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<TimelineEnd>> {
        let doing = format!("read the history of timeline {timeline}");
        let rows = self.run(&format!("TIMELINE_HISTORY {timeline}"), &doing).await?;
        let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
        content
            .as_deref()
            .and_then(parse_history)
            .ok_or_else(|| Error::new(ErrorKind::Unreadable, doing).because("the answer does not parse"))
    }

    /// Creates a logical slot for `pgoutput`. Waits until every transaction that is writing on the server has ended.
    ///
    /// # Errors
    /// `conflict` (there is one of this name), `throttled` (all slots are in use), `misconfigured` (`wal_level`, or a server
    /// before 17 asked for a failover slot).
    pub async fn create_slot(&mut self, name: &str, life: SlotLife, snapshot: SnapshotAction) -> Result<CreatedSlot> {
        let doing = format!("create the replication slot {name}");
        let rows = self.run(&create_command(self.major, name, life, snapshot), &doing).await?;
        let created = rows.into_iter().next().and_then(|row| {
            let [name, point, snapshot_name, _plugin] = <[_; 4]>::try_from(row).ok()?;
            Some(CreatedSlot { name: name?, consistent_point: point?.parse().ok()?, snapshot_name })
        });
        created.ok_or_else(|| Error::new(ErrorKind::Unreadable, doing).because("the answer does not parse"))
    }

    /// Drops a slot, and waits a while for whoever uses it. The connection is of no use after an error.
    ///
    /// # Errors
    /// `missing`, `conflict` (it is still in use).
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let doing = format!("drop the replication slot {name}");
        let command = format!("DROP_REPLICATION_SLOT {} WAIT", quote_identifier(name));
        match tokio::time::timeout(DROP_PATIENCE, self.run(&command, &doing)).await {
            Ok(dropped) => dropped.map(|_| ()),
            Err(_) => Err(Error::new(ErrorKind::Conflict, doing)
                .because(format!("it was in use for {} seconds", DROP_PATIENCE.as_secs()))
                .mend(format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}';"))),
        }
    }

    /// Begins to stream the changes of a slot from `from`, or from where the slot is confirmed if that is later.
    /// `options` go to the output plug-in: `proto_version`, `publication_names` …
    ///
    /// # Errors
    /// `conflict` (the slot is in use), `missing` (there is none), `history-gone` (its log was removed). What the plug-in
    /// refuses, such as a publication that does not exist, comes as an error of the stream.
    pub async fn start_replication(
        mut self,
        slot: &str,
        from: Lsn,
        options: &[(String, String)],
    ) -> Result<(ReplicationStream, FeedbackSender)> {
        let doing = format!("start replication from slot {slot} at {from}");
        self.send(&start_command(slot, from, options), &doing).await?;
        loop {
            match self.wire.receive(&doing).await? {
                (b'W', _) => break,
                (b'N' | b'S', _) => {}
                (letter, _) => return Err(out_of_turn(&doing, letter)),
            }
        }
        let (user, database) = (self.wire.user.clone(), self.wire.database.clone());
        let (read, received, write) = self.wire.split();
        Ok((ReplicationStream::new(read, received, user, database), FeedbackSender::new(write)))
    }
}

fn out_of_turn(doing: &str, letter: u8) -> Error {
    Error::new(ErrorKind::Unreadable, doing).because(format!("a message of kind '{}' came out of turn", letter.escape_ascii()))
}

/// The values of a `DataRow`.
fn row(body: &Bytes) -> Result<Row, Malformed> {
    let mut octets = Octets::new(body);
    let count = octets.u16()?;
    let mut row = Vec::new();
    for _ in 0..count {
        row.push(match usize::try_from(octets.i32()?) {
            Ok(length) => Some(String::from_utf8_lossy(octets.take(length)?).into_owned()),
            Err(_) => None,
        });
    }
    Ok(row)
}

fn create_command(major: u32, name: &str, life: SlotLife, snapshot: SnapshotAction) -> String {
    let (temporary, failover) = match life {
        SlotLife::Temporary => (" TEMPORARY", ""),
        SlotLife::Permanent => ("", ""),
        SlotLife::Failover => ("", ", FAILOVER true"),
    };
    // Since 15 options stand in parentheses; what stood before them is deprecated.
    let snapshot = match (snapshot, major >= 15) {
        (SnapshotAction::Export, true) => format!("(SNAPSHOT 'export'{failover})"),
        (SnapshotAction::Use, true) => format!("(SNAPSHOT 'use'{failover})"),
        (SnapshotAction::Nothing, true) => format!("(SNAPSHOT 'nothing'{failover})"),
        (SnapshotAction::Export, false) => "EXPORT_SNAPSHOT".to_owned(),
        (SnapshotAction::Use, false) => "USE_SNAPSHOT".to_owned(),
        (SnapshotAction::Nothing, false) => "NOEXPORT_SNAPSHOT".to_owned(),
    };
    format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {snapshot}", quote_identifier(name))
}

fn start_command(slot: &str, from: Lsn, options: &[(String, String)]) -> String {
    let mut command = format!("START_REPLICATION SLOT {} LOGICAL {from}", quote_identifier(slot));
    for (index, (name, value)) in options.iter().enumerate() {
        let before = if index == 0 { " (" } else { ", " };
        write!(command, "{before}{} '{}'", quote_identifier(name), value.replace('\'', "''")).expect("a String takes all text");
    }
    if !options.is_empty() {
        command.push(')');
    }
    command
}

/// Lines of a number, a place and a reason, separated by tabs; comments begin with `#`.
fn parse_history(content: &str) -> Option<Vec<TimelineEnd>> {
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split_ascii_whitespace();
            Some(TimelineEnd { timeline: fields.next()?.parse().ok()?, end: fields.next()?.parse().ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_created_in_the_words_of_the_servers_version() {
        let export = SnapshotAction::Export;
        assert_eq!(
            create_command(14, "s", SlotLife::Temporary, export),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
        );
        assert_eq!(
            create_command(15, "s", SlotLife::Permanent, export),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'export')"
        );
        assert_eq!(
            create_command(18, "s", SlotLife::Failover, SnapshotAction::Nothing),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)"
        );
    }

    #[test]
    fn options_of_the_plug_in_are_quoted() {
        let options = [("proto_version".to_owned(), "1".to_owned()), ("publication_names".to_owned(), "\"it's\"".to_owned())];
        assert_eq!(
            start_command("s", Lsn::new(1), &options),
            "START_REPLICATION SLOT \"s\" LOGICAL 0/1 (\"proto_version\" '1', \"publication_names\" '\"it''s\"')"
        );
        assert_eq!(start_command("s", Lsn::INVALID, &[]), "START_REPLICATION SLOT \"s\" LOGICAL 0/0");
    }

    #[test]
    fn a_timelines_history_is_read() {
        let history = "1\t0/3000098\tno recovery target specified\n\n# left by hand\n2\t1/A0\tbefore 2026-01-01\n";
        let ends = [TimelineEnd { timeline: 1, end: Lsn::new(0x300_0098) }, TimelineEnd { timeline: 2, end: Lsn::new(0x1_0000_00A0) }];
        assert_eq!(parse_history(history).as_deref(), Some(&ends[..]));
        assert_eq!(parse_history("1 no place"), None);
    }
}
