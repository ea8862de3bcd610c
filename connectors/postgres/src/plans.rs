//! The plans of all tables of a run, by the oid that the log names.
//!
//! The log describes a table before its first change in a session and whenever something about it may have changed. Then
//! the catalog is asked for what the log does not say. Where both read like the plan at hand, the plan stays, otherwise a new
//! one is compiled. Looking up the plan of a row is one comparison while the table stays the same.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use tailwater_api::record::Headers;
use tailwater_api::{Error, ErrorKind, Result, Schema};
use tailwater_kit::relational_config::OnLoss;
use tracing::{debug, warn};

use crate::catalog::{ColumnDefinition, TableDefinition};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession};
use crate::data_types::TypeCatalog;
use crate::definitions::{Described, describe};
use crate::event::Blocks;
use crate::lsn::Lsn;
use crate::relation::{PlanContext, Shape, TablePlan};
use crate::table_states::CompletedTable;

/// Compiles plans of one table.
pub(crate) struct Compiler {
    config: Arc<PostgresConfig>,
    types: Arc<TypeCatalog>,
    headers: Headers,
    source_schema: Arc<Schema>,
    previous: Option<Arc<TablePlan>>,
}

impl Compiler {
    /// The plan of the table in this shape. The connection is asked about types that came since.
    pub(crate) async fn compile(&mut self, sql: &SqlConnection, table: &TableDefinition, shape: Shape) -> Result<TablePlan> {
        if shape.columns.iter().any(|column| !self.types.knows(column.type_oid)) {
            let mut types = sql.load_types(self.config.values).await?;
            types.remember(&self.types);
            self.types = Arc::new(types);
        }
        let context = PlanContext { config: &self.config, types: &self.types, source_schema: &self.source_schema, headers: &self.headers };
        TablePlan::compile(&context, shape, Some(table), Lsn::INVALID, self.previous.as_deref())
    }
}

/// Why the log cannot be followed in binary: a table has, or had where the log is, a column whose type is read as text alone.
#[derive(Debug)]
pub(crate) struct ReadAsText {
    /// `schema.table`
    table: String,
}

impl fmt::Display for ReadAsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the table {} has a column whose type is read as text", self.table)
    }
}

impl std::error::Error for ReadAsText {}

/// All plans of a run.
pub(crate) struct Plans {
    config: Arc<PostgresConfig>,
    types: Arc<TypeCatalog>,
    headers: Headers,
    definitions: HashMap<u32, TableDefinition>,
    /// `None` for tables that are not captured
    plans: HashMap<u32, Option<Arc<TablePlan>>>,
    last: Option<(u32, Option<Arc<TablePlan>>)>,
    /// Errored tables, by `schema.table`: their plans are kept current, and nobody gets them
    errored: HashSet<String>,
    /// By `schema.table`
    anchors: HashMap<String, Lsn>,
    /// Whether the stream's values come in binary
    binary: bool,
    /// Values without room in their schemas that are counted already, by table and column
    lost: HashMap<(u32, String), u64>,
    /// Such values of plans that are gone
    uncounted: u64,
}

impl Plans {
    pub(crate) fn new(config: Arc<PostgresConfig>, types: TypeCatalog, headers: Headers, definitions: Vec<TableDefinition>) -> Self {
        let definitions = definitions.into_iter().map(|table| (table.oid, table)).collect();
        Self {
            config,
            types: Arc::new(types),
            headers,
            definitions,
            plans: HashMap::new(),
            last: None,
            errored: HashSet::new(),
            anchors: HashMap::new(),
            binary: false,
            lost: HashMap::new(),
            uncounted: 0,
        }
    }

    /// What is known of types and tables by now. Plans that are compiled already stay.
    pub(crate) fn know(&mut self, types: TypeCatalog, definitions: Vec<TableDefinition>) {
        self.types = Arc::new(types);
        self.definitions = definitions.into_iter().map(|table| (table.oid, table)).collect();
    }

    /// From now on, changes of these tables that were committed before their anchors are dropped.
    ///
    /// # Errors
    /// `bug`: somebody still reads by a plan; an anchor that is not set would let events through that the snapshot holds.
    pub(crate) fn set_anchors(&mut self, tables: &[CompletedTable]) -> Result<()> {
        self.last = None;
        self.anchors = tables.iter().map(|table| (table.name.clone(), table.anchor)).collect();
        for plan in self.plans.values_mut().flatten() {
            if let Some(&anchor) = self.anchors.get(&plan.full_name) {
                let name = plan.full_name.clone();
                let in_use = || Error::new(ErrorKind::Bug, format!("anchor the table {name}")).because("its plan is in use");
                Arc::get_mut(plan).ok_or_else(in_use)?.anchor = anchor;
            }
        }
        Ok(())
    }

