//! What keeps a configuration from running, found without changing anything (I15).

use std::path::Path;

use rustix::fs::{Access, access};
use tailwater_api::probe::ProbeReport;

use crate::config::{SchemaEvolution, SqlConfig};
use crate::datum::Datum;
use crate::dialect::Dialect;
use crate::offsets::{CREATE, TABLE};
use crate::postgres::Postgres;
use crate::sqlite::RIGHTS;
use crate::target_url::Target;

const URL: Option<&str> = Some("connection.url");

pub(crate) async fn probe(config: &SqlConfig) -> ProbeReport {
    let mut report = ProbeReport::default();
    match &config.target {
        Target::Postgres(_) => probe_postgres(config, &mut report).await,
        Target::Sqlite(path) => probe_sqlite(path, &mut report),
    }
    report
}

async fn probe_postgres(config: &SqlConfig, report: &mut ProbeReport) {
    let mut database = match Postgres::connect(&config.target).await {
        Ok(database) => database,
        Err(error) => return report.fault(URL, error.sentence(), error.remedy().map(str::to_owned)),
    };
    let sql = "SELECT current_user::text, coalesce(current_schema(), '')::text, pg_is_in_recovery()::text, \
               coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)::text, (to_regclass('tailwater_offsets') IS NOT NULL)::text, \
               coalesce(has_table_privilege(to_regclass('tailwater_offsets'), 'SELECT,INSERT,UPDATE'), false)::text";
    let rows = match database.query(sql, &[]).await {
        Ok(rows) => rows,
        Err(error) => return report.fault(URL, format!("cannot read the rights of the user: {error}"), None),
    };
    let text = |place: usize| match rows.first().and_then(|row| row.get(place)) {
        Some(Datum::Text(text)) => text.to_string(),
        _ => String::new(),
    };
    let [user, schema, standby, may_create, has_offsets, may_write_offsets] = [0, 1, 2, 3, 4, 5].map(text);
    if standby == "true" {
        report.fault(URL, "the server is a standby: nothing can be written there", Some("name the primary in connection.url".to_owned()));
    }
    if schema.is_empty() {
        report.fault(
            URL,
            "the search_path names no schema that exists",
            Some("CREATE SCHEMA, or set currentSchema in connection.url".to_owned()),
        );
        return database.close().await;
    }
    let grant = format!("GRANT CREATE ON SCHEMA \"{schema}\" TO \"{user}\"");
    if has_offsets == "true" && may_write_offsets != "true" {
        let mend = format!("GRANT SELECT, INSERT, UPDATE ON {TABLE} TO \"{user}\"");
        report.fault(URL, format!("{user} may not read and write {TABLE}, which keeps positions in the target"), Some(mend));
    }
    if has_offsets != "true" && may_create != "true" {
        let mend = format!("{grant}; or, as its owner: {CREATE}; GRANT SELECT, INSERT, UPDATE ON {TABLE} TO \"{user}\"");
        report.fault(URL, format!("{user} may not create {TABLE}, which keeps positions in the target"), Some(mend));
    }
    if may_create != "true" && config.schema_evolution == SchemaEvolution::Basic {
        let message = format!("{user} may not create tables in the schema {schema}: only tables that exist can be written to");
        report.note(Some("schema.evolution"), message, Some(grant));
    }
    database.close().await;
}

/// Looks at the file without opening it as a database: that would create it, or recover its journal.
fn probe_sqlite(path: &Path, report: &mut ProbeReport) {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    match std::fs::metadata(directory) {
        Err(error) => {
            let mend = format!("mkdir -p {}", directory.display());
            return report.fault(URL, format!("the directory {} cannot be used: {error}", directory.display()), Some(mend));
        }
        Ok(found) if !found.is_dir() => return report.fault(URL, format!("{} is no directory", directory.display()), None),
        Ok(_) => {}
    }
    // SQLite puts its journal beside the file.
    for place in [directory, path].into_iter().filter(|place| place.exists()) {
        if let Err(error) = access(place, Access::WRITE_OK) {
            return report.fault(URL, format!("{} cannot be written to: {error}", place.display()), Some(RIGHTS.to_owned()));
        }
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => report.fault(URL, format!("{} is a directory", path.display()), None),
        Ok(found) if found.len() > 0 => {
            let mut head = [0; 16];
            let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
            match read {
                Err(error) => report.fault(URL, format!("{} cannot be read: {error}", path.display()), None),
                // The database header string (sqlite.org/fileformat.html, 1.3).
                Ok(()) if &head != b"SQLite format 3\0" => {
                    report.fault(URL, format!("{} is no SQLite database", path.display()), Some("name another path".to_owned()));
                }
                Ok(()) => {}
            }
        }
        // A file that is empty or not there becomes a database.
        Ok(_) | Err(_) => {}
    }
}
