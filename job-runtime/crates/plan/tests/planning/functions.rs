//! Every example of the reference page gives the value that it names.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dataflow::graph::NodeKind;

use super::planned;

/// Evaluates a constant expression as a job would: over a batch of one row, in the calc before the sink.
fn evaluate(expression: &str) -> Result<String, String> {
    let sql = format!(
        "CREATE TABLE t (b BOOLEAN) WITH ('connector' = 'datagen');
         CREATE TABLE o (v BOOLEAN, b BOOLEAN) WITH ('connector' = 'print');
         CREATE VIEW v AS SELECT {expression} AS v, b FROM t;
         INSERT INTO o SELECT v IS NULL, b FROM v;
         CREATE TABLE s (v STRING, b BOOLEAN) WITH ('connector' = 'print');
         INSERT INTO s SELECT CAST(v AS STRING), b FROM v;"
    );
    let job = planned(&sql).map_err(|problems| problems.to_string())?;
    let batch_schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("b", DataType::Boolean, true)]);
    let batch = RecordBatch::try_new(Arc::new(batch_schema), vec![Arc::new(BooleanArray::from(vec![true]))]);
    let batch = batch.map_err(|error| error.to_string())?;
    let calc = job
        .graph
        .nodes
        .iter()
        .find_map(|node| match &node.kind {
            NodeKind::Calc(calc) if *calc.schema.field(0).data_type() == DataType::Utf8 => Some(calc),
            _ => None,
        })
        .ok_or("there is no calc")?;
    let value = calc.projection[0].evaluate(&batch).map_err(|error| error.to_string())?;
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(&value, &options).map_err(|error| error.to_string())?;
    Ok(formatter.value(0).to_string())
}

#[test]
fn examples_of_the_reference_are_true() {
    let mut wrong = Vec::new();
    for function in plan::functions::reference() {
        if matches!(function.category, "Aggregates" | "Windows") {
            continue;
        }
        let (call, wanted) = function.example;
        let found = evaluate(call).unwrap_or_else(|error| error);
        // Booleans are printed in capitals, strings without quotes, numbers as they are.
        let same_number = matches!((found.parse::<f64>(), wanted.parse::<f64>()), (Ok(a), Ok(b)) if a == b);
        let wanted = wanted.trim_matches('\'').replace('T', " ").replace('Z', ".000");
        if !same_number && found != wanted && found.replace('T', " ") != wanted {
            wrong.push(format!("{call}: {found}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn values_follow_flink() {
    let cases = [
        ("7 / 2", "3"),
        ("2147483647", "2147483647"),
        ("2147483648 + 1", "2147483649"),
        ("1.5 + 1", "2.5"),
        ("CAST(' 12 ' AS INT)", "12"),
        ("TRY_CAST('x' AS INT)", "NULL"),
        ("'a' || CAST(NULL AS STRING)", "NULL"),
        ("CASE WHEN 1 > 2 THEN 1 ELSE CAST(2 AS BIGINT) END", "2"),
        ("TIMESTAMP '2013-01-01 10:00:00' + INTERVAL '90' MINUTE", "2013-01-01 11:30:00.000"),
        ("TIMESTAMP '2013-01-31 10:00:00' + INTERVAL '1' MONTH", "2013-02-28 10:00:00.000"),
        ("TIMESTAMP '2013-01-01 10:00:00' + 3 * INTERVAL '1' HOUR", "2013-01-01 13:00:00.000"),
        ("TIMESTAMP '2013-01-01 10:00:00' > '2013-01-01'", "TRUE"),
        ("'abc' LIKE 'a%'", "TRUE"),
        ("'10%' LIKE '10!%' ESCAPE '!'", "TRUE"),
        ("5 BETWEEN 1 AND 10", "TRUE"),
        ("'x' IN ('a', 'x')", "TRUE"),
        ("1 IS DISTINCT FROM NULL", "TRUE"),
        ("INTERVAL '1:30' HOUR TO MINUTE + INTERVAL '30' MINUTE = INTERVAL '2' HOUR", "TRUE"),
        ("COALESCE(NULL, NULL, 'c')", "c"),
        ("CAST(1.5 AS DECIMAL(10, 3))", "1.500"),
        ("-5 % 3", "-2"),
        ("FLOOR(TIMESTAMP '2013-05-17 17:30:05' TO MONTH)", "2013-05-01 00:00:00.000"),
        ("CAST(DATE '2013-01-01' AS TIMESTAMP(3))", "2013-01-01 00:00:00.000"),
    ];
    let mut wrong = Vec::new();
    for (call, wanted) in cases {
        let found = evaluate(call).unwrap_or_else(|error| error);
        if found != wanted {
            wrong.push(format!("{call}: {found}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
