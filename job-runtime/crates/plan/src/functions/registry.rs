//! The table of functions.

use super::{FunctionDoc, Kind, Scalar, convert, general, math, pattern, string};

const fn doc(
    name: &'static str,
    category: &'static str,
    signature: &'static str,
    description: &'static str,
    example: (&'static str, &'static str),
) -> FunctionDoc {
    FunctionDoc { name, category, signature, description, example }
}

macro_rules! scalars {
    ($($category:literal { $($name:literal $signature:literal [$($kind:ident),*] $optional:literal $variadic:literal $bind:path, $text:literal, $call:literal => $value:literal;)* })*) => {
        /// All scalar functions.
        pub(super) const SCALARS: &[Scalar] = &[$($(Scalar {
            doc: doc($name, $category, $signature, $text, ($call, $value)),
            arguments: &[$(Kind::$kind),*],
            optional: $optional,
            variadic: $variadic,
            bind: $bind,
        },)*)*];
    };
}

scalars! {
    "Strings" {
        "UPPER" "UPPER(string)" [String] 0 false string::upper, "The string in capitals.", "UPPER('jfk')" => "'JFK'";
        "LOWER" "LOWER(string)" [String] 0 false string::lower, "The string in small letters.", "LOWER('JFK')" => "'jfk'";
        "INITCAP" "INITCAP(string)" [String] 0 false string::initcap, "Every word with a capital first.", "INITCAP('new york')" => "'New York'";
        "CHAR_LENGTH" "CHAR_LENGTH(string)" [String] 0 false string::char_length, "Number of characters.", "CHAR_LENGTH('Zürich')" => "6";
        "CONCAT" "CONCAT(string, ...)" [String] 0 true string::concat, "The strings joined; NULL if one is NULL.", "CONCAT('a', 'b', 'c')" => "'abc'";
        "CONCAT_WS" "CONCAT_WS(separator, string, ...)" [String, String] 0 true string::concat_ws, "The strings joined with a separator; NULLs are left out.", "CONCAT_WS('-', 'a', 'b')" => "'a-b'";
        "SUBSTRING" "SUBSTRING(string, start [, length])" [String, Integer, Integer] 1 false string::substring, "Part of the string, from position `start` (the first is 1).", "SUBSTRING('flight', 2, 3)" => "'lig'";
        "LEFT" "LEFT(string, n)" [String, Integer] 0 false string::left, "The first `n` characters.", "LEFT('flight', 2)" => "'fl'";
        "RIGHT" "RIGHT(string, n)" [String, Integer] 0 false string::right, "The last `n` characters.", "RIGHT('flight', 2)" => "'ht'";
        "TRIM" "TRIM([BOTH | LEADING | TRAILING] [characters FROM] string)" [String, String] 1 false string::trim, "Without the characters (blanks) at its ends.", "TRIM('  a ')" => "'a'";
        "LTRIM" "LTRIM(string [, characters])" [String, String] 1 false string::ltrim, "Without the characters (blanks) at its start.", "LTRIM('  a')" => "'a'";
        "RTRIM" "RTRIM(string [, characters])" [String, String] 1 false string::rtrim, "Without the characters (blanks) at its end.", "RTRIM('a  ')" => "'a'";
        "BTRIM" "BTRIM(string [, characters])" [String, String] 1 false string::trim, "As TRIM.", "BTRIM('  a ')" => "'a'";
        "LPAD" "LPAD(string, length, pad)" [String, Integer, String] 0 false string::lpad, "Filled up from the left to a length.", "LPAD('7', 3, '0')" => "'007'";
        "RPAD" "RPAD(string, length, pad)" [String, Integer, String] 0 false string::rpad, "Filled up from the right to a length.", "RPAD('7', 3, '0')" => "'700'";
        "REPLACE" "REPLACE(string, search, replacement)" [String, String, String] 0 false string::replace, "Every occurrence replaced.", "REPLACE('a-b-c', '-', '+')" => "'a+b+c'";
        "REPEAT" "REPEAT(string, n)" [String, Integer] 0 false string::repeat, "The string `n` times.", "REPEAT('ab', 2)" => "'abab'";
        "REVERSE" "REVERSE(string)" [String] 0 false string::reverse, "Last character first.", "REVERSE('abc')" => "'cba'";
        "POSITION" "POSITION(part IN string)" [String, String] 0 false string::position, "Where a part begins (the first is 1), or 0.", "POSITION('b' IN 'abc')" => "2";
        "SPLIT_INDEX" "SPLIT_INDEX(string, separator, index)" [String, String, Integer] 0 false string::split_index, "The part at an index (the first is 0), or NULL.", "SPLIT_INDEX('a,b,c', ',', 1)" => "'b'";
        "STARTSWITH" "STARTSWITH(string, prefix)" [String, String] 0 false string::starts_with, "True if it begins so.", "STARTSWITH('flight', 'fl')" => "TRUE";
        "ENDSWITH" "ENDSWITH(string, suffix)" [String, String] 0 false string::ends_with, "True if it ends so.", "ENDSWITH('flight', 'ht')" => "TRUE";
        "ASCII" "ASCII(string)" [String] 0 false string::ascii, "Code of the first character.", "ASCII('A')" => "65";
        "REGEXP" "REGEXP(string, 'regex')" [String, Constant] 0 false pattern::regexp, "True if a part of the string matches. The syntax is the Rust regex crate's: as Java's, without look-around and back references.", "REGEXP('N14228', '^N[0-9]+$')" => "TRUE";
        "REGEXP_EXTRACT" "REGEXP_EXTRACT(string, 'regex' [, group])" [String, Constant, Integer] 1 false pattern::regexp_extract, "What a group (the whole: 0, the default) of the first match holds, or NULL.", "REGEXP_EXTRACT('gate B12', '([A-Z])([0-9]+)', 2)" => "'12'";
        "REGEXP_REPLACE" "REGEXP_REPLACE(string, 'regex', replacement)" [String, Constant, String] 0 false pattern::regexp_replace, "Every match replaced.", "REGEXP_REPLACE('a1b22', '[0-9]+', '#')" => "'a#b#'";
        "MD5" "MD5(string)" [String] 0 false string::md5, "MD5 in hexadecimal digits.", "MD5('a')" => "'0cc175b9c0f1b6a831c399e269772661'";
        "SHA256" "SHA256(string)" [String] 0 false string::sha256, "SHA-256 in hexadecimal digits.", "SHA256('a')" => "'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb'";
    }
    "Numbers" {
        "ABS" "ABS(number)" [Number] 0 false math::abs, "Without its sign.", "ABS(-5)" => "5";
        "MOD" "MOD(a, b)" [Number, Number] 0 false math::modulo, "Remainder; also `a % b`.", "MOD(7, 3)" => "1";
        "POWER" "POWER(base, exponent)" [Number, Number] 0 false math::power, "Base to the power of exponent, a DOUBLE.", "POWER(2, 10)" => "1024.0";
        "SQRT" "SQRT(number)" [Number] 0 false math::sqrt, "Square root.", "SQRT(2.25)" => "1.5";
        "EXP" "EXP(number)" [Number] 0 false math::exp, "e to the power of the number.", "EXP(0)" => "1.0";
        "LN" "LN(number)" [Number] 0 false math::ln, "Natural logarithm.", "LN(1)" => "0.0";
        "LOG10" "LOG10(number)" [Number] 0 false math::log10, "Logarithm to base 10.", "LOG10(1000)" => "3.0";
        "LOG2" "LOG2(number)" [Number] 0 false math::log2, "Logarithm to base 2.", "LOG2(8)" => "3.0";
        "SIN" "SIN(number)" [Number] 0 false math::sin, "Sine.", "SIN(0)" => "0.0";
        "COS" "COS(number)" [Number] 0 false math::cos, "Cosine.", "COS(0)" => "1.0";
        "TAN" "TAN(number)" [Number] 0 false math::tan, "Tangent.", "TAN(0)" => "0.0";
        "SIGN" "SIGN(number)" [Number] 0 false math::sign, "-1, 0 or 1, a DOUBLE.", "SIGN(-3)" => "-1.0";
        "FLOOR" "FLOOR(number)" [Number] 0 false math::floor, "The next whole number below.", "FLOOR(2.7)" => "2";
        "CEIL" "CEIL(number)" [Number] 0 false math::ceil, "The next whole number above.", "CEIL(2.1)" => "3";
        "ROUND" "ROUND(number [, digits])" [Number, Integer] 1 false math::round, "Rounded to digits behind the point (0).", "ROUND(CAST(2.345 AS DOUBLE), 2)" => "2.35";
        "GREATEST" "GREATEST(a, b, ...)" [Any, Any] 0 true general::greatest, "The greatest; NULL if one is NULL.", "GREATEST(1, 3, 2)" => "3";
        "LEAST" "LEAST(a, b, ...)" [Any, Any] 0 true general::least, "The least; NULL if one is NULL.", "LEAST(3, 1, 2)" => "1";
    }
    "Conditions" {
        "COALESCE" "COALESCE(a, b, ...)" [Any] 0 true general::coalesce, "The first that is not NULL.", "COALESCE(NULL, 'b')" => "'b'";
        "IFNULL" "IFNULL(a, b)" [Any, Any] 0 false general::coalesce, "`b` if `a` is NULL, else `a`.", "IFNULL(NULL, 5)" => "5";
        "NULLIF" "NULLIF(a, b)" [Any, Any] 0 false general::nullif, "NULL if both are equal, else `a`.", "NULLIF(5, 0)" => "5";
        "IF" "IF(condition, a, b)" [Boolean, Any, Any] 0 false general::if_then, "`a` if the condition is true, else `b`.", "IF(1 < 2, 'yes', 'no')" => "'yes'";
    }
    "Dates and times" {
        "EXTRACT" "EXTRACT(unit FROM time)" [Constant, Temporal] 0 false convert::extract, "A part of a time: YEAR, QUARTER, MONTH, WEEK, DAY, DOY, DOW, HOUR, MINUTE, SECOND, MILLISECOND, EPOCH. BIGINT.", "EXTRACT(HOUR FROM TIMESTAMP '2013-01-01 17:30:00')" => "17";
        "YEAR" "YEAR(time)" [Temporal] 0 false convert::year, "As EXTRACT(YEAR FROM time).", "YEAR(DATE '2013-01-31')" => "2013";
        "QUARTER" "QUARTER(time)" [Temporal] 0 false convert::quarter, "As EXTRACT(QUARTER FROM time).", "QUARTER(DATE '2013-05-31')" => "2";
        "MONTH" "MONTH(time)" [Temporal] 0 false convert::month, "As EXTRACT(MONTH FROM time).", "MONTH(DATE '2013-01-31')" => "1";
        "WEEK" "WEEK(time)" [Temporal] 0 false convert::week, "As EXTRACT(WEEK FROM time).", "WEEK(DATE '2013-01-31')" => "5";
        "DAYOFYEAR" "DAYOFYEAR(time)" [Temporal] 0 false convert::day_of_year, "Day of the year, the first is 1.", "DAYOFYEAR(DATE '2013-02-01')" => "32";
        "DAYOFMONTH" "DAYOFMONTH(time)" [Temporal] 0 false convert::day, "Day of the month.", "DAYOFMONTH(DATE '2013-01-31')" => "31";
        "DAYOFWEEK" "DAYOFWEEK(time)" [Temporal] 0 false convert::day_of_week, "Day of the week, Sunday is 1.", "DAYOFWEEK(DATE '2013-01-31')" => "5";
        "HOUR" "HOUR(time)" [Temporal] 0 false convert::hour, "As EXTRACT(HOUR FROM time).", "HOUR(TIMESTAMP '2013-01-01 17:30:00')" => "17";
        "MINUTE" "MINUTE(time)" [Temporal] 0 false convert::minute, "As EXTRACT(MINUTE FROM time).", "MINUTE(TIMESTAMP '2013-01-01 17:30:00')" => "30";
        "SECOND" "SECOND(time)" [Temporal] 0 false convert::second, "As EXTRACT(SECOND FROM time).", "SECOND(TIMESTAMP '2013-01-01 17:30:05')" => "5";
        "FLOOR TO" "FLOOR(time TO unit)" [Timestamp, Constant] 0 false convert::floor_to, "The start of the unit that a time lies in: YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE, SECOND.", "FLOOR(TIMESTAMP '2013-01-01 17:30:05' TO HOUR)" => "2013-01-01 17:00:00.000";
        "DATE_FORMAT" "DATE_FORMAT(time, 'pattern')" [Temporal, Constant] 0 false convert::date_format, "The time as text, by a pattern of Java: yyyy, yy, MM, M, dd, d, HH, H, hh, mm, ss, SSS, a, EEE, MMM and quoted text.", "DATE_FORMAT(TIMESTAMP '2013-01-01 17:30:00', 'dd.MM.yyyy HH:mm')" => "'01.01.2013 17:30'";
        "TO_DATE" "TO_DATE(string [, 'pattern'])" [String, Constant] 1 false convert::to_date, "The date that a string holds, or NULL.", "TO_DATE('2013-01-31')" => "2013-01-31";
        "TO_TIMESTAMP" "TO_TIMESTAMP(string [, 'pattern'])" [String, Constant] 1 false convert::to_timestamp, "The TIMESTAMP(3) that a string holds, or NULL.", "TO_TIMESTAMP('01.01.2013 17:30', 'dd.MM.yyyy HH:mm')" => "2013-01-01 17:30:00.000";
        "TO_TIMESTAMP_LTZ" "TO_TIMESTAMP_LTZ(number, precision)" [Integer, Integer] 0 false convert::to_timestamp_ltz, "The instant of seconds (precision 0) or milliseconds (precision 3) since 1970.", "TO_TIMESTAMP_LTZ(1357061400, 0)" => "2013-01-01T17:30:00Z";
        "FROM_UNIXTIME" "FROM_UNIXTIME(seconds [, 'pattern'])" [Integer, Constant] 1 false convert::from_unixtime, "Seconds since 1970 as text, by default `yyyy-MM-dd HH:mm:ss`.", "FROM_UNIXTIME(1357061400)" => "'2013-01-01 17:30:00'";
        "UNIX_TIMESTAMP" "UNIX_TIMESTAMP(string [, 'pattern'])" [String, Constant] 1 false convert::unix_timestamp, "The seconds since 1970 of the time that a string holds.", "UNIX_TIMESTAMP('2013-01-01 17:30:00')" => "1357061400";
    }
}

