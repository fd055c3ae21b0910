//! The tables of a job: declared columns, computed columns, watermark, key, options.

use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_expr::Expr;
use std::sync::Arc;

use crate::bind::{Binder, ScopeColumn};
use crate::diagnostic::{Diagnostic, did_you_mean, list};
use crate::expr::{Typed, is_timestamp};
use crate::sql::place::Places;
use crate::sql::{ColumnKind, CreateTable, types};
use crate::{Table, TableOption, job};

/// A declared table.
#[derive(Clone, Debug)]
pub(crate) struct TableDef {
    /// What the runtime is told.
    pub(crate) table: Table,
    /// All columns in order.
    pub(crate) columns: Vec<TableColumn>,
    pub(crate) watermark: Option<TableWatermark>,
    pub(crate) distribution: Option<TableDistribution>,
}

/// What a table says about the partitions of its topic.
#[derive(Clone, Debug)]
pub(crate) struct TableDistribution {
    /// Physical columns; rows with equal values of them are in one partition.
    pub(crate) columns: Vec<String>,
    /// Number of partitions.
    pub(crate) buckets: u32,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    /// Over the physical columns; `None` for a physical column.
    pub(crate) computed: Option<Expr>,
}

/// A declared watermark.
#[derive(Clone, Debug)]
pub(crate) struct TableWatermark {
    pub(crate) column: String,
    /// Over the table's columns.
    pub(crate) expr: Expr,
    /// As written.
    pub(crate) text: String,
    pub(crate) idle_timeout: Option<Duration>,
}

impl TableDef {
    /// Resolves a `CREATE TABLE`.
    pub(crate) fn new(create: &CreateTable, places: &Places<'_>, problems: &mut Vec<Diagnostic>) -> Self {
        let physical = physical_schema(create, problems);
        let mut scope: Vec<ScopeColumn> = physical
            .fields()
            .iter()
            .map(|f| ScopeColumn {
                qualifier: None,
                name: f.name().clone(),
                value: Typed::column(f.name(), f.data_type()),
            })
            .collect();
        let mut columns = Vec::with_capacity(create.columns.len());
        for column in &create.columns {
            let name = column.name.value.clone();
            match &column.kind {
                ColumnKind::Physical { data_type, .. } => {
                    columns.push(TableColumn { name, data_type: data_type.arrow.clone(), computed: None });
                }
                ColumnKind::Computed(expr) => match Binder::new(places, &scope, column.span).bind(expr) {
                    Ok(value) => {
                        let value = if value.data_type == DataType::Null { value.cast(&DataType::Utf8) } else { value };
                        scope.push(ScopeColumn { qualifier: None, name: name.clone(), value: value.clone() });
                        columns.push(TableColumn { name, data_type: value.data_type, computed: Some(value.expr) });
                    }
                    Err(problem) => problems.push(problem),
                },
            }
        }
        let idle_timeout = idle_timeout(&create.options, problems);
        let watermark = watermark(create, &columns, places, idle_timeout, problems);
        let primary_key = primary_key(create, &physical, problems);
        let distribution = distribution(create, &physical, places, problems);
        let table = Table {
            name: create.name.value.clone(),
            span: create.span,
            physical: Arc::new(physical),
            primary_key,
            options: create.options.clone(),
        };
        Self { table, columns, watermark, distribution }
    }
}

fn physical_schema(create: &CreateTable, problems: &mut Vec<Diagnostic>) -> Schema {
    let mut fields: Vec<Field> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for column in &create.columns {
        let name = column.name.value.as_str();
        if names.contains(&name) {
            problems.push(Diagnostic::at(column.span, format!("the column `{name}` is declared twice")));
        }
        names.push(name);
        if let ColumnKind::Physical { data_type, not_null } = &column.kind {
            fields.push(Field::new(name, data_type.arrow.clone(), !not_null));
        }
    }
    if fields.is_empty() {
        problems.push(
            Diagnostic::at(create.span, "the table has no column that is read or written")
                .help("declare at least one: `name TYPE`"),
        );
    }
    Schema::new(fields)
}

fn idle_timeout(options: &[TableOption], problems: &mut Vec<Diagnostic>) -> Option<Duration> {
    let option = options.iter().find(|o| o.key == "scan.watermark.idle-timeout")?;
    match job::duration::parse(&option.value.replace(' ', "").replace("min", "m")) {
        Ok(Duration::ZERO) => None,
        Ok(timeout) => Some(timeout),
        Err(why) => {
            problems.push(Diagnostic::at(option.value_span, format!("'{}' is not a duration", option.value)).help(why));
            None
        }
    }
}

