//! Every file of `config/examples` is valid, and a Debezium configuration as it is found runs as it is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use crate::harness::{Daemon, Home, Options, payload, run_tailwater, said, shop};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples")
}

#[test]
fn every_example_passes_the_check() {
    let mut files: Vec<_> = fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", examples().display());
    for file in files {
        let output = run_tailwater(["check".as_ref(), file.as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", file.display(), said(&output));
    }
}

#[test]
fn the_check_has_a_line_for_each_key_that_is_old_or_not_yet_in_effect() {
    let output = run_tailwater(["check".as_ref(), examples().join("debezium-postgres.json").as_os_str()]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for key in
        ["database.server.name", "transforms.unwrap.drop.tombstones", "transforms.unwrap.delete.handling.mode", "include.schema.changes"]
    {
        assert_eq!(said.lines().filter(|line| line.contains(key)).count(), 1, "{key}: {said}");
    }
}

/// Old options mean what they meant: deletes are rewritten, and their tombstones kept.
#[tokio::test]
async fn a_debezium_configuration_runs_as_it_is() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    server.create_database("userdb").await.unwrap();
    let source = server.connect("userdb").await.unwrap();
    source
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text); CREATE TABLE orders (id int PRIMARY KEY, total numeric(10,2));
             CREATE TABLE payments (id int PRIMARY KEY); INSERT INTO users VALUES (1, 'ada@example.org'); INSERT INTO orders VALUES (1, 19.99)",
        )
        .await
        .unwrap();
    let home = Home::new();
    let secret = home.write("db-password.txt", "password=unused\n");
    let text = fs::read_to_string(examples().join("debezium-postgres.json")).unwrap();
    let mut example: Value = serde_json::from_str(&text).unwrap();
    let config = &mut example["config"];
    config["database.hostname"] = json!("127.0.0.1");
    config["database.port"] = json!(server.port().to_string());
    config["database.user"] = json!("postgres");
    config["database.password"] = json!(format!("${{file:{}:password}}", secret.display()));

    // Each old key is a warning.
    let options = Options::default().connector("users.json", example.to_string()).expect("\"WARN\"");
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, "debezium_user_slot").await;
    source.batch_execute("DELETE FROM users; INSERT INTO payments VALUES (7)").await.unwrap();
    shop::wait_for_confirmed(&source, "debezium_user_slot").await;

    let users: Vec<_> = daemon.read_topic("users").await.iter().map(payload).collect();
    assert_eq!(users.len(), 3, "{users:?}");
    assert_eq!(users[0], json!({"id": 1, "email": "ada@example.org", "__deleted": "false"}));
    assert_eq!(users[1], json!({"id": 1, "email": null, "__deleted": "true"}));
    assert_eq!(users[2], Value::Null);
    assert_eq!(payload(&daemon.read_topic("orders").await[0]), json!({"id": 1, "total": 19.99, "__deleted": "false"}));
    assert_eq!(payload(&daemon.read_topic("payments").await[0])["id"], 7);
    daemon.stop().await;
}
