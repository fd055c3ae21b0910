//! JSON objects into columns: a scanner for exactly the columns that are needed, everything else checked and passed over.
//!
//! Owns the JSON grammar (RFC 8259: UTF-8, escapes, surrogate pairs, numbers). It keeps the order of the last record's members, because
//! the next record nearly always has the same. A member given twice counts once, the last. It does not spell values (see `scalar`).

use arrow::datatypes::{Schema, SchemaRef};

use super::super::column::Column;
use super::super::{BadRecord, Rows};
use super::next_special;

/// How deep objects and arrays may lie inside each other.
const MAX_DEPTH: usize = 128;
/// How many members of a record's order are remembered.
const MAX_EXPECTED: usize = 1024;

/// A member as the last record had it at this place.
#[derive(Debug)]
struct Expected {
    /// The key with its quotes.
    quoted: Box<[u8]>,
    /// The column that it fills.
    column: Option<usize>,
}

/// Decodes JSON objects for one schema.
#[derive(Debug)]
pub(in crate::format) struct Decoder {
    names: Vec<String>,
    expected: Vec<Expected>,
    scratch: Vec<u8>,
}

impl Decoder {
    pub(in crate::format) fn new(decoded: &SchemaRef) -> Self {
        let names = decoded.fields().iter().map(|f| f.name().clone()).collect();
        Decoder { names, expected: Vec::new(), scratch: Vec::new() }
    }

    pub(in crate::format) fn push(&mut self, record: &[u8], rows: &mut Rows) -> Result<(), BadRecord> {
        if let Err(e) = std::str::from_utf8(record) {
            return Err(BadRecord::record(format!("byte {} is not UTF-8", e.valid_up_to())));
        }
        let mut scan = Scanner { bytes: record, at: 0 };
        self.object(&mut scan, rows)?;
        scan.space();
        if scan.at == record.len() { Ok(()) } else { Err(scan.unexpected("the end of the record").into()) }
    }

    fn object(&mut self, scan: &mut Scanner<'_>, rows: &mut Rows) -> Result<(), BadRecord> {
        scan.space();
        scan.expect(b'{', "an object: '{'")?;
        scan.space();
        if scan.take(b'}') {
            return Ok(());
        }
        for member in 0.. {
            let column = self.key(scan, member)?;
            scan.space();
            scan.expect(b':', "':'")?;
            scan.space();
            match column {
                Some(index) => self.value(scan, rows, index)?,
                None => scan.skip(&mut self.scratch, 0)?,
            }
            scan.space();
            if scan.take(b'}') {
                break;
            }
            scan.expect(b',', "',' or '}'")?;
            scan.space();
        }
        Ok(())
    }

    /// Reads a key; returns the column that it names.
    #[inline]
    fn key(&mut self, scan: &mut Scanner<'_>, member: usize) -> Result<Option<usize>, Unexpected> {
        if let Some(expected) = self.expected.get(member)
            && scan.bytes[scan.at..].starts_with(&expected.quoted)
        {
            scan.at += expected.quoted.len();
            return Ok(expected.column);
        }
        self.other_key(scan, member)
    }

    #[cold]
    fn other_key(&mut self, scan: &mut Scanner<'_>, member: usize) -> Result<Option<usize>, Unexpected> {
        let start = scan.at;
        self.scratch.clear();
        let key = scan.string(&mut self.scratch)?;
        let name = match key {
            Text::Clean(text) => text,
            Text::Unescaped => self.scratch.as_slice(),
        };
        let column = self.names.iter().position(|n| n.as_bytes() == name);
        if matches!(key, Text::Clean(_)) {
            let expected = Expected { quoted: scan.bytes[start..scan.at].into(), column };
            if let Some(slot) = self.expected.get_mut(member) {
                *slot = expected;
            } else if member == self.expected.len() && member < MAX_EXPECTED {
                self.expected.push(expected);
            }
        }
        Ok(column)
    }

