//! Opening and probing.

use std::os::unix::fs::PermissionsExt;

use tailwater_api::ErrorKind;
use tailwater_api::sink::SinkConnector;
use tailwater_sql::SqlConnector;

use crate::harness::{Sink, UPSERT, config, postgres, sqlite};

#[tokio::test]
async fn what_keeps_a_sink_from_opening_has_its_kind() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = Sink::open(&format!("postgres://u@127.0.0.1:{closed}/d"), UPSERT, &[]).await.err().expect("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let error = Sink::open("sqlite:///nowhere/at/all.db", UPSERT, &[]).await.err().expect("no directory");
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");

    let Some(target) = postgres("configuration_open").await else { return };
    let error = Sink::open(&target.url().replace("configuration_open", "nothing"), UPSERT, &[]).await.err().expect("no database");
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    let nobody = target.url().replace("postgres@", "nobody:hunter2@");
    let error = Sink::open(&nobody, UPSERT, &[]).await.err().expect("no such user");
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn probing_a_file_creates_nothing() {
    let target = sqlite();
    let report = SqlConnector::probe(&config(&target.url(), UPSERT)).await;
    assert!(report.findings.is_empty(), "{report:?}");
    let path = target.url().replace("sqlite://", "");
    assert!(!std::path::Path::new(&path).exists());

    std::fs::write(&path, "this is a text and no database").unwrap();
    assert!(!SqlConnector::probe(&config(&target.url(), UPSERT)).await.is_ready());
    assert!(!SqlConnector::probe(&config("sqlite:///nowhere/at/all.db", UPSERT)).await.is_ready());
}

#[tokio::test]
async fn a_file_or_directory_without_rights_is_named_by_a_probe_and_by_a_run() {
    // Root may write everywhere.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let target = sqlite();
    let path = std::path::PathBuf::from(target.url().replace("sqlite://", ""));
    let allow = |path: &std::path::Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    target.run("CREATE TABLE t (a int)").await;
    for (denied, mode) in [(&*path, 0o444), (path.parent().unwrap(), 0o555)] {
        allow(denied, mode);
        let report = SqlConnector::probe(&config(&target.url(), UPSERT)).await;
        assert!(report.findings[0].mend.as_deref().unwrap().contains("chown"), "{report:?}");
        let error = Sink::open(&target.url(), UPSERT, &[]).await.err().expect("it may not write");
        assert!(error.remedy().unwrap().contains("chown"), "{error}");
        allow(denied, 0o755);
    }
    assert!(SqlConnector::probe(&config(&target.url(), UPSERT)).await.is_ready());
}

#[tokio::test]
async fn probing_a_server_names_missing_rights() {
    let Some(target) = postgres("configuration_probe").await else { return };
    assert!(SqlConnector::probe(&config(&target.url(), UPSERT)).await.findings.is_empty());
    target.run("CREATE USER configuration_writer").await;
    let report = SqlConnector::probe(&config(&target.url().replace("postgres@", "configuration_writer@"), UPSERT)).await;
    assert!(!report.is_ready());
    let mends: Vec<_> = report.findings.iter().filter_map(|finding| finding.mend.as_deref()).collect();
    assert!(mends.iter().all(|mend| mend.starts_with("GRANT CREATE ON SCHEMA \"public\" TO \"configuration_writer\"")), "{mends:?}");
    assert!(target.rows("SELECT 1 FROM pg_class WHERE relname = 'tailwater_offsets'").await.is_empty());
}
