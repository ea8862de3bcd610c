//! The messages of `pgoutput`, the output plug-in that is part of the server, in version 1 of its protocol (PostgreSQL 18,
//! "Logical Replication Message Formats").
//!
//! A transaction comes whole, after its commit, as begin, changes and commit. Before the first change of a table in a
//! session, and after every definition that may have changed it, the server describes the table. A type outside the
//! server's own is described before the relation that uses it.
//!
//! A message borrows the payload that it was decoded from; the values of a tuple come as slices that share the
//! payload's buffer. Nothing is copied, and nothing but a relation's columns and a truncation's list is allocated. A tuple is
//! walked once when its message is decoded, so that its length is known and reading its values cannot fail.
//!
//! Later versions send large transactions in parts while they are in progress, and prepared ones before their commit;
//! [`TransactionControl`] frames these. A letter that is not of the version in use is unknown and an error (I11): skipping a message
//! would skip a change.

mod control;
mod tuple;

use std::fmt;

use bytes::Bytes;
use tailwater_api::{Error, ErrorKind, Result};

use crate::lsn::Lsn;
use crate::octets::{Malformed, Octets};

pub use control::{FramedMessage, Prepare, ProtocolVersion, TransactionControl};
pub use tuple::{OldTuple, Tuple, TupleValue, TupleValues};

/// Microseconds between 1970-01-01 and 2000-01-01, from which PostgreSQL counts.
pub(crate) const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// One message.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// The transaction ends.
    Commit(Commit),
    /// The transaction was replayed from elsewhere.
    Origin(Origin<'a>),
    /// A table's shape, until it is described again
    Relation(Relation<'a>),
    /// A type that is not the server's own
    Type(Type<'a>),
    /// A row is new.
    Insert(Insert<'a>),
    /// A row is changed.
    Update(Update<'a>),
    /// A row is gone.
    Delete(Delete<'a>),
    /// All rows of some tables are gone.
    Truncate(Truncate),
    /// What somebody wrote with `pg_logical_emit_message`
    Logical(Logical<'a>),
}

/// A transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where its commit record begins
    pub final_lsn: Lsn,
    /// Time of its commit, microseconds since 1970 UTC
    pub commit_time: i64,
    /// Its number
    pub xid: u32,
}

/// A transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Unused by the server, 0 so far
    pub flags: u8,
    /// Where the commit record begins
    pub commit_lsn: Lsn,
    /// Where the commit record ends, from where a reader goes on
    pub end_lsn: Lsn,
    /// Time of the commit, microseconds since 1970 UTC
    pub commit_time: i64,
}

/// Where a replayed transaction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its commit on the server of its origin
    pub commit_lsn: Lsn,
    /// Name of the origin
    pub name: &'a str,
}

/// What the server logs of a row before its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one
    Default,
    /// Nothing
    Nothing,
    /// The whole row
    Full,
    /// The columns of an index
    Index,
}

/// A table's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The table's oid, by which changes name it
    pub oid: u32,
    /// Its schema
    pub namespace: &'a str,
    /// Its name
    pub name: &'a str,
    /// What old tuples hold
    pub replica_identity: ReplicaIdentity,
    /// The columns in the order of the tuples
    pub columns: Vec<RelationColumn<'a>>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Whether the column is part of the replica identity
    pub in_identity: bool,
    /// Its name
    pub name: &'a str,
    /// Its type's oid
    pub type_oid: u32,
    /// Modifier of the type, such as precision and scale; -1 for none
    pub type_modifier: i32,
}

/// A type that is not the server's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// Its oid
    pub oid: u32,
    /// Its schema
    pub namespace: &'a str,
    /// Its name
    pub name: &'a str,
}

/// A new row.
#[derive(Clone, Copy, Debug)]
pub struct Insert<'a> {
    /// The table's oid
    pub relation: u32,
    /// The row
    pub new: Tuple<'a>,
}

/// A changed row.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The table's oid
    pub relation: u32,
    /// The row before, if the identity is full or one of its columns changed
    pub old: Option<OldTuple<'a>>,
    /// The row after
    pub new: Tuple<'a>,
}

/// A row that is gone.
#[derive(Clone, Copy, Debug)]
pub struct Delete<'a> {
    /// The table's oid
    pub relation: u32,
    /// The row before
    pub old: OldTuple<'a>,
}

/// Tables that were emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// `CASCADE` was said
    pub cascade: bool,
    /// `RESTART IDENTITY` was said
    pub restart_identity: bool,
    /// The tables' oids
    pub relations: Vec<u32>,
}

/// What somebody wrote into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logical<'a> {
    /// Whether it belongs to the transaction around it
    pub transactional: bool,
    /// Where it stands
    pub lsn: Lsn,
    /// Says whom it is for
    pub prefix: &'a str,
    /// Its content, a slice of the payload
    pub content: &'a [u8],
}

/// Why octets are no message.
#[derive(Debug)]
enum Fault {
    Malformed(Malformed),
    UnknownTag(u8),
    UnknownTupleTag(u8),
    UnknownValueTag(u8),
    UnknownIdentity(u8),
    NegativeCount(i64),
    TooLong,
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::UnknownTag(tag) => write!(f, "messages of kind '{}' are unknown", tag.escape_ascii()),
            Self::UnknownTupleTag(tag) => write!(f, "tuples of kind '{}' are unknown", tag.escape_ascii()),
            Self::UnknownValueTag(tag) => write!(f, "values of kind '{}' are unknown", tag.escape_ascii()),
            Self::UnknownIdentity(tag) => write!(f, "the replica identity '{}' is unknown", tag.escape_ascii()),
            Self::NegativeCount(count) => write!(f, "it counts {count} elements"),
            Self::TooLong => f.write_str("it goes on behind its end"),
        }
    }
}

