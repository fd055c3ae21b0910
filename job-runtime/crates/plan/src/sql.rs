//! The statements of a job in Flink SQL's dialect, as written.
//!
//! Owns the syntax. Names are not resolved here: see `query`.

use sqlparser::ast::{Expr, Ident, Query};

use crate::{Span, TableOption};
use types::SqlType;

pub(crate) mod create_table;
pub(crate) mod dialect;
pub(crate) mod duration;
pub(crate) mod parser;
pub(crate) mod place;
pub(crate) mod types;

/// One statement of a job; statement sets are already taken apart.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    CreateTable(Box<CreateTable>),
    CreateView(CreateView),
    Insert(Insert),
    Set(Setting),
}

/// `SET 'key' = 'value'`
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: String,
    pub(crate) value_span: Span,
}

/// `CREATE TABLE name (…) WITH (…)`
#[derive(Clone, Debug)]
pub(crate) struct CreateTable {
    pub(crate) name: Ident,
    pub(crate) span: Span,
    pub(crate) if_not_exists: bool,
    pub(crate) columns: Vec<Column>,
    pub(crate) watermark: Option<Watermark>,
    pub(crate) primary_key: Vec<Ident>,
    pub(crate) distribution: Option<Distributed>,
    pub(crate) options: Vec<TableOption>,
}

/// `DISTRIBUTED BY [HASH] (columns) INTO buckets BUCKETS`
#[derive(Clone, Debug)]
pub(crate) struct Distributed {
    pub(crate) span: Span,
    pub(crate) columns: Vec<Ident>,
    pub(crate) buckets: u32,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: Ident,
    pub(crate) span: Span,
    pub(crate) kind: ColumnKind,
}

/// What a column holds.
#[derive(Clone, Debug)]
pub(crate) enum ColumnKind {
    Physical { data_type: SqlType, not_null: bool },
    Computed(Box<Expr>),
}

/// `WATERMARK FOR column AS expr`
#[derive(Clone, Debug)]
pub(crate) struct Watermark {
    pub(crate) column: Ident,
    pub(crate) expr: Expr,
}

/// `CREATE VIEW name AS query`
#[derive(Clone, Debug)]
pub(crate) struct CreateView {
    pub(crate) name: Ident,
    pub(crate) span: Span,
    pub(crate) columns: Vec<Ident>,
    pub(crate) query: Box<Query>,
}

/// `INSERT INTO table [(columns)] query`
#[derive(Clone, Debug)]
pub(crate) struct Insert {
    pub(crate) table: Ident,
    pub(crate) columns: Vec<Ident>,
    pub(crate) query: Box<Query>,
    pub(crate) span: Span,
}
