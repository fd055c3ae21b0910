//! INSERT INTO: the query's columns must fit the table's.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;

use super::{QueryPlanner, Relation};
use crate::bind::{Bound, ScopeColumn};
use crate::catalog::TableDef;
use crate::diagnostic::{Diagnostic, did_you_mean, list};
use crate::expr::{Typed, assignable};
use crate::logical::{PlanNode, PlanOp, schema};
use crate::sql::{Insert, types};

impl QueryPlanner<'_> {
    pub(crate) fn insert(&mut self, insert: &Insert) -> Bound<()> {
        self.fallback = insert.span;
        let Some(table) = self.tables.iter().position(|def| def.table.name == insert.table.value) else {
            if self.views.iter().any(|(name, _)| *name == insert.table.value) {
                return Err(Diagnostic::at(
                    insert.span,
                    format!("`{}` is a view and cannot be written to", insert.table.value),
                ));
            }
            return Err(self.no_table(&insert.table, "table"));
        };
        let relation = self.query(&insert.query)?;
        self.settled(&relation)?;
        let table = &self.tables[table];
        keeps_distribution(insert, table)?;
        let values = self.sink_values(insert, table, &relation)?;
        let name = table.table.name.clone();
        let output = schema(table.table.physical.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())));
        let input = self.materialize(relation.input, relation.filter, values);
        let node =
            PlanNode { op: PlanOp::Sink { table: name }, inputs: vec![input], schema: output, times: Vec::new() };
        self.plan.add(node);
        Ok(())
    }

    /// The query's columns under the table's names and types, in the table's order.
    fn sink_values(&self, insert: &Insert, table: &TableDef, relation: &Relation) -> Bound<Vec<(String, Typed)>> {
        let fields = table.table.physical.fields();
        let targets: Vec<usize> = if insert.columns.is_empty() {
            (0..fields.len()).collect()
        } else {
            let index = |name: &sqlparser::ast::Ident| {
                table.table.physical.index_of(&name.value).map_err(|_| {
                    let names = fields.iter().map(|f| f.name().as_str());
                    let help = did_you_mean(&name.value, names.clone())
                        .unwrap_or_else(|| format!("columns are {}", list(names)));
                    let place = self.places.span(name.span).unwrap_or(insert.span);
                    Diagnostic::at(place, format!("`{}` has no column `{}`", table.table.name, name.value)).help(help)
                })
            };
            insert.columns.iter().map(index).collect::<Bound<_>>()?
        };
        if targets.len() != relation.columns.len() {
            return Err(self.column_count(insert, table, &targets, relation));
        }
        let mut values: Vec<Option<Typed>> = vec![None; fields.len()];
        for (column, &target) in relation.columns.iter().zip(&targets) {
            values[target] = Some(self.assign(insert, table, column, target)?);
        }
        let mut out = Vec::with_capacity(fields.len());
        for (field, value) in fields.iter().zip(values) {
            let value = match value {
                Some(value) => value,
                None if field.is_nullable() => {
                    Typed::literal(ScalarValue::try_from(field.data_type()).unwrap_or(ScalarValue::Null))
                }
                None => {
                    return Err(Diagnostic::at(
                        insert.span,
                        format!("`{}` is NOT NULL and gets no value", field.name()),
                    )
                    .help("add it to the column list and the query"));
                }
            };
            out.push((field.name().clone(), value));
        }
        Ok(out)
    }

    fn column_count(&self, insert: &Insert, table: &TableDef, targets: &[usize], relation: &Relation) -> Diagnostic {
        let fields = table.table.physical.fields();
        let wanted = targets.iter().map(|i| format!("{} {}", fields[*i].name(), types::name(fields[*i].data_type())));
        let given = relation.columns.iter().map(|c| format!("{} {}", c.name, types::name(&c.value.data_type)));
        let count = relation.columns.len();
        let plural = if count == 1 { "" } else { "s" };
        let message = format!("the query gives {count} column{plural}, `{}` takes {}", table.table.name, targets.len());
        Diagnostic::at(insert.span, message)
            .help(format!("the table: {}", wanted.collect::<Vec<_>>().join(", ")))
            .help(format!("the query: {}", given.collect::<Vec<_>>().join(", ")))
    }

    fn assign(&self, insert: &Insert, table: &TableDef, column: &ScopeColumn, target: usize) -> Bound<Typed> {
        let field = table.table.physical.field(target);
        let (from, to) = (&column.value.data_type, field.data_type());
        if assignable(from, to) {
            return Ok(column.value.clone().cast(to));
        }
        let place = self.select_place(insert, target).unwrap_or(insert.span);
        let (from_name, to_name) = (types::name(from), types::name(to));
        let mut problem = Diagnostic::at(
            place,
            format!("`{}`.`{}` is {to_name}, the query gives {from_name}", table.table.name, field.name()),
        );
        if crate::functions::cast::explicit(column.value.clone(), to, false).is_some() {
            problem = problem.help(format!("write `CAST({} AS {to_name})`", shown(&column.name)));
        } else if matches!((from, to), (DataType::Int64, DataType::Timestamp(_, _))) {
            problem = problem.help(format!("write `TO_TIMESTAMP_LTZ({}, 3)`", shown(&column.name)));
        }
        Err(problem)
    }

    /// Where the select list gives a column, if it is a plain select.
    fn select_place(&self, insert: &Insert, target: usize) -> Option<crate::Span> {
        use sqlparser::ast::{SelectItem, SetExpr, Spanned};
        let SetExpr::Select(select) = insert.query.body.as_ref() else { return None };
        let position = if insert.columns.is_empty() {
            target
        } else {
            let def = self.tables.iter().find(|def| def.table.name == insert.table.value)?;
            insert.columns.iter().position(|c| c.value == *def.table.physical.field(target).name())?
        };
        if select
            .projection
            .iter()
            .take(position + 1)
            .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)))
        {
            return None;
        }
        self.places.span(select.projection.get(position)?.span())
    }
}

/// A table says where its rows are: what is written to it must be there. A record's key decides its partition.
fn keeps_distribution(insert: &Insert, table: &TableDef) -> Bound<()> {
    let Some(declared) = &table.distribution else { return Ok(()) };
    let option = table.table.options.iter().find(|option| option.key == "key.fields");
    let fields =
        option.iter().flat_map(|option| option.value.split(';').map(str::trim)).filter(|name| !name.is_empty());
    let (mut fields, mut columns): (Vec<&str>, Vec<&str>) =
        (fields.collect(), declared.columns.iter().map(String::as_str).collect());
    [&mut fields, &mut columns].into_iter().for_each(|names| names.sort_unstable());
    if fields == columns {
        return Ok(());
    }
    let name = &table.table.name;
    let message = format!(
        "`{name}` is DISTRIBUTED BY ({}), and rows that are written to it would not be",
        declared.columns.join(", ")
    );
    let help = format!(
        "make these columns the record's key: 'key.fields' = '{}', 'key.format' = 'json'; or leave `DISTRIBUTED BY` out",
        declared.columns.join(";")
    );
    Err(Diagnostic::at(insert.span, message).help(help))
}

/// A column's name as it may stand in the help; expressions have none.
fn shown(name: &str) -> &str {
    if name.starts_with("EXPR$") { "..." } else { name }
}
