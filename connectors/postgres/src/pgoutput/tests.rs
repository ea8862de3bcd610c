//! Encoded messages decode to what they were made of; anything else is refused without a panic.

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum OwnMessage {
    Begin(Begin),
    Commit(Commit),
    Origin(u64, String),
    Relation(u32, String, String, u8, Vec<(bool, String, u32, i32)>),
    Type(u32, String, String),
    Insert(u32, Vec<OwnValue>),
    Update(u32, Option<(bool, Vec<OwnValue>)>, Vec<OwnValue>),
    Delete(u32, bool, Vec<OwnValue>),
    Truncate(Truncate),
    Logical(bool, u64, String, Vec<u8>),
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z_ äßé漢😀]{0,8}"
}

/// A value with octets of its own.
#[derive(Clone, Debug, PartialEq)]
enum OwnValue {
    Null,
    Unchanged,
    Text(Bytes),
    Binary(Bytes),
}

impl From<TupleValue<'_>> for OwnValue {
    fn from(value: TupleValue<'_>) -> Self {
        match value {
            TupleValue::Null => Self::Null,
            TupleValue::Unchanged => Self::Unchanged,
            TupleValue::Text(octets) => Self::Text(octets.to_bytes()),
            TupleValue::Binary(octets) => Self::Binary(octets.to_bytes()),
        }
    }
}

fn tuple() -> impl Strategy<Value = Vec<OwnValue>> {
    let octets = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let value = prop_oneof![
        Just(OwnValue::Null),
        Just(OwnValue::Unchanged),
        octets().prop_map(OwnValue::Text),
        octets().prop_map(OwnValue::Binary),
    ];
    proptest::collection::vec(value, 0..6)
}

fn after_1970() -> impl Strategy<Value = i64> {
    0_i64..4_000_000_000_000_000
}