    /// Reads a value into a column.
    #[inline]
    fn value(&mut self, scan: &mut Scanner<'_>, rows: &mut Rows, index: usize) -> Result<(), BadRecord> {
        if rows.columns[index].len() > rows.rows {
            rows.columns[index].truncate(rows.rows);
        }
        match scan.peek() {
            Some(b'"') => {
                let column = &mut rows.columns[index];
                let pushed = match column {
                    Column::String(cells) => {
                        if let Text::Clean(text) = scan.string(cells.open())? {
                            cells.open().extend_from_slice(text);
                        }
                        cells.close();
                        return Ok(());
                    }
                    _ => {
                        self.scratch.clear();
                        match scan.string(&mut self.scratch)? {
                            Text::Clean(text) => column.push_text(text),
                            Text::Unescaped => column.push_text(&self.scratch),
                        }
                    }
                };
                pushed.map_err(|reason| bad_value(&rows.schema, index, reason))
            }
            Some(b'-' | b'0'..=b'9') => number(scan, rows, index),
            Some(b'n') => {
                scan.literal(b"null")?;
                rows.push_null(index)
            }
            Some(b't' | b'f' | b'{' | b'[') => self.other_value(scan, rows, index),
            _ => Err(scan.unexpected("a value").into()),
        }
    }

    /// Booleans for BOOLEAN; anything as its text for STRING.
    fn other_value(&mut self, scan: &mut Scanner<'_>, rows: &mut Rows, index: usize) -> Result<(), BadRecord> {
        let start = scan.at;
        scan.skip(&mut self.scratch, 0)?;
        let text = &scan.bytes[start..scan.at];
        match (&mut rows.columns[index], text) {
            (Column::Boolean(cells), b"true") => cells.push(true),
            (Column::Boolean(cells), b"false") => cells.push(false),
            (Column::String(cells), _) => cells.push(text),
            (_, [b'{', ..]) => return Err(bad_value(&rows.schema, index, "is an object in the record".to_owned())),
            (_, [b'[', ..]) => return Err(bad_value(&rows.schema, index, "is an array in the record".to_owned())),
            (column, _) => column.push_text(text).map_err(|reason| bad_value(&rows.schema, index, reason))?,
        }
        Ok(())
    }
}

fn bad_value(schema: &Schema, index: usize, reason: String) -> BadRecord {
    BadRecord::column(schema.field(index).name(), reason)
}

#[inline]
fn number(scan: &mut Scanner<'_>, rows: &mut Rows, index: usize) -> Result<(), BadRecord> {
    let column = &mut rows.columns[index];
    if let Column::Int64(cells) = column
        && let Some(value) = scan.short_integer()
    {
        cells.push(value);
        return Ok(());
    }
    let text = scan.number()?;
    if !column.takes_numbers() {
        let shown = String::from_utf8_lossy(text);
        let reason =
            format!("is the number {shown}; for a time in milliseconds declare BIGINT and use TO_TIMESTAMP_LTZ");
        return Err(bad_value(&rows.schema, index, reason));
    }
    column.push_text(text).map_err(|reason| bad_value(&rows.schema, index, reason))
}

/// The record is no JSON: where, and what should stand there.
struct Unexpected {
    at: usize,
    found: Option<u8>,
    wanted: &'static str,
}

impl From<Unexpected> for BadRecord {
    #[cold]
    fn from(u: Unexpected) -> Self {
        let found = match u.found {
            None => "the end".to_owned(),
            Some(b @ 0x20..0x7f) => format!("'{}'", char::from(b)),
            Some(b) => format!("byte 0x{b:02x}"),
        };
        BadRecord::record(format!("not JSON at byte {}: found {found}, expected {}", u.at, u.wanted))
    }
}

