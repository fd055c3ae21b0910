//! Flink SQL's lexical rules, for sqlparser.

use sqlparser::ast::{Expr, Ident};
use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// Flink SQL.
#[derive(Debug)]
pub(crate) struct FlinkDialect;

/// The prefix under which `TABLE t` as an argument is kept in the syntax tree.
pub(crate) const TABLE_ARGUMENT: &str = "TABLE";

impl Dialect for FlinkDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_match_recognize(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    /// `TABLE t`, the argument of a table function.
    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        let Token::Word(word) = &parser.peek_nth_token_ref(0).token else { return None };
        let table = word.keyword == Keyword::TABLE && word.quote_style.is_none();
        if !table || !matches!(parser.peek_nth_token_ref(1).token, Token::Word(_)) {
            return None;
        }
        let keyword = parser.next_token();
        Some(parser.parse_object_name(false).map(|name| {
            let parts: Vec<Ident> = name.0.into_iter().filter_map(|part| part.as_ident().cloned()).collect();
            Expr::Prefixed {
                prefix: Ident { value: TABLE_ARGUMENT.to_owned(), quote_style: None, span: keyword.span },
                value: Box::new(Expr::CompoundIdentifier(parts)),
            }
        }))
    }
}
