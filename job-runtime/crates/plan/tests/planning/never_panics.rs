//! Whatever a user writes, the answer is a plan or a message.

use proptest::prelude::*;

use super::{TABLES, planned};

/// Pieces of SQL, put together at random: nearer to real mistakes than random bytes are.
const PIECES: &[&str] = &[
    "SELECT",
    "FROM",
    "INSERT INTO",
    "out",
    "orders",
    "customer",
    "COUNT(*)",
    "(",
    ")",
    ",",
    "GROUP BY",
    "window_start",
    "window_end",
    "TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
    "WHERE",
    "price",
    "*",
    "'text'",
    "1",
    "1.5e3",
    "AND",
    "NOT",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "CAST(",
    "AS",
    "INT",
    ";",
    "UNION ALL",
    "WITH",
    "CREATE TABLE",
    "CREATE VIEW",
    "`",
    "'",
    "--",
    "/*",
    "INTERVAL",
    "é",
    "\u{1F30D}",
    "SUM(",
    "DISTINCT",
    "HAVING",
    "IN",
    "BETWEEN",
    "LIKE",
    "EXECUTE STATEMENT SET BEGIN",
    "WATERMARK FOR ts AS ts",
    "|| ",
    "=",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_yaml(text in ".{0,400}") {
        if let Err(problems) = plan::job::read("job.yaml", &text) {
            prop_assert!(!problems.render(false).is_empty());
        }
    }

    #[test]
    fn arbitrary_sql(text in ".{0,200}") {
        if let Err(problems) = planned(&text) {
            prop_assert!(!problems.render(true).is_empty());
        }
    }

    #[test]
    fn arbitrary_order_of_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..25)) {
        let sql = format!("{TABLES}INSERT INTO out SELECT {}", pieces.join(" "));
        if let Err(problems) = planned(&sql) {
            prop_assert!(!problems.render(false).is_empty());
        }
    }
}
