//! From SQL text to statements.
//!
//! Queries and expressions are sqlparser's; the statements around them are Flink's and are read here, token by token.

use sqlparser::ast::{Ident, ObjectName, Query};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::dialect::FlinkDialect;
use super::place::Places;
use super::{CreateView, Insert, Setting, Statement};
use crate::Span;
use crate::diagnostic::Diagnostic;

/// Reads all statements. A statement with a problem is left out, and the rest is read on.
pub(crate) fn parse(places: &Places<'_>, problems: &mut Vec<Diagnostic>) -> Vec<Statement> {
    let tokens = match Tokenizer::new(&FlinkDialect, places.text()).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => {
            let at = places.byte(error.location.line, error.location.column);
            problems.push(Diagnostic::at(places.file_span(at..at), plain_words(&error.message)));
            return Vec::new();
        }
    };
    let mut reader = Reader { parser: Parser::new(&FlinkDialect).with_tokens_with_locations(tokens), places };
    let mut statements = Vec::new();
    loop {
        while reader.parser.consume_token(&Token::SemiColon) {}
        if reader.parser.peek_token_ref().token == Token::EOF {
            return statements;
        }
        if let Err(problem) = reader.statement(&mut statements) {
            problems.push(problem);
            reader.skip_statement();
        }
    }
}

/// The state of reading.
pub(crate) struct Reader<'a, 'p> {
    pub(crate) parser: Parser<'a>,
    pub(crate) places: &'p Places<'p>,
}

/// A read piece, or what is wrong.
pub(crate) type Read<T> = Result<T, Diagnostic>;

impl Reader<'_, '_> {
    fn statement(&mut self, out: &mut Vec<Statement>) -> Read<()> {
        let first = self.parser.peek_token();
        match word(&first.token).as_deref() {
            Some("CREATE") => out.push(self.create()?),
            Some("INSERT") => out.push(Statement::Insert(self.insert()?)),
            Some("SET") => out.push(Statement::Set(self.setting()?)),
            Some("EXECUTE") => return self.execute(out),
            Some("BEGIN") => {
                self.parser.next_token();
                self.keyword("STATEMENT")?;
                self.keyword("SET")?;
                self.expect(&Token::SemiColon)?;
                return self.statement_set(out);
            }
            Some(other) => return Err(self.unsupported_statement(other, &first)),
            None => return Err(self.expected("a statement", &first)),
        }
        self.end_of_statement()
    }

    fn unsupported_statement(&self, word: &str, token: &TokenWithSpan) -> Diagnostic {
        let span = self.span_of(token);
        let problem = |message: String, help: &str| Diagnostic::at(span, message).help(help);
        match word {
            "SELECT" | "WITH" | "VALUES" => {
                problem("a query alone has nowhere to write to".to_owned(), "write `INSERT INTO <table> SELECT ...`")
            }
            "RESET" => problem("`RESET` is not supported".to_owned(), "leave out the `SET` that it takes back"),
            "DROP" | "ALTER" | "USE" | "SHOW" | "DESCRIBE" | "DESC" | "EXPLAIN" | "ANALYZE" | "TRUNCATE" | "LOAD"
            | "UNLOAD" | "ADD" | "REMOVE" | "CALL" => problem(
                format!("`{word}` is not supported in a job"),
                "a job holds CREATE TABLE, CREATE VIEW and INSERT INTO; `millstream explain` shows its plan",
            ),
            "UPDATE" | "DELETE" | "MERGE" => problem(
                format!("`{word}` is not supported: a stream is only written to"),
                "write `INSERT INTO <table> SELECT ...`",
            ),
            _ => {
                let known = ["CREATE", "INSERT", "EXECUTE"];
                let help = crate::diagnostic::did_you_mean(word, known)
                    .unwrap_or_else(|| "a statement begins with CREATE, INSERT or EXECUTE STATEMENT SET".to_owned());
                problem(format!("`{}` does not begin a statement", token.token), &help)
            }
        }
    }

    fn setting(&mut self) -> Read<Setting> {
        self.keyword("SET")?;
        let (key, key_span) = self.string()?;
        self.expect(&Token::Eq)?;
        let (value, value_span) = self.string()?;
        Ok(Setting { key, key_span, value, value_span })
    }

    fn execute(&mut self, out: &mut Vec<Statement>) -> Read<()> {
        self.keyword("EXECUTE")?;
        if self.peek_is("INSERT") {
            out.push(Statement::Insert(self.insert()?));
            return self.end_of_statement();
        }
        self.keyword("STATEMENT")?;
        self.keyword("SET")?;
        self.keyword("BEGIN")?;
        self.statement_set(out)
    }

    fn statement_set(&mut self, out: &mut Vec<Statement>) -> Read<()> {
        loop {
            while self.parser.consume_token(&Token::SemiColon) {}
            if self.accept("END") {
                return self.end_of_statement();
            }
            if !self.peek_is("INSERT") {
                let token = self.parser.peek_token();
                return Err(self.expected("`INSERT INTO` or `END` in the statement set", &token));
            }
            let insert = self.insert()?;
            out.push(Statement::Insert(insert));
            self.expect(&Token::SemiColon)?;
        }
    }

