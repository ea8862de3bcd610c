//! Tables of the target as they are, created and widened where `schema.evolution` allows it.
//!
//! What was read is kept until a statement fails over it: somebody may alter the target while we write. Creating and
//! widening are transactions of their own, before the batch's; doing them twice, or beside another task, does nothing.

use std::collections::HashMap;
use std::sync::Arc;

use tailwater_api::{Error, ErrorKind, Scope};

use crate::column_type::ColumnType;
use crate::config::{SchemaEvolution, SqlConfig};
use crate::datum::Datum;
use crate::dialect::{Dialect, TableColumn, quoted};
use crate::failure::{Failure, Meaning};
use crate::interpretation::{Layout, LayoutColumn};

/// A table of the target.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    pub(crate) columns: Vec<TableColumn>,
}

impl Table {
    /// A table of this name, as the configuration's format gives it, without columns.
    pub(crate) fn named<D: Dialect>(config: &SqlConfig, name: &str) -> Self {
        let fold = |name: &str| identifier::<D>(config, name);
        let (schema, name) = D::table_name(name);
        Self { schema: schema.map(fold), name: fold(name), columns: Vec::new() }
    }

    /// The name in statements.
    pub(crate) fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }

    /// The place of a column.
    pub(crate) fn place<D: Dialect>(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| D::same_name(&column.name, name))
    }
}

/// The name that a field or table has in the database.
pub(crate) fn identifier<D: Dialect>(config: &SqlConfig, name: &str) -> String {
    if config.quote_identifiers { name.to_owned() } else { D::folded(name) }
}

/// The tables that were looked at.
#[derive(Default)]
pub(crate) struct Catalog {
    tables: HashMap<Arc<str>, Arc<Table>>,
    /// Which topic a table was named after, to find two that become one
    topics: HashMap<Arc<str>, Arc<str>>,
}

impl Catalog {
    /// Forgets everything: the target is not what it was.
    pub(crate) fn clear(&mut self) {
        self.tables.clear();
    }

    /// The table, as it was last seen.
    pub(crate) fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// Makes sure that the table has the columns of `layout`, only those of the key unless it is to be `written`.
    /// A table that is not there and is not to be written stays unknown.
    pub(crate) async fn ensure<D: Dialect>(
        &mut self,
        database: &mut D,
        config: &SqlConfig,
        layout: &Layout,
        topic: &Arc<str>,
        written: bool,
    ) -> Result<(), Failure> {
        self.check_topic(config, layout, topic)?;
        let needed = if written { &layout.columns[..] } else { &layout.columns[..layout.key] };
        // Another task may create or widen the table between our look and our statement; then a second look settles it.
        let mut last = None;
        for _ in 0..3 {
            let table = match self.tables.get(&layout.table) {
                Some(table) => Arc::clone(table),
                None => self.look::<D>(database, config, layout).await?,
            };
            let missing: Vec<&LayoutColumn> = needed.iter().filter(|column| table.place::<D>(&column.name).is_none()).collect();
            if missing.is_empty() && !table.columns.is_empty() {
                return Ok(());
            }
            if table.columns.is_empty() && !written {
                self.tables.remove(&layout.table);
                return Ok(());
            }
            self.tables.remove(&layout.table);
            let statements = self.statements::<D>(config, layout, &table, &missing)?;
            for sql in statements {
                match database.execute(&sql, &[]).await {
                    Ok(_) => tracing::info!(table = %table.quoted(), statement = %sql, "changed the target's schema"),
                    // The loop looks again; PostgreSQL reports a race for one name as a duplicate key of its catalog.
                    Err(cause) if matches!(D::meaning(&cause), Meaning::Exists | Meaning::Data) => {
                        tracing::debug!(table = %table.quoted(), %cause, "somebody else may have changed the target's schema");
                        last = Some((sql, cause));
                    }
                    Err(cause) => {
                        let meaning = D::meaning(&cause);
                        let mend = match meaning {
                            Meaning::Other(ErrorKind::Unauthorised) => database.grant(&cause, &table.quoted()),
                            Meaning::Shape => {
                                format!("create the schema of {}, or name another one in collection.name.format", table.quoted())
                            }
                            Meaning::Data | Meaning::Exists | Meaning::Full | Meaning::Other(_) => format!("run it by hand: {sql}"),
                        };
                        // A schema that is not there does not come from looking again.
                        let kind = if meaning == Meaning::Shape { Meaning::Other(ErrorKind::Missing) } else { meaning };
                        let failure = Failure::database(kind, format!("run {sql}"), cause).on_table(&table.quoted());
                        return Err(if meaning == Meaning::Full { failure } else { failure.mend(mend) });
                    }
                }
            }
        }
        let error = match last {
            // It was no race: the database refuses the statement.
            Some((sql, cause)) => {
                Error::new(ErrorKind::Misconfigured, format!("run {sql}")).because(cause).mend("create the table or column by hand")
            }
            None => Error::new(ErrorKind::Conflict, format!("prepare the table {}", layout.table))
                .because("its columns are missing again after they were created: somebody removes them"),
        };
        Err(error.scoped(Scope::Table(layout.table.to_string())).into())
    }