    /// The plan by which the snapshot reads a table. It is the log's, too, until the log describes the table; what the log has
    /// described stays, since its rows go on coming in that shape.
    pub(crate) fn of_definition(&mut self, blocks: &Blocks, table: &TableDefinition, shape: Shape) -> Result<Arc<TablePlan>> {
        let plan = Arc::new(self.compile(blocks, shape, Some(table), table.oid)?);
        self.plans.entry(table.oid).or_insert_with(|| Some(plan.clone()));
        Ok(plan)
    }

    /// What compiles plans of a table beside the stream, whose own plan may be of an older shape and stays.
    pub(crate) fn compiler(&self, blocks: &Blocks, oid: u32) -> Compiler {
        Compiler {
            config: self.config.clone(),
            types: self.types.clone(),
            headers: self.headers.clone(),
            source_schema: blocks.schema().clone(),
            previous: self.plans.get(&oid).and_then(Clone::clone),
        }
    }

    /// Takes the log's description of a table, found in transaction `xid`.
    pub(crate) async fn describe(
        &mut self,
        session: &mut SqlSession,
        blocks: &Blocks,
        xid: Option<u32>,
        oid: u32,
        shape: Shape,
    ) -> Result<()> {
        if !self.config.captures(&shape.schema, &shape.table) {
            self.plans.insert(oid, None);
            self.last = None;
            return Ok(());
        }
        let fits = |table: &TableDefinition| {
            let known = Shape::of_definition(table, None, true);
            (&known.schema, &known.table, known.identity_full) == (&shape.schema, &shape.table, shape.identity_full)
                && shape.columns.iter().all(|column| known.columns.contains(column))
        };
        // The catalog's own shape needs no question at first. Later the log describes a table anew because something about it
        // changed, which may be what only the catalog knows: a default, or the key.
        let first = !self.plans.contains_key(&oid);
        if !(first && self.definitions.get(&oid).is_some_and(fits)) {
            if let Some(xid) = xid {
                // The log has a commit before others see it, and it may be this transaction that changed the definition.
                session.get().await?.await_visibility(xid).await?;
            }
            let changed = self.refresh(session, oid).await?;
            let is_planned = self.plans.get(&oid).is_some_and(|plan| plan.as_ref().is_some_and(|plan| plan.shape == shape));
            if is_planned && !changed {
                return Ok(());
            }
        }
        let unknown_type = shape.columns.iter().any(|column| !self.types.knows(column.type_oid));
        if unknown_type {
            self.reload_types(session).await?;
        }
        let definition = self.definitions.get(&oid).cloned();
        let plan = self.compile(blocks, shape, definition.as_ref(), oid)?;
        if self.binary && !plan.is_binary() {
            return Err(Error::new(ErrorKind::Restarting, "follow the log in binary").because(ReadAsText { table: plan.full_name }));
        }
        debug!(table = %plan.full_name, oid, "the log describes the table anew");
        self.replace(oid, Arc::new(plan));
        Ok(())
    }

    /// Compiles the plan of the table anew, because one of its enums has a label that it had not when the types were read. The
    /// log does not say that an enum was altered.
    pub(crate) async fn relist(&mut self, session: &mut SqlSession, blocks: &Blocks, oid: u32, plan: &TablePlan) -> Result<Arc<TablePlan>> {
        let unlisted = plan.unlisted_label();
        let label = unlisted.map(|(_, label)| label);
        debug!(table = %plan.full_name, label, "an enum has a label that was not listed; the types are read again");
        self.reload_types(session).await?;
        if let Some((type_oid, label)) = unlisted {
            // It may be renamed by now.
            Arc::make_mut(&mut self.types).remember_label(type_oid, label.to_owned());
        }
        let definition = self.definitions.get(&oid).cloned();
        let plan = Arc::new(self.compile(blocks, plan.shape.clone(), definition.as_ref(), oid)?);
        self.replace(oid, plan.clone());
        Ok(plan)
    }

    fn replace(&mut self, oid: u32, plan: Arc<TablePlan>) {
        self.uncounted = self.newly_lost();
        self.lost.retain(|(table, _), _| *table != oid);
        self.plans.insert(oid, Some(plan));
        self.last = None;
    }

    async fn reload_types(&mut self, session: &mut SqlSession) -> Result<()> {
        let mut types = session.load_types().await?;
        types.remember(&self.types);
        self.types = Arc::new(types);
        Ok(())
    }

