//! Reading values again that the log does not hold, by the key of their row.
//!
//! Values travel in the form in which the log has them: those of the key go back to the server as they came, text or
//! binary, and what is found is decoded by the codec of its column (I7).

use std::error::Error as StdError;

use bytes::{BufMut, Bytes, BytesMut};
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tailwater_kit::reselect::ReselectOptions;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tracing::{debug, warn};

use crate::catalog::{as_text, quote_identifier};
use crate::connect::{SqlSession, sql_error};
use crate::data_types::Format;
use crate::pgoutput::{OldTuple, Tuple, TupleValue};
use crate::relation::TablePlan;

/// A value that was read again: the column of the tuple, and what is there now.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) column: usize,
    pub(crate) format: Format,
    pub(crate) value: Option<Bytes>,
}

/// The values of a new row that are to be read again, as they are now. Empty where the row is gone. `xid` is the transaction
/// that wrote it.
pub(crate) async fn reselect(
    options: &ReselectOptions,
    session: &mut SqlSession,
    xid: Option<u32>,
    plan: &TablePlan,
    old: Option<&OldTuple<'_>>,
    new: &Tuple<'_>,
) -> Result<Vec<Found>> {
    let whole = matches!(old, Some(OldTuple::Full(_)));
    let wanted: Vec<(usize, Format)> = new
        .values()
        .enumerate()
        .filter(|(index, value)| match value {
            // A whole old row tells what is unchanged.
            TupleValue::Unchanged => options.unavailable && !whole && plan.is_reselected(options, *index),
            TupleValue::Null => options.nulls && plan.is_reselected(options, *index),
            TupleValue::Text(_) | TupleValue::Binary(_) => false,
        })
        .filter_map(|(index, _)| Some((index, if plan.codec(index)?.supports_binary() { Format::Binary } else { Format::Text })))
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    match Box::pin(select(session, xid, plan, &wanted, new)).await {
        Ok(found) => Ok(found),
        Err(error) if options.fails => Err(error.scoped(Scope::Table(plan.full_name.clone()))),
        Err(error) => {
            warn!(table = %plan.full_name, "values stay unchanged, which were to be read again: {error}");
            Ok(Vec::new())
        }
    }
}

async fn select(
    session: &mut SqlSession,
    xid: Option<u32>,
    plan: &TablePlan,
    wanted: &[(usize, Format)],
    new: &Tuple<'_>,
) -> Result<Vec<Found>> {
    let doing = || format!("read values of {} again", plan.full_name);
    let key = plan.key_columns();
    if key.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, doing()).because("the table has no key"));
    }
    let name = |index: usize| quote_identifier(&plan.shape.columns[index].name);
    let columns = wanted.iter().map(|&(index, format)| match format {
        Format::Text => as_text(&name(index), plan.shape.columns[index].type_oid),
        Format::Binary => name(index),
    });
    let conditions = key.iter().enumerate().map(|(place, &index)| format!("{} = ${}", name(index), place + 1));
    let query = format!(
        "SELECT {} FROM {}.{} WHERE {}",
        columns.collect::<Vec<_>>().join(", "),
        quote_identifier(&plan.shape.schema),
        quote_identifier(&plan.shape.table),
        conditions.collect::<Vec<_>>().join(" AND ")
    );
    let values: Vec<_> = new.values().collect();
    let parameters = key.iter().map(|&index| values[index]).map(RawParameter).collect::<Vec<_>>();
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|parameter| parameter as _).collect();
    let sql = session.get().await?;
    if let Some(xid) = xid {
        // The log has a commit before others see it.
        sql.await_visibility(xid).await?;
    }
    let row = sql.query_opt(&query, &parameters).await.map_err(|error| sql_error(doing(), error))?;
    let Some(row) = row else {
        debug!(table = %plan.full_name, "the row is gone; its values stay unchanged");
        return Ok(Vec::new());
    };
    let found = wanted.iter().enumerate().map(|(place, &(column, format))| {
        let value = row.try_get::<_, Option<RawValue>>(place).map_err(|error| sql_error(doing(), error))?;
        Ok(Found { column, format, value: value.map(|RawValue(octets)| octets) })
    });
    found.collect()
}

/// A value of the log as the parameter of a statement.
#[derive(Debug)]
struct RawParameter<'a>(TupleValue<'a>);

impl ToSql for RawParameter<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.0 {
            TupleValue::Text(octets) | TupleValue::Binary(octets) => {
                out.put_slice(octets);
                Ok(IsNull::No)
            }
            TupleValue::Null => Ok(IsNull::Yes),
            TupleValue::Unchanged => Err("the log does not hold a value of the key".into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> tokio_postgres::types::Format {
        match self.0 {
            TupleValue::Text(_) => tokio_postgres::types::Format::Text,
            TupleValue::Binary(_) | TupleValue::Null | TupleValue::Unchanged => tokio_postgres::types::Format::Binary,
        }
    }

    tokio_postgres::types::to_sql_checked!();
}

/// The octets of a value.
struct RawValue(Bytes);

impl<'a> FromSql<'a> for RawValue {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(Bytes::copy_from_slice(raw)))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
