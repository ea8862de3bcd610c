//! Wrong input gets an error that says what is wrong and how to mend it, and nothing is lost: once it is mended, all is there.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use crate::harness::{Daemon, Home, Options, payload, run_tailwater, said, shop, wait_until};

const ORDERS: &str = "shop.public.orders";

async fn server(settings: &[(&str, &str)]) -> Option<PostgresServer> {
    required_or_skip(PostgresServer::start(Version::V15, settings).await)
}

fn changed(mut config: Value, changes: &[(&str, Value)]) -> Value {
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    config
}

/// Starts a daemon with this source; it must fail with a trace that holds all of these words.
async fn fails_with(home: &Home, config: &Value, code: &str, words: &[&str]) -> Daemon {
    let options = Options::default().connector("shop.json", shop::file("shop", config)).expect(code);
    let daemon = Daemon::start(home, &options).await;
    let trace = daemon.wait_for_failure("shop").await;
    for word in [code].iter().chain(words) {
        assert!(trace.contains(word), "{word:?} is not in the trace: {trace}");
    }
    daemon
}

/// The daemon goes on by itself, or after a restart of the connector, and has all rows of `orders`.
async fn all_rows_arrive(daemon: &Daemon, client: &tokio_postgres::Client) {
    let restart = daemon.request("POST", "/connectors/shop/restart?includeTasks=true&onlyFailed=true", None).await;
    assert!(restart.0 < 300, "{restart:?}");
    shop::wait_for_streaming(client, shop::SHOP).await;
    shop::wait_for_confirmed(client, shop::SHOP).await;
    let expected: i64 = client.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0);
    let ids: std::collections::BTreeSet<_> =
        daemon.read_topic(ORDERS).await.iter().filter_map(|record| payload(record)["after"]["id"].as_i64()).collect();
    assert_eq!(i64::try_from(ids.len()).unwrap(), expected);
}

fn check(home: &Home, name: &str, text: &str) -> (Option<i32>, String) {
    let file = home.write(name, text);
    let output = run_tailwater(["check".as_ref(), file.as_os_str()]);
    (output.status.code(), said(&output))
}

#[test]
fn an_unknown_connector_is_named_with_the_nearest_one() {
    let (code, said) = check(&Home::new(), "shop.yaml", "name: shop\nconnector: postgress\n");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("postgress") && said.contains("postgres"), "{said}");
}