    async fn look<D: Dialect>(&mut self, database: &mut D, config: &SqlConfig, layout: &Layout) -> Result<Arc<Table>, Failure> {
        let mut table = Table::named::<D>(config, &layout.table);
        let names = table.schema.iter().chain([&table.name]).chain(layout.columns.iter().map(|column| &column.name));
        for name in names {
            if D::LONGEST_NAME.is_some_and(|longest| name.len() > longest) {
                let error = Error::new(ErrorKind::Misconfigured, format!("use the name {name}"))
                    .because("the database would cut it to its longest length, and two names could become one")
                    .mend("choose a shorter collection.name.format, or rename the field by a transform");
                return Err(error.scoped(Scope::Table(layout.table.to_string())).into());
            }
        }
        table.columns = database
            .columns(&table)
            .await
            .map_err(|cause| Failure::database(D::meaning(&cause), format!("read the columns of {}", table.quoted()), cause))?;
        let table = Arc::new(table);
        self.tables.insert(Arc::clone(&layout.table), Arc::clone(&table));
        Ok(table)
    }

    /// The statements that make the table what `layout` needs.
    fn statements<D: Dialect>(
        &self,
        config: &SqlConfig,
        layout: &Layout,
        table: &Table,
        missing: &[&LayoutColumn],
    ) -> Result<Vec<String>, Failure> {
        let creates = table.columns.is_empty();
        let statements = if creates {
            vec![create::<D>(table, layout)]
        } else {
            D::add_columns(&table.quoted(), &missing.iter().map(|column| definition::<D>(column, false)).collect::<Vec<_>>())
        };
        let what = if creates {
            format!("the table {} does not exist", table.quoted())
        } else {
            let names: Vec<_> = missing.iter().map(|column| column.name.as_str()).collect();
            format!("the table {} has no column {}", table.quoted(), names.join(", "))
        };
        let error = || {
            Error::new(ErrorKind::Missing, format!("write to {}", table.quoted()))
                .because(what.clone())
                .scoped(Scope::Table(table.quoted()))
        };
        if layout.schemaless {
            let mend = "create it by hand, or let records carry their schema (schemas.enable=true of the converters), from which it can be created";
            return Err(error().mend(mend).into());
        }
        match config.schema_evolution {
            SchemaEvolution::Basic => Ok(statements),
            SchemaEvolution::None => Err(error().mend(format!("{}; or set schema.evolution=basic", statements.join("; "))).into()),
        }
    }

    /// Two topics whose names become one table by accident would overwrite each other's rows.
    fn check_topic(&mut self, config: &SqlConfig, layout: &Layout, topic: &Arc<str>) -> Result<(), Failure> {
        if !config.name_format.contains("${topic}") {
            return Ok(());
        }
        let first = self.topics.entry(Arc::clone(&layout.table)).or_insert_with(|| Arc::clone(topic));
        if first == topic {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Misconfigured, format!("write the topic {topic} to the table {}", layout.table))
            .because(format!("the topic {first} has the same table"))
            .mend("give them tables of their own by collection.name.format, or name the common table without ${topic}");
        Err(error.scoped(Scope::Table(layout.table.to_string())).into())
    }
}

fn create<D: Dialect>(table: &Table, layout: &Layout) -> String {
    let mut parts: Vec<String> =
        layout.columns.iter().enumerate().map(|(place, column)| definition::<D>(column, place < layout.key || !column.optional)).collect();
    if layout.key > 0 {
        let key: Vec<String> = layout.columns[..layout.key].iter().map(|column| quoted(&column.name)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!("CREATE TABLE IF NOT EXISTS {} ({})", table.quoted(), parts.join(", "))
}

/// Name, type, default and NOT NULL. A column that is added to rows that exist is NOT NULL only with a default.
fn definition<D: Dialect>(column: &LayoutColumn, required: bool) -> String {
    let mut text = format!("{} {}", quoted(&column.name), D::type_name(&column.kind));
    // For a default that is a function's result, Debezium sends the empty text, which only a text can be.
    let fits = |datum: &Datum| match datum {
        Datum::Null => false,
        Datum::Text(text) => !text.is_empty() || column.kind == ColumnType::Text,
        Datum::Boolean(_) | Datum::Integer(_) | Datum::Float32(_) | Datum::Float64(_) | Datum::Bytes(_) => true,
    };
    let default = column.default.as_ref().and_then(|value| D::datum(&column.kind, value).ok()).filter(fits);
    if let Some(default) = &default {
        text.push_str(&format!(" DEFAULT {}", D::literal(default)));
    }
    if required || (default.is_some() && !column.optional) {
        text.push_str(" NOT NULL");
    }
    text
}