fn message() -> impl Strategy<Value = OwnMessage> {
    let column = (any::<bool>(), text(), any::<u32>(), any::<i32>());
    prop_oneof![
        (any::<u64>(), after_1970(), any::<u32>()).prop_map(|(lsn, commit_time, xid)| OwnMessage::Begin(Begin {
            final_lsn: Lsn::new(lsn),
            commit_time,
            xid
        })),
        (any::<u8>(), any::<u64>(), any::<u64>(), after_1970()).prop_map(|(flags, commit, end, commit_time)| OwnMessage::Commit(Commit {
            flags,
            commit_lsn: Lsn::new(commit),
            end_lsn: Lsn::new(end),
            commit_time
        })),
        (any::<u64>(), text()).prop_map(|(lsn, name)| OwnMessage::Origin(lsn, name)),
        (any::<u32>(), text(), text(), prop::sample::select(b"dnfi".to_vec()), proptest::collection::vec(column, 0..5))
            .prop_map(|(oid, namespace, name, identity, columns)| OwnMessage::Relation(oid, namespace, name, identity, columns)),
        (any::<u32>(), text(), text()).prop_map(|(oid, namespace, name)| OwnMessage::Type(oid, namespace, name)),
        (any::<u32>(), tuple()).prop_map(|(oid, new)| OwnMessage::Insert(oid, new)),
        (any::<u32>(), proptest::option::of((any::<bool>(), tuple())), tuple())
            .prop_map(|(oid, old, new)| OwnMessage::Update(oid, old, new)),
        (any::<u32>(), any::<bool>(), tuple()).prop_map(|(oid, full, old)| OwnMessage::Delete(oid, full, old)),
        (any::<bool>(), any::<bool>(), proptest::collection::vec(any::<u32>(), 0..5))
            .prop_map(|(cascade, restart_identity, relations)| { OwnMessage::Truncate(Truncate { cascade, restart_identity, relations }) }),
        (any::<bool>(), any::<u64>(), text(), proptest::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(transactional, lsn, prefix, content)| OwnMessage::Logical(transactional, lsn, prefix, content)),
    ]
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_tuple(out: &mut BytesMut, tag: u8, values: &[OwnValue]) {
    out.put_u8(tag);
    out.put_i16(values.len() as i16);
    for value in values {
        match value {
            OwnValue::Null => out.put_u8(b'n'),
            OwnValue::Unchanged => out.put_u8(b'u'),
            OwnValue::Text(octets) | OwnValue::Binary(octets) => {
                out.put_u8(if matches!(value, OwnValue::Text(_)) { b't' } else { b'b' });
                out.put_u32(octets.len() as u32);
                out.put_slice(octets);
            }
        }
    }
}

fn encode(message: &OwnMessage) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        OwnMessage::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.as_u64());
            out.put_i64(begin.commit_time - EPOCH_MICROSECONDS);
            out.put_u32(begin.xid);
        }
        OwnMessage::Commit(commit) => {
            out.put_slice(&[b'C', commit.flags]);
            out.put_u64(commit.commit_lsn.as_u64());
            out.put_u64(commit.end_lsn.as_u64());
            out.put_i64(commit.commit_time - EPOCH_MICROSECONDS);
        }
        OwnMessage::Origin(lsn, name) => {
            out.put_u8(b'O');
            out.put_u64(*lsn);
            put_text(&mut out, name);
        }
        OwnMessage::Relation(oid, namespace, name, identity, columns) => {
            out.put_u8(b'R');
            out.put_u32(*oid);
            put_text(&mut out, namespace);
            put_text(&mut out, name);
            out.put_u8(*identity);
            out.put_i16(columns.len() as i16);
            for (in_identity, name, type_oid, type_modifier) in columns {
                out.put_u8((*in_identity).into());
                put_text(&mut out, name);
                out.put_u32(*type_oid);
                out.put_i32(*type_modifier);
            }
        }
        OwnMessage::Type(oid, namespace, name) => {
            out.put_u8(b'Y');
            out.put_u32(*oid);
            put_text(&mut out, namespace);
            put_text(&mut out, name);
        }
        OwnMessage::Insert(oid, new) => {
            out.put_u8(b'I');
            out.put_u32(*oid);
            put_tuple(&mut out, b'N', new);
        }
        OwnMessage::Update(oid, old, new) => {
            out.put_u8(b'U');
            out.put_u32(*oid);
            if let Some((full, old)) = old {
                put_tuple(&mut out, if *full { b'O' } else { b'K' }, old);
            }
            put_tuple(&mut out, b'N', new);
        }
        OwnMessage::Delete(oid, full, old) => {
            out.put_u8(b'D');
            out.put_u32(*oid);
            put_tuple(&mut out, if *full { b'O' } else { b'K' }, old);
        }
        OwnMessage::Truncate(truncate) => {
            out.put_u8(b'T');
            out.put_u32(truncate.relations.len() as u32);
            out.put_u8(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            for oid in &truncate.relations {
                out.put_u32(*oid);
            }
        }
        OwnMessage::Logical(transactional, lsn, prefix, content) => {
            out.put_slice(&[b'M', u8::from(*transactional)]);
            out.put_u64(*lsn);
            put_text(&mut out, prefix);
            out.put_u32(content.len() as u32);
            out.put_slice(content);
        }
    }
    out.freeze()
}

fn values(tuple: &Tuple<'_>) -> Vec<OwnValue> {
    assert_eq!(tuple.len(), tuple.values().len());
    tuple.values().map(OwnValue::from).collect()
}

fn old(tuple: &OldTuple<'_>) -> (bool, Vec<OwnValue>) {
    match tuple {
        OldTuple::Full(tuple) => (true, values(tuple)),
        OldTuple::Key(tuple) => (false, values(tuple)),
    }
}

fn named(namespace: &str) -> &str {
    if namespace.is_empty() { "pg_catalog" } else { namespace }
}