    /// Describes a table of this shape.
    pub(crate) fn description(&self, oid: u32, shape: &Shape) -> Described {
        describe(&self.types, &self.config.dbname, shape, self.definitions.get(&oid))
    }

    /// Whether the server may send the values of all these tables in binary.
    pub(crate) fn are_binary(&self, tables: &[&TableDefinition]) -> bool {
        let codec = |column: &ColumnDefinition| self.types.column(column.type_oid, column.type_modifier, true, None);
        tables.iter().flat_map(|table| &table.columns).filter_map(codec).all(|codec| codec.supports_binary())
    }

    /// Says how the stream's values come from now on.
    pub(crate) fn expect_binary(&mut self, binary: bool) {
        self.binary = binary;
    }

    /// Whether the stream's values come in binary.
    pub(crate) fn come_in_binary(&self) -> bool {
        self.binary
    }

    /// Values since the last call that their schemas had no room for (I11). The first of each column is logged.
    pub(crate) fn newly_lost(&mut self) -> u64 {
        let mut newly = std::mem::take(&mut self.uncounted);
        let warns = self.config.relational.on_loss == OnLoss::Warn;
        for (&oid, plan) in &self.plans {
            let Some(plan) = plan else { continue };
            for (column, count) in plan.lost() {
                let known = self.lost.entry((oid, column.to_owned())).or_insert_with(|| {
                    let message = "a value does not fit into the schema of its type and was written as null, as the nearest value or, where the type is gone, as text";
                    if warns {
                        warn!(table = %plan.full_name, column, "{message}");
                    } else {
                        debug!(table = %plan.full_name, column, "{message}");
                    }
                    0
                });
                newly += count.saturating_sub(*known);
                *known = count;
            }
        }
        newly
    }

    /// Reads the table's definition again, and says whether it now reads otherwise.
    async fn refresh(&mut self, session: &mut SqlSession, oid: u32) -> Result<bool> {
        let found = TableDefinition::load(session.get().await?, Some(oid)).await?.into_iter().next();
        let known = self.definitions.remove(&oid);
        let is_same = match (&found, &known) {
            (Some(found), Some(known)) => found.columns == known.columns && found.key == known.key,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        // A table that was dropped since is not found; the log still holds its changes.
        if let Some(table) = found {
            self.definitions.insert(oid, table);
        }
        Ok(!is_same)
    }

    fn compile(&self, blocks: &Blocks, shape: Shape, definition: Option<&TableDefinition>, oid: u32) -> Result<TablePlan> {
        let context = PlanContext { config: &self.config, types: &self.types, source_schema: blocks.schema(), headers: &self.headers };
        let previous = self.plans.get(&oid).and_then(Option::as_deref);
        let anchor = self.anchors.get(&format!("{}.{}", shape.schema, shape.table)).copied().unwrap_or(Lsn::INVALID);
        TablePlan::compile(&context, shape, definition, anchor, previous)
    }

    /// From now on nobody gets the plan of the table of this name, and so its changes are dropped (I10).
    pub(crate) fn drop_changes_of(&mut self, table: &str) {
        self.errored.insert(table.to_owned());
        self.last = None;
    }

    /// Ends that; says whether it was so.
    pub(crate) fn let_changes_through_of(&mut self, table: &str) -> bool {
        self.last = None;
        self.errored.remove(table)
    }

    /// Whether changes of the table of this name are dropped.
    pub(crate) fn drops_changes_of(&self, table: &str) -> bool {
        self.errored.contains(table)
    }

    /// The same of the table with this oid.
    pub(crate) fn drops_changes_of_oid(&self, oid: u32) -> bool {
        !self.errored.is_empty() && self.plans.get(&oid).and_then(Option::as_ref).is_some_and(|plan| self.drops_changes_of(&plan.full_name))
    }

    /// The plan of the table, `None` where it is not captured or is errored.
    pub(crate) fn of(&mut self, oid: u32) -> Result<Option<Arc<TablePlan>>> {
        if let Some((last, plan)) = &self.last
            && *last == oid
        {
            return Ok(plan.clone());
        }
        let Some(plan) = self.plans.get(&oid) else {
            return Err(
                Error::new(ErrorKind::Unreadable, "decode a change").because(format!("the log has not described the table with oid {oid}"))
            );
        };
        let plan = plan.as_ref().filter(|plan| !self.errored.contains(&plan.full_name)).cloned();
        self.last = Some((oid, plan.clone()));
        Ok(plan)
    }
}