    fn create(&mut self) -> Read<Statement> {
        self.keyword("CREATE")?;
        if self.accept("OR") {
            self.keyword("REPLACE")?;
        }
        let temporary = self.accept("TEMPORARY");
        let token = self.parser.peek_token();
        match word(&token.token).as_deref() {
            Some("TABLE") => {
                self.parser.next_token();
                self.create_table().map(|table| Statement::CreateTable(Box::new(table)))
            }
            Some("VIEW") => {
                self.parser.next_token();
                self.create_view().map(Statement::CreateView)
            }
            Some(what @ ("FUNCTION" | "CATALOG" | "DATABASE" | "SYSTEM" | "MODEL" | "MATERIALIZED" | "EXTERNAL")) => {
                Err(Diagnostic::at(
                    self.span_of(&token),
                    format!("`CREATE {}{what}` is not supported", if temporary { "TEMPORARY " } else { "" }),
                )
                .help("CREATE TABLE and CREATE VIEW are"))
            }
            _ => Err(self.expected("`TABLE` or `VIEW` after `CREATE`", &token)),
        }
    }

    fn create_view(&mut self) -> Read<CreateView> {
        self.if_not_exists()?;
        let (name, span) = self.table_name()?;
        let mut columns = Vec::new();
        if self.parser.consume_token(&Token::LParen) {
            loop {
                columns.push(self.identifier()?);
                if self.accept("COMMENT") {
                    self.string()?;
                }
                if !self.parser.consume_token(&Token::Comma) {
                    break;
                }
            }
            self.expect(&Token::RParen)?;
        }
        if self.accept("COMMENT") {
            self.string()?;
        }
        self.keyword("AS")?;
        let query = self.query()?;
        Ok(CreateView { name, span, columns, query })
    }

    fn insert(&mut self) -> Read<Insert> {
        self.keyword("INSERT")?;
        let token = self.parser.peek_token();
        if self.accept("OVERWRITE") {
            return Err(Diagnostic::at(
                self.span_of(&token),
                "`INSERT OVERWRITE` is not supported: a stream has no end to overwrite at",
            )
            .help("write `INSERT INTO`"));
        }
        self.keyword("INTO")?;
        let (table, span) = self.table_name()?;
        let token = self.parser.peek_token();
        if self.peek_is("PARTITION") {
            return Err(Diagnostic::at(self.span_of(&token), "`PARTITION (...)` is not supported"));
        }
        let mut columns = Vec::new();
        if token.token == Token::LParen && !self.parenthesis_opens_query() {
            self.parser.next_token();
            columns.push(self.identifier()?);
            while self.parser.consume_token(&Token::Comma) {
                columns.push(self.identifier()?);
            }
            self.expect(&Token::RParen)?;
        }
        let query = self.query()?;
        Ok(Insert { table, columns, query, span })
    }

    fn parenthesis_opens_query(&self) -> bool {
        let inner = self.parser.peek_nth_token(1).token;
        inner == Token::LParen || matches!(word(&inner).as_deref(), Some("SELECT" | "WITH" | "VALUES"))
    }

    fn query(&mut self) -> Read<Box<Query>> {
        let token = self.parser.peek_token();
        if !matches!(word(&token.token).as_deref(), Some("SELECT" | "WITH" | "VALUES")) && token.token != Token::LParen
        {
            return Err(self.expected("a query (`SELECT ...`)", &token));
        }
        self.parser.parse_query().map_err(|error| self.parser_error(error))
    }

    pub(crate) fn if_not_exists(&mut self) -> Read<bool> {
        if !self.accept("IF") {
            return Ok(false);
        }
        self.keyword("NOT")?;
        self.keyword("EXISTS")?;
        Ok(true)
    }

    /// A table's name. Catalogs and databases do not exist here.
    pub(crate) fn table_name(&mut self) -> Read<(Ident, Span)> {
        let first = self.parser.peek_token();
        let name = self.parser.parse_object_name(false).map_err(|error| self.parser_error(error))?;
        single_name(&name)
            .map(|ident| (ident.clone(), self.places.span(ident.span).unwrap_or(self.span_of(&first))))
            .ok_or_else(|| {
                Diagnostic::at(
                    self.span_of(&first),
                    format!("`{name}` names a catalog or database, which do not exist here"),
                )
                .help("write the table's name alone")
            })
    }

    pub(crate) fn identifier(&mut self) -> Read<Ident> {
        self.parser.parse_identifier().map_err(|error| self.parser_error(error))
    }

    /// A string literal with the place of its quotes.
    pub(crate) fn string(&mut self) -> Read<(String, Span)> {
        let token = self.parser.next_token();
        match &token.token {
            Token::SingleQuotedString(s) => Ok((s.clone(), self.span_of(&token))),
            Token::DoubleQuotedString(s) => {
                Err(Diagnostic::at(self.span_of(&token), "a string stands in single quotes")
                    .help(format!("write '{s}'")))
            }
            _ => Err(self.expected("a string in single quotes", &token)),
        }
    }