impl std::error::Error for Fault {}

impl<'a> Message<'a> {
    /// Decodes the payload of one frame.
    ///
    /// # Errors
    /// `unreadable`: the octets are no message of this protocol.
    pub fn decode(payload: &'a Bytes) -> Result<Self> {
        parse(payload).map_err(|fault| {
            let kind = payload.first().map_or_else(|| "without content".to_owned(), |tag| format!("of kind '{}'", tag.escape_ascii()));
            Error::new(ErrorKind::Unreadable, format!("decode a message {kind} of pgoutput")).because(fault)
        })
    }
}

fn parse(payload: &Bytes) -> Result<Message<'_>, Fault> {
    let mut octets = Octets::new(payload);
    let message = match octets.u8()? {
        b'B' => Message::Begin(Begin { final_lsn: Lsn::new(octets.u64()?), commit_time: time(&mut octets)?, xid: octets.u32()? }),
        b'C' => Message::Commit(control::commit(&mut octets)?),
        b'O' => Message::Origin(Origin { commit_lsn: Lsn::new(octets.u64()?), name: octets.text()? }),
        b'R' => Message::Relation(relation(&mut octets)?),
        b'Y' => Message::Type(Type { oid: octets.u32()?, namespace: namespace(&mut octets)?, name: octets.text()? }),
        b'I' => Message::Insert(Insert { relation: octets.u32()?, new: new_tuple(payload, &mut octets)? }),
        b'U' => update(payload, &mut octets)?,
        b'D' => Message::Delete(delete(payload, &mut octets)?),
        b'T' => Message::Truncate(truncate(&mut octets)?),
        b'M' => Message::Logical(logical(&mut octets)?),
        tag => return Err(Fault::UnknownTag(tag)),
    };
    if octets.is_at_end() { Ok(message) } else { Err(Fault::TooLong) }
}

/// A time of the server as microseconds since 1970.
fn time(octets: &mut Octets<'_>) -> Result<i64, Malformed> {
    Ok(octets.i64()?.saturating_add(EPOCH_MICROSECONDS))
}

/// The server leaves out the name of its own schema.
fn namespace<'a>(octets: &mut Octets<'a>) -> Result<&'a str, Malformed> {
    octets.text().map(|name| if name.is_empty() { "pg_catalog" } else { name })
}

fn relation<'a>(octets: &mut Octets<'a>) -> Result<Relation<'a>, Fault> {
    let (oid, namespace, name) = (octets.u32()?, namespace(octets)?, octets.text()?);
    let replica_identity = match octets.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        tag => return Err(Fault::UnknownIdentity(tag)),
    };
    let count = octets.i16()?;
    let count = usize::try_from(count).map_err(|_| Fault::NegativeCount(count.into()))?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(RelationColumn {
            in_identity: octets.u8()? & 1 != 0,
            name: octets.text()?,
            type_oid: octets.u32()?,
            type_modifier: octets.i32()?,
        });
    }
    Ok(Relation { oid, namespace, name, replica_identity, columns })
}

fn new_tuple<'a>(payload: &'a Bytes, octets: &mut Octets<'a>) -> Result<Tuple<'a>, Fault> {
    match octets.u8()? {
        b'N' => Tuple::read(payload, octets),
        tag => Err(Fault::UnknownTupleTag(tag)),
    }
}

fn update<'a>(payload: &'a Bytes, octets: &mut Octets<'a>) -> Result<Message<'a>, Fault> {
    let relation = octets.u32()?;
    let (old, new) = match octets.u8()? {
        b'N' => (None, Tuple::read(payload, octets)?),
        b'K' => (Some(OldTuple::Key(Tuple::read(payload, octets)?)), new_tuple(payload, octets)?),
        b'O' => (Some(OldTuple::Full(Tuple::read(payload, octets)?)), new_tuple(payload, octets)?),
        tag => return Err(Fault::UnknownTupleTag(tag)),
    };
    Ok(Message::Update(Update { relation, old, new }))
}

fn delete<'a>(payload: &'a Bytes, octets: &mut Octets<'a>) -> Result<Delete<'a>, Fault> {
    let relation = octets.u32()?;
    let old = match octets.u8()? {
        b'K' => OldTuple::Key(Tuple::read(payload, octets)?),
        b'O' => OldTuple::Full(Tuple::read(payload, octets)?),
        tag => return Err(Fault::UnknownTupleTag(tag)),
    };
    Ok(Delete { relation, old })
}

fn truncate(octets: &mut Octets<'_>) -> Result<Truncate, Fault> {
    let count = octets.i32()?;
    let count = usize::try_from(count).map_err(|_| Fault::NegativeCount(count.into()))?;
    let options = octets.u8()?;
    // The count is checked against the octets before room is made for as many.
    let mut oids = Octets::new(octets.take(count.checked_mul(4).ok_or(Malformed::Truncated)?)?);
    let relations = (0..count).map(|_| oids.u32()).collect::<Result<_, _>>()?;
    Ok(Truncate { cascade: options & 1 != 0, restart_identity: options & 2 != 0, relations })
}

fn logical<'a>(octets: &mut Octets<'a>) -> Result<Logical<'a>, Fault> {
    let (flags, lsn, prefix) = (octets.u8()?, Lsn::new(octets.u64()?), octets.text()?);
    let length = octets.i32()?;
    let length = usize::try_from(length).map_err(|_| Fault::NegativeCount(length.into()))?;
    Ok(Logical { transactional: flags & 1 != 0, lsn, prefix, content: octets.take(length)? })
}

#[cfg(test)]
mod tests;