#[test]
fn all_faults_of_a_configuration_are_reported_at_once_with_the_nearest_keys() {
    let text = "name: shop\nconnector: postgres\ndatabase.hostnam: localhost\ndatabase.port: many\ndatabase.user: u\n";
    let (code, said) = check(&Home::new(), "shop.yaml", text);
    assert_eq!(code, Some(2), "{said}");
    for word in ["topic.prefix", "database.dbname", "database.port", "database.hostnam", "database.hostname"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

#[tokio::test]
async fn a_missing_secret_is_named_and_no_other_is_shown() {
    let home = Home::new();
    let secrets = home.write("secrets.properties", "other=canary-4711\n");
    let of_file = format!("${{file:{}:absent}}", secrets.display());
    for (secret, name) in [("${env:TAILWATER_NO_SUCH_VARIABLE}", "TAILWATER_NO_SUCH_VARIABLE"), (&of_file, "absent")] {
        let config = json!({"connector.class": "postgres", "topic.prefix": "shop", "database.hostname": "127.0.0.1", "database.user": "u",
            "database.dbname": "d", "slot.name": "shop", "database.password": secret});
        let file = home.write("shop.json", &shop::file("shop", &config));
        let output = run_tailwater(["probe".as_ref(), file.as_os_str()]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(name) && !said(&output).contains("canary-4711"), "{}", said(&output));
        let home = Home::new();
        let daemon = fails_with(&home, &config, "misconfigured", &[name]).await;
        // I14
        assert!(!daemon.log_text().contains("canary-4711"), "{}", daemon.log_text());
        daemon.stop().await;
    }
}

#[test]
fn a_file_that_is_no_yaml_is_named_with_its_line() {
    let (code, said) = check(&Home::new(), "shop.yaml", "name: shop\n  connector: [postgres\n");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("shop.yaml"), "{said}");
}

#[tokio::test]
async fn a_wrong_password_stops_the_connector_and_shows_no_secret() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 10).await;
    source.batch_execute("CREATE ROLE cdc LOGIN REPLICATION SUPERUSER PASSWORD 'right-4711'").await.unwrap();
    server.set_access_rules("host all cdc 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n").await.unwrap();
    let config = changed(shop::source(&server), &[("database.user", json!("cdc")), ("database.password", json!("wrong-4712"))]);
    let home = Home::new();
    let daemon = fails_with(&home, &config, "unauthorised", &["cdc"]).await;
    assert!(!daemon.log_text().contains("wrong-4712"), "{}", daemon.log_text());
    source.batch_execute("ALTER ROLE cdc PASSWORD 'wrong-4712'").await.unwrap();
    all_rows_arrive(&daemon, &source).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_user_without_the_right_of_replication_is_told_the_statement() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 10).await;
    source
        .batch_execute(
            "CREATE ROLE cdc LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO cdc; CREATE PUBLICATION shop FOR TABLE orders, visits",
        )
        .await
        .unwrap();
    let config = changed(shop::source(&server), &[("database.user", json!("cdc"))]);
    let home = Home::new();
    let file = home.write("probe.json", &shop::file("shop", &config));
    let output = run_tailwater(["probe".as_ref(), file.as_os_str()]);
    assert!(!output.status.success());
    assert!(said(&output).contains("ALTER ROLE") && said(&output).contains("REPLICATION"), "{}", said(&output));
    let daemon = fails_with(&home, &config, "unauthorised", &["ALTER ROLE", "REPLICATION"]).await;
    source.batch_execute("ALTER ROLE cdc REPLICATION").await.unwrap();
    all_rows_arrive(&daemon, &source).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_server_without_logical_decoding_is_told_the_statement() {
    let Some(mut server) = server(&[("wal_level", "replica")]).await else { return };
    let source = shop::create(&server, 10).await;
    let home = Home::new();
    let daemon = fails_with(&home, &shop::source(&server), "misconfigured", &["ALTER SYSTEM SET wal_level = logical"]).await;
    drop(source);
    server.set(&[("wal_level", "logical")]);
    server.restart().await.unwrap();
    let source = server.connect(shop::SHOP).await.unwrap();
    all_rows_arrive(&daemon, &source).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_slot_in_use_is_waited_for_with_its_reader_named() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 10).await;
    let first = Home::new();
    let options = Options::default().connector("shop.json", shop::file("shop", &shop::source(&server)));
    let holder = Daemon::start(&first, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    holder.stop().await;
    // The data directory is copied, as a second worker by mistake would have it.
    let second = Home::new();
    assert!(Command::new("cp").arg("-a").arg(first.data()).arg(second.data()).status().unwrap().success());
    let holder = Daemon::start(&first, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    let pid: i32 = source.query_one("SELECT active_pid FROM pg_replication_slots", &[]).await.unwrap().get(0);
    fs::remove_file(second.data().join("state.redb")).unwrap();
    let config = changed(shop::source(&server), &[("slot.max.retries", json!("2")), ("slot.retry.delay.ms", json!("300"))]);
    let daemon = fails_with(&second, &config, "conflict", &[&pid.to_string(), "pg_terminate_backend"]).await;
    daemon.stop().await;
    holder.stop().await;
}

#[tokio::test]
async fn a_table_whose_updates_have_no_identity_is_told_the_statement_before_its_writers_suffer() {
    let Some(server) = server(&[]).await else { return };
    shop::create(&server, 10).await;
    let home = Home::new();
    let file = home.write("probe.json", &shop::file("shop", &shop::source(&server)));
    let output = run_tailwater(["probe".as_ref(), file.as_os_str()]);
    let said = said(&output);
    assert!(said.contains("visits") && said.contains("REPLICA IDENTITY"), "{said}");
}

#[tokio::test]
async fn a_locked_data_directory_is_named() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default()).await;
    let mut second = Daemon::spawn(&home, &Options::default().expect("conflict"));
    let status = second.ended().await;
    assert!(!status.success());
    wait_until("the log", async || second.log_text().contains(&*home.data().to_string_lossy())).await;
    assert!(second.log_text().contains("give this one a data.dir of its own"), "{}", second.log_text());
    daemon.stop().await;
}