fn watermark(
    create: &CreateTable,
    columns: &[TableColumn],
    places: &Places<'_>,
    idle_timeout: Option<Duration>,
    problems: &mut Vec<Diagnostic>,
) -> Option<TableWatermark> {
    let watermark = create.watermark.as_ref()?;
    let scope: Vec<ScopeColumn> = columns
        .iter()
        .map(|c| ScopeColumn { qualifier: None, name: c.name.clone(), value: Typed::column(&c.name, &c.data_type) })
        .collect();
    let name = watermark.column.value.clone();
    let mut binder = Binder::new(places, &scope, create.span);
    let column = match binder.column(None, &watermark.column) {
        Ok(column) => column,
        Err(problem) => {
            // A computed column that could not be resolved has its own message.
            if !create.columns.iter().any(|c| c.name.value == name) {
                problems.push(problem);
            }
            return None;
        }
    };
    if !is_timestamp(&column.data_type) {
        let place = binder.place(watermark.column.span);
        problems.push(
            Diagnostic::at(
                place,
                format!(
                    "a watermark needs a TIMESTAMP(3) or TIMESTAMP_LTZ(3) column, `{name}` is {}",
                    types::name(&column.data_type)
                ),
            )
            .help(watermark_help(&name, &column.data_type)),
        );
        return None;
    }
    let expr = match binder.bind(&watermark.expr) {
        Ok(expr) => expr,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    if !is_timestamp(&expr.data_type) {
        problems.push(
            binder
                .problem(
                    &watermark.expr,
                    format!("a watermark is a point in time, this is {}", types::name(&expr.data_type)),
                )
                .help(format!("write e.g. `{name} - INTERVAL '5' SECOND`")),
        );
        return None;
    }
    Some(TableWatermark { column: name, expr: expr.expr, text: watermark.expr.to_string(), idle_timeout })
}

fn watermark_help(name: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 | DataType::Int32 => {
            format!(
                "add a computed column, e.g. `ts AS TO_TIMESTAMP_LTZ({name}, 3)`, and write `WATERMARK FOR ts AS ts`"
            )
        }
        DataType::Utf8 => {
            format!("add a computed column, e.g. `ts AS TO_TIMESTAMP({name})`, and write `WATERMARK FOR ts AS ts`")
        }
        _ => "name a column that holds the time of the event".to_owned(),
    }
}

fn distribution(
    create: &CreateTable,
    physical: &Schema,
    places: &Places<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Option<TableDistribution> {
    let declared = create.distribution.as_ref()?;
    let connector = create.options.iter().find(|option| option.key == "connector").map(|option| option.value.as_str());
    if connector != Some("kafka") {
        let message = format!(
            "`DISTRIBUTED BY` says how the partitions of a Kafka topic are filled, and `{}` has {}",
            create.name.value,
            connector.map_or_else(|| "no connector".to_owned(), |name| format!("the connector '{name}'"))
        );
        problems.push(Diagnostic::at(declared.span, message).help("leave the clause out"));
        return None;
    }
    let mut columns: Vec<String> = Vec::new();
    for column in &declared.columns {
        let name = &column.value;
        let place = places.span(column.span).unwrap_or(declared.span);
        if physical.index_of(name).is_err() {
            let names = physical.fields().iter().map(|f| f.name().as_str());
            let help = did_you_mean(name, names.clone()).unwrap_or_else(|| format!("columns are {}", list(names)));
            let computed = create.columns.iter().any(|column| column.name.value == *name);
            let help = match computed {
                true => "it is computed and not in the records: name what it is made of".to_owned(),
                false => help,
            };
            let message = format!("`DISTRIBUTED BY` names `{name}`, which is no physical column");
            problems.push(Diagnostic::at(place, message).help(help));
        } else if columns.contains(name) {
            problems.push(Diagnostic::at(place, format!("`DISTRIBUTED BY` names `{name}` twice")).help("name it once"));
        }
        columns.push(name.clone());
    }
    Some(TableDistribution { columns, buckets: declared.buckets })
}

fn primary_key(create: &CreateTable, physical: &Schema, problems: &mut Vec<Diagnostic>) -> Vec<usize> {
    let mut key = Vec::new();
    for column in &create.primary_key {
        match physical.index_of(&column.value) {
            Ok(index) => key.push(index),
            Err(_) => {
                let names = physical.fields().iter().map(|f| f.name().as_str());
                let help = did_you_mean(&column.value, names.clone())
                    .unwrap_or_else(|| format!("columns are {}", list(names)));
                problems.push(
                    Diagnostic::at(
                        create.span,
                        format!("the primary key names `{}`, which is no physical column", column.value),
                    )
                    .help(help),
                );
            }
        }
    }
    key
}