/// A string as it stands, or unescaped into the caller's buffer.
enum Text<'a> {
    Clean(&'a [u8]),
    Unescaped,
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    #[cold]
    fn unexpected(&self, wanted: &'static str) -> Unexpected {
        Unexpected { at: self.at, found: self.peek(), wanted }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    #[inline]
    fn expect(&mut self, byte: u8, wanted: &'static str) -> Result<(), Unexpected> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(wanted)) }
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), Unexpected> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.unexpected("a value"))
    }

    /// A string, quotes included. If it has escapes it is appended to `unescaped`.
    #[inline]
    fn string(&mut self, unescaped: &mut Vec<u8>) -> Result<Text<'a>, Unexpected> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        self.at = next_special(self.bytes, start);
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Text::Clean(&self.bytes[start..self.at - 1]))
            }
            Some(b'\\') => {
                unescaped.extend_from_slice(&self.bytes[start..self.at]);
                self.escaped_rest(unescaped)?;
                Ok(Text::Unescaped)
            }
            Some(_) => Err(self.unexpected("no control character in a string")),
            None => Err(self.unexpected("the string's closing quote")),
        }
    }

    /// From the first backslash to after the closing quote.
    fn escaped_rest(&mut self, out: &mut Vec<u8>) -> Result<(), Unexpected> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(out)?;
                }
                Some(_) => return Err(self.unexpected("no control character in a string")),
                None => return Err(self.unexpected("the string's closing quote")),
            }
            let start = self.at;
            self.at = next_special(self.bytes, start);
            out.extend_from_slice(&self.bytes[start..self.at]);
        }
    }

    /// After the backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Unexpected> {
        let plain = match self.peek() {
            Some(b @ (b'"' | b'\\' | b'/')) => b,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode(out),
            _ => return Err(self.unexpected("one of \" \\ / b f n r t u after a backslash")),
        };
        self.at += 1;
        out.push(plain);
        Ok(())
    }

    fn unicode(&mut self, out: &mut Vec<u8>) -> Result<(), Unexpected> {
        let start = self.at;
        let pair = Unexpected { at: start, found: Some(b'u'), wanted: "a surrogate pair (\\ud83d\\ude00)" };
        let mut code = self.four_hex()?;
        if (0xd800..0xdc00).contains(&code) {
            if !self.bytes[self.at..].starts_with(b"\\u") {
                return Err(pair);
            }
            self.at += 1;
            let low = self.four_hex()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(pair);
            }
            code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        let character = char::from_u32(code).ok_or(pair)?;
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// `u` and four hexadecimal digits.
    fn four_hex(&mut self) -> Result<u32, Unexpected> {
        self.at += 1;
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            code = code << 4 | digit.ok_or_else(|| self.unexpected("four hexadecimal digits"))?;
            self.at += 1;
        }
        Ok(code)
    }

    /// A whole number of at most 18 digits, if that is what stands here; else nothing is taken.
    #[inline]
    fn short_integer(&mut self) -> Option<i64> {
        let negative = self.peek() == Some(b'-');
        let start = self.at + usize::from(negative);
        let mut at = start;
        let mut value = 0i64;
        while let Some(&b) = self.bytes.get(at) {
            let d = b.wrapping_sub(b'0');
            if d > 9 {
                break;
            }
            if at - start == 18 {
                return None;
            }
            value = value * 10 + i64::from(d);
            at += 1;
        }
        let length = at - start;
        let leading_zero = length > 1 && self.bytes[start] == b'0';
        if length == 0 || leading_zero || matches!(self.bytes.get(at), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at = at;
        Some(if negative { -value } else { value })
    }

    /// A number by JSON's grammar.
    fn number(&mut self) -> Result<&'a [u8], Unexpected> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(&self.bytes[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Unexpected> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.unexpected("a digit")) }
    }

    /// Any value, checked and passed over.
    fn skip(&mut self, scratch: &mut Vec<u8>, depth: usize) -> Result<(), Unexpected> {
        match self.peek() {
            Some(b'"') => {
                scratch.clear();
                self.string(scratch).map(drop)
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(b'n') => self.literal(b"null"),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'{' | b'[') if depth == MAX_DEPTH => Err(self.unexpected("fewer than 128 levels")),
            Some(b'{') => self.skip_members(scratch, depth + 1),
            Some(b'[') => self.skip_elements(scratch, depth + 1),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn skip_members(&mut self, scratch: &mut Vec<u8>, depth: usize) -> Result<(), Unexpected> {
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            scratch.clear();
            self.string(scratch)?;
            self.space();
            self.expect(b':', "':'")?;
            self.space();
            self.skip(scratch, depth)?;
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',', "',' or '}'")?;
            self.space();
        }
    }

    fn skip_elements(&mut self, scratch: &mut Vec<u8>, depth: usize) -> Result<(), Unexpected> {
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.skip(scratch, depth)?;
            self.space();
            if self.take(b']') {
                return Ok(());
            }
            self.expect(b',', "',' or ']'")?;
            self.space();
        }
    }
}