#[test]
fn a_worker_file_with_a_fault_shows_its_misspelt_keys_too() {
    let home = Home::new();
    let worker = home.write("worker.yaml", "data.dri: /x\nmemory.budget: lots\n");
    let output = run_tailwater(["run".as_ref(), "--config".as_ref(), worker.as_os_str()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("is data.dir meant?"), "{}", said(&output));
    assert_eq!(said(&output).matches("memory.budget").count(), 1, "one fault, one line: {}", said(&output));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let home = Home::new();
    let worker = home.write("worker.yaml", "");
    let output = run_tailwater([
        "run".as_ref(),
        "--config".as_ref(),
        worker.as_os_str(),
        "--data-dir".as_ref(),
        home.data().as_os_str(),
        "--listen".as_ref(),
        address.as_ref(),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&address), "{}", said(&output));
}

#[tokio::test]
async fn malformed_requests_get_errors_in_connects_shape() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default()).await;
    for (method, path, body, expected) in [
        ("POST", "/connectors", Some("{\"name\":"), 400),
        ("POST", "/connectors", Some("[]"), 400),
        ("POST", "/connectors", Some(r#"{"name":"x","config":{"connector.class":"no.such.Connector"}}"#), 400),
        ("PUT", "/connectors/x/config", Some("not json"), 400),
        ("GET", "/connectors/absent", None, 404),
        ("GET", "/connectors/absent/status", None, 404),
        ("PUT", "/connectors/absent/pause", None, 404),
        ("GET", "/no/such/path", None, 404),
    ] {
        let (status, answer) = daemon.request_text(method, path, body.map(str::to_owned)).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert_eq!(answer["error_code"], json!(expected), "{method} {path}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}: {answer}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn two_connectors_of_one_name_are_refused_over_rest_and_in_files() {
    let home = Home::new();
    let generator = json!({"connector.class": "generator", "generator.topics": "numbers"});
    let options = Options::default()
        .connector("a.json", json!({"name": "one", "config": generator}).to_string())
        .connector("b.json", json!({"name": "one", "config": generator}).to_string())
        .expect("b.json");
    let daemon = Daemon::start(&home, &options).await;
    wait_until("the log to name both files", async || daemon.log_text().contains("b.json")).await;
    let (status, answer) = daemon.request("POST", "/connectors", Some(&json!({"name": "one", "config": generator}))).await;
    assert_eq!(status, 409, "{answer}");
    // What a file declares is changed by its file.
    let (status, answer) = daemon.request("DELETE", "/connectors/one", None).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|message| message.contains("a.json")), "{answer}");
    daemon.stop().await;
}

/// The largest file below a folder: a journal's segment.
fn largest_file(folder: &Path) -> PathBuf {
    fn files(folder: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let all = files(folder).into_iter().filter(|path| path.extension().is_none_or(|extension| extension != "redb"));
    all.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_corrupt_segment_is_named_and_never_skipped() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 5000).await;
    let home = Home::new();
    let options = Options::default().connector("shop.json", shop::file("shop", &shop::source(&server)));
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    daemon.stop().await;
    let segment = largest_file(&home.data());
    let mut bytes = fs::read(&segment).unwrap();
    // In its middle: what follows is whole, so this is no torn tail.
    let content = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[content / 2] ^= 0xff;
    fs::write(&segment, bytes).unwrap();

    let daemon = fails_with(&home, &shop::source(&server), "unreadable", &[&*segment.file_name().unwrap().to_string_lossy()]).await;
    daemon.stop().await;
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Only root may mount.
    fn mount(folder: PathBuf) -> Option<Self> {
        fs::create_dir_all(&folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tailwater-test"])
            .arg(&folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: no file system can be mounted here (that takes root)");
        }
        mounted.then_some(Self(folder))
    }

    fn grow(&self) {
        assert!(Command::new("mount").args(["-o", "remount,size=512m"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_lost() {
    let Some(server) = server(&[]).await else { return };
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(home.data()) else { return };
    let source = shop::create(&server, 10).await;
    let options = Options::default().connector("shop.json", shop::file("shop", &shop::source(&server))).expect("space");
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    source
        .batch_execute(
            "INSERT INTO orders SELECT i, nextval('change_numbers'), repeat(md5(i::text), 20) FROM generate_series(1001, 60000) i",
        )
        .await
        .unwrap();
    let trace = daemon.wait_for_failure("shop").await;
    assert!(trace.to_lowercase().contains("space"), "{trace}");
    disk.grow();
    all_rows_arrive(&daemon, &source).await;
    daemon.stop().await;
}
