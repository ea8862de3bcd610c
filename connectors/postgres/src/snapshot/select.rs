//! Which tables a snapshot reads, and the statement that reads one.

use std::collections::HashSet;

use tailwater_kit::filters::NameList;
use tailwater_kit::relational_config::TableOrder;

use super::work::Pages;
use crate::catalog::{Publication, TableDefinition, as_text, quote_identifier};
use crate::config::PostgresConfig;
use crate::data_types::{ColumnCodec, Format};
use crate::relation::TablePlan;
use crate::source::{captured, captured_alone};

/// Binary where both sides know it; other types are cast to text.
pub(crate) fn copy_format(codec: &ColumnCodec) -> Format {
    if codec.supports_binary() { Format::Binary } else { Format::Text }
}

/// The parts of the COPY that reads a table.
pub(super) struct Select {
    columns: String,
    from: String,
    /// Of its rows, as the table is published
    pub(super) filter: Option<String>,
    /// Whether the rows are the table's own, so that pages of it can be chosen
    pub(super) has_pages: bool,
}

impl Select {
    /// Of the captured columns of the table.
    pub(super) fn new(config: &PostgresConfig, table: &TableDefinition, plan: &TablePlan) -> Self {
        let name = table.full_name();
        let mut statements = config.relational.snapshot_selects.iter();
        let statement = statements.find(|(table, _)| *table == name).map(|(_, statement)| statement);
        let columns: Vec<String> = plan
            .shape
            .columns
            .iter()
            .enumerate()
            .filter_map(|(index, column)| {
                let codec = plan.codec(index)?;
                let quoted = quote_identifier(&column.name);
                let definition = table.columns.iter().find(|definition| definition.name == column.name)?;
                Some(match (copy_format(codec), statement) {
                    (Format::Text, _) => as_text(&quoted, column.type_oid),
                    // A statement of the user may select another type than the column's.
                    (Format::Binary, Some(_)) => format!("{quoted}::{}", definition.type_name),
                    (Format::Binary, None) => quoted,
                })
            })
            .collect();
        let from = match statement {
            Some(statement) => format!("({}) AS rows_to_read", statement.trim().trim_end_matches(';')),
            // Rows of inheriting tables are those tables' own.
            None if table.partitioned => table.quoted(),
            None => format!("ONLY {}", table.quoted()),
        };
        Self { columns: columns.join(", "), from, filter: None, has_pages: statement.is_none() }
    }

    /// The statement for these pages; of a partitioned table they are those of each of its leaves.
    pub(super) fn statement(&self, pages: Pages) -> String {
        let conditions: Vec<String> = [
            self.filter.as_ref().map(|filter| format!("({filter})")),
            (pages.from > 0).then(|| format!("ctid >= '({},0)'::tid", pages.from)),
            pages.until.map(|page| format!("ctid < '({page},0)'::tid")),
        ]
        .into_iter()
        .flatten()
        .collect();
        let condition = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("COPY (SELECT {} FROM {}{condition}) TO STDOUT (FORMAT binary)", self.columns, self.from)
    }
}

/// Whether the list of tables to read names the table. As with Debezium, its name in double quotes is one of its names.
pub(crate) fn is_named_by(list: &NameList, table: &TableDefinition) -> bool {
    list.matches(&table.full_name()) || list.matches(&table.quoted())
}

/// The tables that a snapshot reads, in its order: those to capture, where `snapshot.include.collection.list` names them or a
/// partitioned table that they are a part of. Of such a one either the root is read or its leaves are, as it is published, or as it is
/// captured.
pub(crate) fn tables_to_read(
    config: &PostgresConfig,
    publication: Option<&Publication>,
    definitions: &[TableDefinition],
) -> Vec<TableDefinition> {
    let relational = &config.relational;
    let captured = captured(config, definitions);
    let alone = captured_alone(config, definitions);
    let by_root = |table: &TableDefinition| match publication {
        Some(publication) => publication.table(table.oid).is_some(),
        None => config.publish_via_root,
    };
    let roots = || captured.iter().filter(|table| table.partitioned);
    let above_told: HashSet<u32> = roots().filter(|root| by_root(root)).flat_map(|root| root.ancestors.iter().copied()).collect();
    let is_read_as_one = |root: &TableDefinition| by_root(root) || alone.contains(&root.oid) && !above_told.contains(&root.oid);
    let read_as_one: HashSet<u32> = roots().filter(|root| is_read_as_one(root)).map(|root| root.oid).collect();
    let is_named = |table: &TableDefinition| is_named_by(&relational.snapshot_tables, table);
    let named_roots: HashSet<u32> = roots().filter(|root| is_named(root)).map(|root| root.oid).collect();
    let read = |table: &TableDefinition| {
        let is_part_of = |roots: &HashSet<u32>| table.ancestors.iter().any(|oid| roots.contains(oid));
        let named = if relational.snapshot_tables.is_empty() {
            // As Debezium does: the table is captured for its signals, and those that are there are of the past.
            !config.is_signal_table(&table.schema, &table.name)
        } else {
            is_named(table) || is_part_of(&named_roots)
        };
        named && !is_part_of(&read_as_one) && (!table.partitioned || read_as_one.contains(&table.oid))
    };
    let mut tables: Vec<TableDefinition> = captured.iter().filter(|table| read(table)).map(|table| (*table).clone()).collect();
    match relational.snapshot_order {
        // As Debezium does: first in the order of the include list, then by name.
        TableOrder::Name => tables.sort_by_cached_key(|table| {
            let name = table.full_name();
            (relational.tables.tables.place(&name), name)
        }),
        TableOrder::Ascending => tables.sort_by(|one, two| one.rows.total_cmp(&two.rows)),
        TableOrder::Descending => tables.sort_by(|one, two| two.rows.total_cmp(&one.rows)),
    }
    // As Debezium does.
    tables.sort_by_key(|table| config.is_signal_table(&table.schema, &table.name));
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_pages_touch_each_other_and_the_last_is_open() {
        let select = Select { columns: "id".into(), from: "ONLY t".into(), filter: Some("a OR b".into()), has_pages: true };
        let of = |from, until| select.statement(Pages { from, until });
        let whole = "COPY (SELECT id FROM ONLY t WHERE (a OR b)) TO STDOUT (FORMAT binary)";
        assert_eq!(of(0, None), whole);
        assert_eq!(of(0, Some(7)), whole.replace("b))", "b) AND ctid < '(7,0)'::tid)"));
        assert_eq!(of(7, Some(9)), whole.replace("b))", "b) AND ctid >= '(7,0)'::tid AND ctid < '(9,0)'::tid)"));
        assert_eq!(of(9, None), whole.replace("b))", "b) AND ctid >= '(9,0)'::tid)"));
    }
}