/// Other names of scalar functions.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("CHARACTER_LENGTH", "CHAR_LENGTH"),
    ("LENGTH", "CHAR_LENGTH"),
    ("SUBSTR", "SUBSTRING"),
    ("CEILING", "CEIL"),
    ("POW", "POWER"),
    ("NVL", "IFNULL"),
    ("LCASE", "LOWER"),
    ("UCASE", "UPPER"),
];

/// Functions that are no scalar functions of the table: they have a syntax or a meaning of their own.
pub(super) const OTHERS: &[FunctionDoc] = &[
    doc(
        "CAST",
        "Conversions",
        "CAST(value AS type)",
        "The value as another type; a value that does not fit fails the job.",
        ("CAST('12' AS INT)", "12"),
    ),
    doc(
        "TRY_CAST",
        "Conversions",
        "TRY_CAST(value AS type)",
        "The value as another type, NULL if it does not fit.",
        ("TRY_CAST('NA' AS INT)", "NULL"),
    ),
    doc(
        "CASE",
        "Conditions",
        "CASE WHEN condition THEN a [WHEN ...] [ELSE b] END",
        "The result of the first condition that is true.",
        ("CASE WHEN 1 < 2 THEN 'yes' ELSE 'no' END", "'yes'"),
    ),
    doc(
        "TIMESTAMPADD",
        "Dates and times",
        "TIMESTAMPADD(unit, n, time)",
        "The time `n` units later: MILLISECOND, SECOND, MINUTE, HOUR, DAY or WEEK.",
        ("TIMESTAMPADD(MINUTE, 5, TIMESTAMP '2013-01-01 17:30:00')", "2013-01-01 17:35:00.000"),
    ),
    doc(
        "TIMESTAMPDIFF",
        "Dates and times",
        "TIMESTAMPDIFF(unit, from, to)",
        "Whole units from one time to another.",
        ("TIMESTAMPDIFF(MINUTE, TIMESTAMP '2013-01-01 17:00:00', TIMESTAMP '2013-01-01 17:30:00')", "30"),
    ),
    doc(
        "COUNT",
        "Aggregates",
        "COUNT(*) or COUNT(value)",
        "Number of rows, or of values that are not NULL. BIGINT.",
        ("COUNT(*)", "42"),
    ),
    doc(
        "SUM",
        "Aggregates",
        "SUM(number)",
        "Sum: BIGINT of whole numbers (an overflow fails the job), DOUBLE, or DECIMAL(38, s).",
        ("SUM(distance)", "31415"),
    ),
    doc("AVG", "Aggregates", "AVG(number)", "Mean: DOUBLE, of DECIMAL a DECIMAL.", ("AVG(dep_delay)", "12.5")),
    doc("MIN", "Aggregates", "MIN(value)", "The least value.", ("MIN(dep_delay)", "-21")),
    doc("MAX", "Aggregates", "MAX(value)", "The greatest value.", ("MAX(dep_delay)", "1301")),
    doc(
        "TUMBLE",
        "Windows",
        "TABLE(TUMBLE(TABLE t, DESCRIPTOR(time), size [, offset]))",
        "Each row with `window_start`, `window_end` and `window_time` of its window of fixed size.",
        ("TABLE(TUMBLE(TABLE flights, DESCRIPTOR(scheduled), INTERVAL '1' HOUR))", "one window per hour"),
    ),
    doc(
        "ROW_NUMBER",
        "Windows",
        "ROW_NUMBER() OVER (PARTITION BY keys ORDER BY time)",
        "Only with `WHERE ... = 1` in the query around it: the first row of each key.",
        ("ROW_NUMBER() OVER (PARTITION BY flight ORDER BY scheduled)", "1"),
    ),
];