    /// Takes a word if it is next. Words are keywords here only: never in backticks.
    pub(crate) fn accept(&mut self, keyword: &str) -> bool {
        let found = self.peek_is(keyword);
        if found {
            self.parser.next_token();
        }
        found
    }

    pub(crate) fn peek_is(&self, keyword: &str) -> bool {
        word(&self.parser.peek_token_ref().token).is_some_and(|w| w == keyword)
    }

    pub(crate) fn keyword(&mut self, keyword: &str) -> Read<()> {
        if self.accept(keyword) {
            return Ok(());
        }
        let token = self.parser.peek_token();
        Err(self.expected(&format!("`{keyword}`"), &token))
    }

    pub(crate) fn expect(&mut self, token: &Token) -> Read<()> {
        if self.parser.consume_token(token) {
            return Ok(());
        }
        let found = self.parser.peek_token();
        Err(self.expected(&format!("`{token}`"), &found))
    }

    fn end_of_statement(&mut self) -> Read<()> {
        let token = self.parser.peek_token();
        if matches!(token.token, Token::EOF | Token::SemiColon) {
            return Ok(());
        }
        Err(self.expected("`;` or the end of the SQL", &token))
    }

    pub(crate) fn expected(&self, what: &str, found: &TokenWithSpan) -> Diagnostic {
        let text = match &found.token {
            Token::EOF => "the SQL ends".to_owned(),
            token => format!("there is `{token}`"),
        };
        Diagnostic::at(self.span_of(found), format!("here {what} is expected, but {text}"))
    }

    pub(crate) fn span_of(&self, token: &TokenWithSpan) -> Span {
        self.places.span(token.span).unwrap_or_else(|| {
            let end = self.places.text().trim_end().len();
            self.places.file_span(end..end)
        })
    }

    /// What sqlparser found wrong, at the token where it stopped.
    pub(crate) fn parser_error(&self, error: ParserError) -> Diagnostic {
        let (text, at) = match &error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => split_location(text),
            ParserError::RecursionLimitExceeded => ("the expression is nested too deeply", None),
        };
        let span = match at {
            Some((line, column)) => {
                let start = self.found_token(text, self.places.byte(line, column));
                let len = self.places.text()[start..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(0);
                self.places.file_span(start..start + len.max(1).min(self.places.text().len() - start))
            }
            None => self.span_of(&self.parser.peek_token()),
        };
        Diagnostic::at(span, plain_words(text))
    }

    /// Some of sqlparser's messages give the place of the token behind the one that they name: steps back to it.
    fn found_token(&self, message: &str, at: usize) -> usize {
        let sql = self.places.text();
        let Some((_, found)) = expected_found(message) else { return at };
        let before = sql[..at].trim_end();
        if !sql[at..].starts_with(found) && before.ends_with(found) { before.len() - found.len() } else { at }
    }

    /// Goes on behind the statement that could not be read. A statement set is left as a whole.
    fn skip_statement(&mut self) {
        loop {
            match self.parser.next_token().token {
                Token::EOF => return,
                Token::SemiColon => {
                    if matches!(word(&self.parser.peek_token_ref().token).as_deref(), Some("END")) {
                        self.parser.next_token();
                    }
                    return;
                }
                _ => {}
            }
        }
    }
}

/// An unquoted word in capitals.
pub(crate) fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

/// The only part of a name; `None` if it has several.
pub(crate) fn single_name(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    }
}

fn split_location(text: &str) -> (&str, Option<(u64, u64)>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    let numbers =
        place.split_once(", Column: ").and_then(|(l, c)| Some((l.trim().parse().ok()?, c.trim().parse().ok()?)));
    (message, numbers)
}

/// What was expected and what was found, of one of sqlparser's messages.
fn expected_found(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("Expected: ").or_else(|| text.strip_prefix("Expected "))?;
    rest.split_once(", found: ")
}

/// sqlparser's messages in the words of ours.
fn plain_words(text: &str) -> String {
    let text = split_location(text).0;
    let Some((expected, found)) = expected_found(text) else { return text.to_owned() };
    let is_token = !expected.contains(' ') && !expected.chars().any(|c| c.is_ascii_lowercase());
    let expected = if is_token { format!("`{expected}`") } else { expected.to_owned() };
    match found {
        "EOF" => format!("here {expected} is expected, but the SQL ends"),
        found => format!("here {expected} is expected, but there is `{found}`"),
    }
}

/// Keywords that end a type in a column's definition.
pub(crate) const AFTER_TYPE: &[Keyword] = &[
    Keyword::NOT,
    Keyword::NULL,
    Keyword::PRIMARY,
    Keyword::COMMENT,
    Keyword::AS,
    Keyword::CONSTRAINT,
    Keyword::DEFAULT,
];
