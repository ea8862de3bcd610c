//! `/connectors/NAME/snapshot`: how far a source's snapshot is, from the figures that it reports.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use tailwater_api::metrics::snapshot as names;

use super::failure::Failure;
use super::requests::Segments;
use super::{Api, answers, connectors};
use crate::telemetry::Registry;

pub(super) async fn show(State(api): State<Api>, Segments(name): Segments<String>) -> Result<Response, Failure> {
    connectors::known(&api, &name).await?;
    Ok(answers::json(StatusCode::OK, &progress(api.metrics(), &name)))
}

/// `{"name","running","seconds","waits_for":[…],"tables":[{"table","state","rows","estimated_rows","bytes","remaining_seconds"}]}`, null
/// for what nobody knows. A source that has read nothing since the worker began has no tables. What it waits for are sentences of its
/// own.
fn progress(metrics: &Registry, name: &str) -> Value {
    let of_task = |figure| metrics.gauges(figure).into_iter().filter(|(connector, ..)| connector == name).map(|(_, _, _, value)| value);
    let by_table = |figure| -> BTreeMap<String, i64> {
        let gauges = metrics.gauges(figure).into_iter().filter(|(connector, ..)| connector == name);
        gauges.filter_map(|(_, _, table, value)| Some((table?, value))).collect()
    };
    let [rows, bytes, estimated, rest] =
        [names::TABLE_ROWS, names::TABLE_BYTES, names::TABLE_ESTIMATED_ROWS, names::TABLE_REMAINING_SECONDS].map(by_table);
    let tables: Vec<Value> = by_table(names::TABLE_STATE)
        .into_iter()
        .map(|(table, state)| {
            let figure = |of: &BTreeMap<String, i64>| of.get(&table).copied().filter(|value| *value >= 0);
            json!({
                "table": table,
                "state": match state {
                    names::COMPLETE => "complete",
                    names::IS_READ => "reading",
                    _ => "waiting",
                },
                "rows": figure(&rows),
                "estimated_rows": figure(&estimated),
                "bytes": figure(&bytes),
                "remaining_seconds": figure(&rest),
            })
        })
        .collect();
    json!({
        "name": name,
        "running": of_task(names::RUNNING).any(|running| running == 1),
        "seconds": of_task(names::SECONDS).max().unwrap_or(0),
        "waits_for": metrics.remarks(names::WAITS_FOR, name),
        "tables": tables,
    })
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::runtime::worker::MetricsFactory as _;

    #[test]
    fn the_progress_of_one_connector_is_told_table_by_table() {
        let registry = Registry::default();
        let shop = registry.task("shop", 0);
        shop.gauge(names::RUNNING, "", None).set(1);
        shop.gauge(names::SECONDS, "", None).set(12);
        shop.remarks(names::WAITS_FOR).set(vec!["pid 7".to_owned()]);
        for (table, state, rows, estimated) in
            [("public.a", names::COMPLETE, 7, 7), ("public.b", names::IS_READ, 10, 100), ("public.c", names::WAITS, 0, -1)]
        {
            shop.gauge(names::TABLE_STATE, "", Some(table)).set(state);
            shop.gauge(names::TABLE_ROWS, "", Some(table)).set(rows);
            shop.gauge(names::TABLE_ESTIMATED_ROWS, "", Some(table)).set(estimated);
        }
        registry.task("other", 0).gauge(names::TABLE_STATE, "", Some("public.z")).set(0);
        let table = |table: &str, state: &str, rows: i64, estimated: Option<i64>| json!({"table": table, "state": state, "rows": rows, "estimated_rows": estimated, "bytes": null, "remaining_seconds": null});
        let tables =
            [table("public.a", "complete", 7, Some(7)), table("public.b", "reading", 10, Some(100)), table("public.c", "waiting", 0, None)];
        let expected = json!({"name": "shop", "running": true, "seconds": 12, "waits_for": ["pid 7"], "tables": tables});
        assert_eq!(progress(&registry, "shop"), expected);
        let nothing = json!({"name": "copy", "running": false, "seconds": 0, "waits_for": [], "tables": []});
        assert_eq!(progress(&registry, "copy"), nothing);
    }
}
