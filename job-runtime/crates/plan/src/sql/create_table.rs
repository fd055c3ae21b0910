//! `CREATE TABLE` as Flink writes it.

use sqlparser::ast::Ident;
use sqlparser::tokenizer::Token;

use super::parser::{AFTER_TYPE, Read, Reader, word};
use super::types::{self, SqlType};
use super::{Column, ColumnKind, CreateTable, Distributed, Watermark};
use crate::TableOption;
use crate::diagnostic::Diagnostic;

/// Partitions have a key group each, if the plan relies on them: there are so many.
const MOST_BUCKETS: u32 = dataflow::key::KEY_GROUPS as u32;

impl Reader<'_, '_> {
    /// Behind `CREATE TABLE`.
    pub(crate) fn create_table(&mut self) -> Read<CreateTable> {
        let if_not_exists = self.if_not_exists()?;
        let (name, span) = self.table_name()?;
        let mut table = CreateTable {
            name,
            span,
            if_not_exists,
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            distribution: None,
            options: Vec::new(),
        };
        self.refuse("LIKE", "`CREATE TABLE ... LIKE`", "write the columns and options out")?;
        self.expect(&Token::LParen)?;
        loop {
            self.table_element(&mut table)?;
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        if self.accept("COMMENT") {
            self.string()?;
        }
        table.distribution = self.distribution()?;
        self.refuse("PARTITIONED", "`PARTITIONED BY`", "leave it out")?;
        if !self.peek_is("WITH") {
            let token = self.parser.peek_token();
            return Err(self.expected("`WITH ('connector' = '...')`", &token).help(
                "a table is a stream in some system: say which, e.g. `WITH ('connector' = 'kafka', 'topic' = 'orders', ...)`",
            ));
        }
        table.options = self.options()?;
        self.refuse("LIKE", "`CREATE TABLE ... LIKE`", "write the columns and options out")?;
        self.refuse("AS", "`CREATE TABLE ... AS SELECT`", "write CREATE TABLE with columns, then INSERT INTO")?;
        Ok(table)
    }

    fn refuse(&mut self, keyword: &str, what: &str, help: &str) -> Read<()> {
        if !self.peek_is(keyword) {
            return Ok(());
        }
        let token = self.parser.peek_token();
        Err(Diagnostic::at(self.span_of(&token), format!("{what} is not supported")).help(help))
    }

    fn table_element(&mut self, table: &mut CreateTable) -> Read<()> {
        let token = self.parser.peek_token();
        let next = word(&self.parser.peek_nth_token_ref(1).token);
        match (word(&token.token).as_deref(), next.as_deref()) {
            (Some("WATERMARK"), Some("FOR")) => self.watermark(table),
            (Some("PRIMARY"), Some("KEY")) => {
                self.primary_key_words()?;
                let columns = self.names()?;
                self.set_primary_key(table, columns, &token)
            }
            (Some("CONSTRAINT"), Some(_)) => {
                self.keyword("CONSTRAINT")?;
                self.identifier()?;
                self.primary_key_words()?;
                let columns = self.names()?;
                self.set_primary_key(table, columns, &token)
            }
            _ => self.column(table),
        }
    }

    fn watermark(&mut self, table: &mut CreateTable) -> Read<()> {
        let token = self.parser.next_token();
        self.keyword("FOR")?;
        let column = self.identifier()?;
        if self.parser.peek_token_ref().token == Token::Period {
            return Err(Diagnostic::at(
                self.span_of(&self.parser.peek_token()),
                "a watermark on a nested field is not supported",
            )
            .help("make it a computed column first: `ts AS outer.inner`"));
        }
        self.keyword("AS")?;
        let expr = self.parser.parse_expr().map_err(|error| self.parser_error(error))?;
        if table.watermark.is_some() {
            return Err(Diagnostic::at(self.span_of(&token), "a table has one watermark, this is a second"));
        }
        table.watermark = Some(Watermark { column, expr });
        Ok(())
    }

    /// The clause of FLIP-376, if it is there.
    fn distribution(&mut self) -> Read<Option<Distributed>> {
        let span = self.span_of(&self.parser.peek_token());
        if !self.accept("DISTRIBUTED") {
            return Ok(None);
        }
        let form = "write `DISTRIBUTED BY (columns) INTO n BUCKETS`, where n is the topic's number of partitions";
        let token = self.parser.peek_token();
        if self.peek_is("INTO") {
            let message = "`DISTRIBUTED INTO` says nothing of where rows are: the columns are missing";
            return Err(Diagnostic::at(self.span_of(&token), message).help(form));
        }
        self.keyword("BY")?;
        let token = self.parser.peek_token();
        if self.accept("RANGE") {
            return Err(Diagnostic::at(self.span_of(&token), "`DISTRIBUTED BY RANGE` is not supported").help(form));
        }
        self.accept("HASH");
        let columns = self.names()?;
        if !self.accept("INTO") {
            let token = self.parser.peek_token();
            return Err(self.expected("`INTO n BUCKETS`", &token).help(form));
        }
        let token = self.parser.next_token();
        let number = match &token.token {
            Token::Number(digits, _) => digits.parse().ok().filter(|n| (1..=MOST_BUCKETS).contains(n)),
            _ => None,
        };
        let Some(buckets) = number else {
            return Err(self.expected(&format!("a number from 1 to {MOST_BUCKETS}"), &token).help(form));
        };
        self.keyword("BUCKETS")?;
        Ok(Some(Distributed { span, columns, buckets }))
    }

    fn primary_key_words(&mut self) -> Read<()> {
        self.refuse("UNIQUE", "`UNIQUE`", "use PRIMARY KEY (...) NOT ENFORCED")?;
        self.keyword("PRIMARY")?;
        self.keyword("KEY")
    }

    /// Names in parentheses.
    fn names(&mut self) -> Read<Vec<Ident>> {
        self.expect(&Token::LParen)?;
        let mut columns = vec![self.identifier()?];
        while self.parser.consume_token(&Token::Comma) {
            columns.push(self.identifier()?);
        }
        self.expect(&Token::RParen)?;
        Ok(columns)
    }

    /// `NOT ENFORCED` must follow, as in Flink: nobody checks the key.
    fn set_primary_key(
        &mut self,
        table: &mut CreateTable,
        columns: Vec<Ident>,
        place: &sqlparser::tokenizer::TokenWithSpan,
    ) -> Read<()> {
        if !(self.accept("NOT") && self.accept("ENFORCED")) {
            return Err(Diagnostic::at(self.span_of(place), "a primary key of a stream cannot be enforced")
                .help("write `PRIMARY KEY (...) NOT ENFORCED`"));
        }
        if !table.primary_key.is_empty() {
            return Err(Diagnostic::at(self.span_of(place), "a table has one primary key, this is a second"));
        }
        table.primary_key = columns;
        Ok(())
    }

    fn column(&mut self, table: &mut CreateTable) -> Read<()> {
        let token = self.parser.peek_token();
        let name = self.identifier()?;
        let span = self.span_of(&token);
        if self.accept("AS") {
            let expr = self.parser.parse_expr().map_err(|error| self.parser_error(error))?;
            if self.accept("COMMENT") {
                self.string()?;
            }
            table.columns.push(Column { name, span, kind: ColumnKind::Computed(Box::new(expr)) });
            return Ok(());
        }
        let data_type = self.data_type()?;
        let mut not_null = false;
        loop {
            let token = self.parser.peek_token();
            if self.accept("NOT") {
                self.keyword("NULL")?;
                not_null = true;
            } else if self.accept("NULL") {
                not_null = false;
            } else if self.accept("PRIMARY") {
                self.keyword("KEY")?;
                self.set_primary_key(table, vec![name.clone()], &token)?;
            } else if self.accept("COMMENT") {
                self.string()?;
            } else if self.peek_is("METADATA") {
                return Err(Diagnostic::at(self.span_of(&token), "metadata columns are not supported yet")
                    .help("leave the column out"));
            } else {
                break;
            }
        }
        table.columns.push(Column { name, span, kind: ColumnKind::Physical { data_type, not_null } });
        Ok(())
    }

    /// The tokens of a type, up to what may follow it.
    fn data_type(&mut self) -> Read<SqlType> {
        let first = self.parser.peek_token();
        let mut depth = 0usize;
        let (mut text, mut end) = (String::new(), first.span);
        loop {
            let token = self.parser.peek_token();
            match &token.token {
                Token::EOF | Token::SemiColon => break,
                Token::Comma | Token::RParen if depth == 0 => break,
                Token::Word(w) if depth == 0 && w.quote_style.is_none() && !text.is_empty() => {
                    if AFTER_TYPE.contains(&w.keyword) || w.value.eq_ignore_ascii_case("METADATA") {
                        break;
                    }
                    text.push(' ');
                }
                Token::LParen | Token::Lt => depth += 1,
                Token::RParen | Token::Gt => depth = depth.saturating_sub(1),
                _ => {}
            }
            text.push_str(&token.token.to_string());
            end = token.span;
            self.parser.next_token();
        }
        if text.is_empty() {
            return Err(self.expected("the column's type or `AS`", &first));
        }
        types::parse(&text).map_err(|problem| {
            let mut place = first.span;
            place.end = end.end;
            let span = self.places.span(place).unwrap_or_else(|| self.span_of(&first));
            Diagnostic::at(span, problem.message).help_if(problem.help)
        })
    }

    fn options(&mut self) -> Read<Vec<TableOption>> {
        self.keyword("WITH")?;
        self.expect(&Token::LParen)?;
        let mut options: Vec<TableOption> = Vec::new();
        loop {
            let (key, key_span) = self.string()?;
            self.expect(&Token::Eq)?;
            let token = self.parser.peek_token();
            if let Token::Number(..) | Token::Word(_) = &token.token {
                return Err(Diagnostic::at(self.span_of(&token), "the value of an option is a string")
                    .help(format!("write '{}'", token.token)));
            }
            let (value, value_span) = self.string()?;
            if options.iter().any(|option| option.key == key) {
                return Err(
                    Diagnostic::at(key_span, format!("the option '{key}' is given twice")).help("keep one of them")
                );
            }
            options.push(TableOption { key, value, key_span, value_span });
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        Ok(options)
    }
}
