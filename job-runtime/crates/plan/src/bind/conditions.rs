//! IS …, IN, BETWEEN, LIKE and CASE.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::expr::{InList, Like};
use datafusion_expr::{Between, Case, Expr, Operator};
use sqlparser::ast::{CaseWhen, Expr as Ast, Value};

use super::{Binder, Bound};
use crate::expr::{Typed, common_type, is_string};
use crate::sql::types;

impl Binder<'_> {
    pub(super) fn is_condition(&mut self, ast: &Ast) -> Bound<Typed> {
        let boolean = |expr| Ok(Typed::new(expr, DataType::Boolean));
        match ast {
            Ast::IsNull(e) => boolean(Expr::IsNull(Box::new(self.bind(e)?.expr))),
            Ast::IsNotNull(e) => boolean(Expr::IsNotNull(Box::new(self.bind(e)?.expr))),
            Ast::IsTrue(e) => boolean(Expr::IsTrue(Box::new(self.condition(e, "IS TRUE")?.expr))),
            Ast::IsNotTrue(e) => boolean(Expr::IsNotTrue(Box::new(self.condition(e, "IS NOT TRUE")?.expr))),
            Ast::IsFalse(e) => boolean(Expr::IsFalse(Box::new(self.condition(e, "IS FALSE")?.expr))),
            Ast::IsNotFalse(e) => boolean(Expr::IsNotFalse(Box::new(self.condition(e, "IS NOT FALSE")?.expr))),
            Ast::IsUnknown(e) => boolean(Expr::IsUnknown(Box::new(self.condition(e, "IS UNKNOWN")?.expr))),
            Ast::IsNotUnknown(e) => boolean(Expr::IsNotUnknown(Box::new(self.condition(e, "IS NOT UNKNOWN")?.expr))),
            Ast::IsDistinctFrom(a, b) => {
                let (a, b) = (self.bind(a)?, self.bind(b)?);
                self.compare(ast, Operator::IsDistinctFrom, a, b)
            }
            Ast::IsNotDistinctFrom(a, b) => {
                let (a, b) = (self.bind(a)?, self.bind(b)?);
                self.compare(ast, Operator::IsNotDistinctFrom, a, b)
            }
            other => Err(self.unsupported(other)),
        }
    }

    pub(super) fn in_list(&mut self, ast: &Ast, value: &Ast, list: &[Ast], negated: bool) -> Bound<Typed> {
        let mut value = self.bind(value)?;
        let mut items = Vec::with_capacity(list.len());
        for item in list {
            let bound = self.bind(item)?;
            let (left, right) = self.comparable(item, "`IN` compares", value, bound)?;
            value = left;
            items.push(right);
        }
        let to = value.data_type.clone();
        if items.is_empty() {
            return Err(self.problem(ast, "`IN ()` is empty"));
        }
        let list = items.into_iter().map(|item| item.cast(&to).expr).collect();
        Ok(Typed::new(Expr::InList(InList::new(Box::new(value.expr), list, negated)), DataType::Boolean))
    }

    pub(super) fn between(&mut self, value: &Ast, negated: bool, low: &Ast, high: &Ast) -> Bound<Typed> {
        let (v, l, h) = (self.bind(value)?, self.bind(low)?, self.bind(high)?);
        let (v, l) = self.comparable(low, "`BETWEEN` compares", v, l)?;
        let (v, h) = self.comparable(high, "`BETWEEN` compares", v, h)?;
        let l = l.cast(&v.data_type);
        let between = Between::new(Box::new(v.expr), negated, Box::new(l.expr), Box::new(h.expr));
        Ok(Typed::new(Expr::Between(between), DataType::Boolean))
    }

    pub(super) fn like(&mut self, value: &Ast, pattern: &Ast, negated: bool, escape: Option<&Value>) -> Bound<Typed> {
        let mut sides = Vec::with_capacity(2);
        for side in [value, pattern] {
            let bound = self.bind(side)?;
            if !is_string(&bound.data_type) && bound.data_type != DataType::Null {
                return Err(self
                    .problem(side, format!("`LIKE` works on strings, this is {}", types::name(&bound.data_type)))
                    .help("write `CAST(... AS STRING)`"));
            }
            sides.push(Box::new(bound.cast(&DataType::Utf8).expr));
        }
        let escape = match escape {
            None => None,
            Some(Value::SingleQuotedString(s)) if s.chars().count() == 1 => s.chars().next(),
            Some(_) => return Err(self.problem(pattern, "`ESCAPE` takes one character in quotes")),
        };
        let pattern = sides.pop().expect("two sides were pushed");
        let value = sides.pop().expect("two sides were pushed");
        // DataFusion's kernel knows the backslash only.
        if escape.is_some_and(|c| c != '\\') {
            let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = pattern.as_ref() else {
                return Err(
                    self.problem(&sqlparser::ast::Expr::Value(Value::Null.into()), "`ESCAPE` needs a constant pattern")
                );
            };
            let text = text.replace('\\', "\\\\").replace(escape.unwrap_or('\\'), "\\");
            let pattern = Box::new(Expr::Literal(ScalarValue::Utf8(Some(text)), None));
            return Ok(Typed::new(Expr::Like(Like::new(negated, value, pattern, None, false)), DataType::Boolean));
        }
        Ok(Typed::new(Expr::Like(Like::new(negated, value, pattern, None, false)), DataType::Boolean))
    }

    pub(super) fn case(
        &mut self,
        ast: &Ast,
        operand: Option<&Ast>,
        branches: &[CaseWhen],
        otherwise: Option<&Ast>,
    ) -> Bound<Typed> {
        let operand = operand.map(|o| self.bind(o)).transpose()?;
        let (mut conditions, mut results) = (Vec::new(), Vec::new());
        for branch in branches {
            conditions.push(match &operand {
                None => self.condition(&branch.condition, "WHEN")?,
                Some(operand) => {
                    let value = self.bind(&branch.condition)?;
                    self.compare(&branch.condition, Operator::Eq, operand.clone(), value)?
                }
            });
            results.push((self.bind(&branch.result)?, &branch.result));
        }
        if let Some(otherwise) = otherwise {
            results.push((self.bind(otherwise)?, otherwise));
        }
        let to = self.one_type("the branches of CASE", &results)?;
        if to == DataType::Null {
            return Err(self.problem(ast, "every branch of CASE is NULL").help("write e.g. `CAST(NULL AS STRING)`"));
        }
        let mut results: Vec<Box<Expr>> = results.into_iter().map(|(r, _)| Box::new(r.cast(&to).expr)).collect();
        let otherwise = otherwise.and_then(|_| results.pop());
        let pairs = conditions.into_iter().map(|c| Box::new(c.expr)).zip(results).collect();
        Ok(Typed::new(Expr::Case(Case::new(None, pairs, otherwise)), to))
    }

    /// The common type of several values.
    pub(super) fn one_type(&self, what: &str, values: &[(Typed, &Ast)]) -> Bound<DataType> {
        let mut to = DataType::Null;
        for (value, ast) in values {
            to = common_type(&to, &value.data_type).ok_or_else(|| {
                let (left, right) = (types::name(&to), types::name(&value.data_type));
                self.problem(*ast, format!("{what} are {left} and {right}, which have no common type"))
                    .help(format!("write `CAST(... AS {left})`"))
            })?;
        }
        Ok(to)
    }
}