fn assert_same(message: &OwnMessage, decoded: &Message<'_>) {
    match (message, decoded) {
        (OwnMessage::Begin(sent), Message::Begin(read)) => assert_eq!(sent, read),
        (OwnMessage::Commit(sent), Message::Commit(read)) => assert_eq!(sent, read),
        (OwnMessage::Origin(lsn, name), Message::Origin(read)) => assert_eq!((Lsn::new(*lsn), name.as_str()), (read.commit_lsn, read.name)),
        (OwnMessage::Relation(oid, namespace, name, identity, columns), Message::Relation(read)) => {
            assert_eq!((*oid, named(namespace), name.as_str()), (read.oid, read.namespace, read.name));
            let expected = match identity {
                b'd' => ReplicaIdentity::Default,
                b'n' => ReplicaIdentity::Nothing,
                b'f' => ReplicaIdentity::Full,
                _ => ReplicaIdentity::Index,
            };
            assert_eq!(read.replica_identity, expected);
            let read: Vec<_> = read.columns.iter().map(|c| (c.in_identity, c.name.to_owned(), c.type_oid, c.type_modifier)).collect();
            assert_eq!(columns, &read);
        }
        (OwnMessage::Type(oid, namespace, name), Message::Type(read)) => {
            assert_eq!((*oid, named(namespace), name.as_str()), (read.oid, read.namespace, read.name));
        }
        (OwnMessage::Insert(oid, new), Message::Insert(read)) => assert_eq!((*oid, new), (read.relation, &values(&read.new))),
        (OwnMessage::Update(oid, before, new), Message::Update(read)) => {
            assert_eq!((*oid, before, new), (read.relation, &read.old.as_ref().map(old), &values(&read.new)));
        }
        (OwnMessage::Delete(oid, full, before), Message::Delete(read)) => {
            assert_eq!((*oid, (*full, before.clone())), (read.relation, old(&read.old)));
        }
        (OwnMessage::Truncate(sent), Message::Truncate(read)) => assert_eq!(sent, read),
        (OwnMessage::Logical(transactional, lsn, prefix, content), Message::Logical(read)) => {
            assert_eq!((*transactional, Lsn::new(*lsn)), (read.transactional, read.lsn));
            assert_eq!((prefix.as_str(), content.as_slice()), (read.prefix, read.content));
        }
        (sent, read) => panic!("{sent:?} was read as {read:?}"),
    }
}

proptest! {
    #[test]
    fn a_message_decodes_to_what_it_was_made_of(message in message()) {
        let payload = encode(&message);
        assert_same(&message, &Message::decode(&payload).unwrap());
    }

    #[test]
    fn a_message_that_is_cut_or_goes_on_is_refused(message in message(), more in 1_usize..4) {
        let whole = encode(&message);
        for end in 0..whole.len() {
            prop_assert!(Message::decode(&whole.slice(..end)).is_err());
        }
        let mut longer = whole.to_vec();
        longer.extend(std::iter::repeat_n(0, more));
        prop_assert!(Message::decode(&Bytes::from(longer)).is_err());
    }

    #[test]
    fn any_octets_are_decoded_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200), tag in prop::sample::select(b"BCORYIUDTM".to_vec())) {
        let mut tagged = vec![tag];
        tagged.extend_from_slice(&octets);
        for payload in [Bytes::from(octets), Bytes::from(tagged)] {
            if let Ok(Message::Insert(insert)) = Message::decode(&payload) {
                prop_assert_eq!(insert.new.values().count(), insert.new.len());
            }
        }
    }
}

#[test]
fn a_message_of_a_later_protocol_is_an_error_and_not_skipped() {
    for tag in b"SEcAbPKrp" {
        let error = Message::decode(&Bytes::from(vec![*tag, 0, 0, 0, 0])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable);
        assert!(error.to_string().contains("unknown"), "{error}");
    }
}
