//! The demo of the README ends by itself with equal tables.

use std::path::Path;
use std::process::{Command, Stdio};

use tailwater_testkit::{PostgresServer, Version, required_or_skip};

#[tokio::test]
async fn the_demo_ends_with_equal_tables() {
    // The demo installs what it needs; a test does not.
    if required_or_skip(PostgresServer::start(Version::V15, &[]).await).is_none() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/demo");
    let output =
        Command::new(script).arg("--once").env("TAILWATER_PROGRAM", env!("CARGO_BIN_EXE_tailwater")).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("equal: yes"), "{said}");
    assert!(said.lines().last().unwrap().starts_with(r#"{"topic":"shop.public.orders","#), "a record: {said}");
}
