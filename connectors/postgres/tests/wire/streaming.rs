//! Slots, exported snapshots, the stream of changes and the answers to it.

use std::time::{Duration, Instant};

use tailwater_api::ErrorKind;
use tailwater_postgres::lsn::Lsn;
use tailwater_postgres::pgoutput::{Message, OldTuple, Tuple, TupleValue};
use tailwater_postgres::replication::{Frame, ReplicationConnection, ReplicationStream, SlotLife, SnapshotAction};
use tailwater_testkit::PostgresServer;

use crate::{options, server};

fn plugin(publication: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let options = [("proto_version", "1"), ("publication_names", publication)];
    options.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn connection(server: &PostgresServer) -> ReplicationConnection {
    ReplicationConnection::connect(&options(server)).await.unwrap()
}

fn words(tuple: &Tuple<'_>) -> String {
    let word = |value| match value {
        TupleValue::Null => "null".to_owned(),
        TupleValue::Unchanged => "unchanged".to_owned(),
        TupleValue::Text(text) => String::from_utf8_lossy(&text).chars().take(8).collect(),
        TupleValue::Binary(octets) => format!("{octets:?}"),
    };
    tuple.values().map(word).collect::<Vec<_>>().join(" ")
}

fn sentence(message: &Message<'_>) -> String {
    match message {
        Message::Begin(_) => "begin".into(),
        Message::Commit(_) => "commit".into(),
        Message::Origin(origin) => format!("origin {}", origin.name),
        Message::Relation(relation) => {
            let columns: Vec<_> = relation.columns.iter().map(|c| format!("{}{}", c.name, if c.in_identity { "*" } else { "" })).collect();
            format!("relation {}.{} {:?} {}", relation.namespace, relation.name, relation.replica_identity, columns.join(" "))
        }
        Message::Type(described) => format!("type {}.{}", described.namespace, described.name),
        Message::Insert(insert) => format!("insert {}", words(&insert.new)),
        Message::Update(update) => {
            let old = match &update.old {
                None => String::new(),
                Some(OldTuple::Key(old)) => format!("key {} ", words(old)),
                Some(OldTuple::Full(old)) => format!("full {} ", words(old)),
            };
            format!("update {old}to {}", words(&update.new))
        }
        Message::Delete(delete) => match &delete.old {
            OldTuple::Key(old) => format!("delete key {}", words(old)),
            OldTuple::Full(old) => format!("delete full {}", words(old)),
        },
        Message::Truncate(truncate) => format!("truncate {} {}", truncate.relations.len(), truncate.cascade),
        Message::Logical(logical) => format!("logical {} {:?}", logical.prefix, logical.content),
    }
}

/// The messages until `commits` transactions have ended.
async fn read(stream: &mut ReplicationStream, commits: usize) -> Vec<String> {
    let (mut sentences, mut ended) = (Vec::new(), 0);
    let reading = async {
        while ended < commits {
            if let Frame::Data { payload, .. } = stream.next().await.unwrap().expect("the stream goes on") {
                let message = Message::decode(&payload).unwrap();
                ended += usize::from(matches!(message, Message::Commit(_)));
                sentences.push(sentence(&message));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("the changes come");
    sentences
}

#[tokio::test]
async fn changes_come_as_they_were_made() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE things (id int PRIMARY KEY, m mood, t text);
             CREATE TABLE whole (id int); ALTER TABLE whole REPLICA IDENTITY FULL;
             ALTER TABLE things ALTER t SET STORAGE EXTERNAL;
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .await
        .unwrap();
    let mut creating = connection(&server).await;
    let identity = creating.identify_system().await.unwrap();
    assert_eq!((identity.timeline, identity.database.as_str()), (1, "postgres"));
    assert_eq!(creating.show("wal_level").await.unwrap(), "logical");
    let slot = creating.create_slot("s", SlotLife::Permanent, SnapshotAction::Nothing).await.unwrap();
    assert_eq!(slot.snapshot_name, None);
    let error = creating.create_slot("s", SlotLife::Permanent, SnapshotAction::Nothing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    client
        .batch_execute(
            "INSERT INTO things VALUES (1, 'ok', repeat('x', 9000)), (2, NULL, NULL);
             UPDATE things SET m = 'sad' WHERE id = 1; UPDATE things SET id = 3 WHERE id = 2; DELETE FROM things WHERE id = 3;
             INSERT INTO whole VALUES (7); UPDATE whole SET id = 8; DELETE FROM whole;
             TRUNCATE things; SELECT pg_logical_emit_message(true, 'for us', 'hello');",
        )
        .await
        .unwrap();
    let options = plugin("p", &[("messages", "true")]);
    let (mut stream, mut feedback) = creating.start_replication("s", Lsn::INVALID, &options).await.unwrap();
    let expected = [
        "begin",
        "type public.mood",
        "relation public.things Default id* m t",
        "insert 1 ok xxxxxxxx",
        "insert 2 null null",
        "update to 1 sad unchanged",
        "update key 2 null null to 3 null null",
        "delete key 3 null null",
        "relation public.whole Full id*",
        "insert 7",
        "update full 7 to 8",
        "delete full 8",
        // Described anew: its definition may have changed.
        "type public.mood",
        "relation public.things Default id* m t",
        "truncate 1 false",
        "logical for us [104, 101, 108, 108, 111]",
        "commit",
    ];
    assert_eq!(read(&mut stream, 1).await, expected);

    // A second reader is told that somebody reads.
    let error = connection(&server).await.start_replication("s", Lsn::INVALID, &options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");

    // What is confirmed, the server remembers.
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    feedback.send(end.parse().unwrap(), end.parse().unwrap()).await.unwrap();
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 's'";
    let started = Instant::now();
    while client.query_one(confirmed, &[]).await.unwrap().get::<_, String>(0) != end {
        assert!(started.elapsed() < Duration::from_secs(20), "the confirmation does not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop((stream, feedback));
    connection(&server).await.drop_slot("s").await.unwrap();
    assert_eq!(connection(&server).await.drop_slot("s").await.unwrap_err().kind(), ErrorKind::Missing);
}

#[tokio::test]
async fn others_read_in_the_snapshot_that_a_slot_exports() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await.unwrap();
    let mut creating = connection(&server).await;
    let slot = creating.create_slot("s", SlotLife::Temporary, SnapshotAction::Export).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let name = slot.snapshot_name.unwrap();
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'")).await.unwrap();
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
    assert!(slot.consistent_point > Lsn::INVALID);
}

#[tokio::test]
async fn a_publication_that_is_missing_is_an_error_of_the_stream() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut creating = connection(&server).await;
    creating.create_slot("s", SlotLife::Permanent, SnapshotAction::Nothing).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let (mut stream, _feedback) = creating.start_replication("s", Lsn::INVALID, &plugin("nowhere", &[])).await.unwrap();
    let error = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    let error = connection(&server).await.start_replication("none", Lsn::INVALID, &plugin("p", &[])).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
}

#[tokio::test]
async fn answers_keep_a_connection_alive_whose_reader_is_held_up() {
    // Long enough that a busy machine does not let it pass.
    const TIMEOUT: Duration = Duration::from_secs(5);
    let timeout = TIMEOUT.as_millis().to_string();
    let Some(server) = server(&[("wal_sender_timeout", &timeout)]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, t text); CREATE PUBLICATION p FOR TABLE t").await.unwrap();
    let mut creating = connection(&server).await;
    creating.create_slot("s", SlotLife::Permanent, SnapshotAction::Nothing).await.unwrap();
    // More than fits into the buffers of the sockets.
    client.batch_execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 30000) n").await.unwrap();
    let (mut stream, mut feedback) = creating.start_replication("s", Lsn::INVALID, &plugin("p", &[])).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(Frame::Data { .. } | Frame::Keepalive { .. })));
    let answering = tokio::spawn(async move {
        while feedback.send(Lsn::INVALID, Lsn::INVALID).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    // Twice the timeout later the answers still arrive.
    let begun: String = client.query_one("SELECT now()::text", &[]).await.unwrap().get(0);
    let later = (TIMEOUT * 2).as_secs();
    let query = format!("SELECT max(reply_time) > '{begun}'::timestamptz + interval '{later} s' FROM pg_stat_replication");
    let started = Instant::now();
    while client.query_one(&query, &[]).await.unwrap().get::<_, Option<bool>>(0) != Some(true) {
        assert!(started.elapsed() < Duration::from_secs(60), "the connection does not live on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let messages = read(&mut stream, 1).await;
    assert!(messages.iter().filter(|message| message.starts_with("insert")).count() >= 29_990, "{}", messages.len());
    answering.abort();
}

#[tokio::test]
async fn a_server_that_stops_ends_the_stream() {
    let Some(mut server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t").await.unwrap();
    let mut creating = connection(&server).await;
    creating.create_slot("s", SlotLife::Permanent, SnapshotAction::Nothing).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let (mut stream, _feedback) = creating.start_replication("s", Lsn::INVALID, &plugin("p", &[])).await.unwrap();
    assert!(stream.next().await.unwrap().is_some(), "it is followed when the server stops");
    let reading = tokio::spawn(async move {
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    });
    tokio::task::spawn_blocking(move || server.kill().unwrap()).await.unwrap();
    match tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap() {
        Ok(None) => {}
        Ok(Some(_)) => unreachable!("only an end is returned"),
        Err(error) => assert!(error.kind().is_transient(), "{error}"),
    }
}
