//! Entries of keyed state taken apart: what kind they are, and keys and values as their columns, by the notes that the shards hold.
//!
//! Owns reading and the form in JSON; `table` has the form in columns. What has no note, or does not fit it, is shown as bytes by `export`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Fields, Schema};
use dataflow::graph::OperatorUid;
use dataflow::key::{KeyDecodeError, KeyDecoder};
use dataflow::sink::EncodedRows;
use dataflow::state::STATE_KEY_PREFIX;
use dataflow::state::keyed::{Columns, Description, Kind, NEVER, StoredNote, stored_value};
use serde_json::{Map, Value, json};

use crate::format::{Format, JsonFormat, RowEnd};

/// Index under which a list's bounds stand.
const BOUNDS: u64 = u64::MAX;

/// The operators with keyed state, by their notes.
#[derive(Default)]
pub(super) struct Operators(BTreeMap<u32, Operator>);

/// What the notes say of one operator.
pub(super) struct Operator {
    name: String,
    /// User keys.
    pub(super) keys: Encoded,
    /// Keys of maps.
    pub(super) map_keys: Encoded,
    /// Values.
    pub(super) values: Encoded,
}

/// Encoded columns.
#[derive(Clone)]
pub(super) struct Encoded {
    /// Names and types, each of which may be null.
    pub(super) fields: Fields,
    /// None if there is a type that cannot be decoded.
    decoder: Option<KeyDecoder>,
}

impl Encoded {
    fn new(columns: &Columns) -> Self {
        let fields = columns.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true)).collect();
        Self { decoder: Description::decoder(columns).ok(), fields }
    }

    /// Length of the encoding that `bytes` begin with.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        self.decoder.as_ref()?.length(bytes).ok()
    }

    /// True if there are columns, and they can be decoded.
    pub(super) fn is_readable(&self) -> bool {
        self.decoder.is_some() && !self.fields.is_empty()
    }

    /// The columns of rows.
    pub(super) fn decode(&self, rows: &[&[u8]]) -> Option<Result<Vec<ArrayRef>, KeyDecodeError>> {
        Some(self.decoder.as_ref()?.decode(rows))
    }

    /// The same bytes if they are one row.
    fn row<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        (self.is_readable() && self.decode(&[bytes])?.is_ok()).then_some(bytes)
    }

    /// The columns of one row as JSON writes them; `None` if the bytes are no such row.
    fn value(&self, bytes: &[u8]) -> Option<Value> {
        let schema = Arc::new(Schema::new(self.fields.clone()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), self.decode(&[bytes])?.ok()?).ok()?;
        let mut out = EncodedRows::default();
        let encoder = Format::Json(JsonFormat::default()).encoder(&schema, RowEnd::Nothing);
        encoder.ok()?.encode(&batch, &mut out).ok()?;
        serde_json::from_slice(&out.bytes).ok()
    }
}

/// What an entry of keyed state is called.
pub(super) fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Note => "note",
        Kind::Value => "value",
        Kind::List => "list",
        Kind::Map => "map",
        Kind::Timer => "timer",
    }
}

/// An entry of keyed state, taken apart. Whatever is encoded in it can be decoded.
pub(super) struct Entry<'a> {
    operator: &'a Operator,
    kind: Kind,
    /// Number of the state; a note has none.
    pub(super) number: Option<u8>,
    /// User key.
    pub(super) key: Option<&'a [u8]>,
    /// Key in a map.
    pub(super) map_key: Option<&'a [u8]>,
    /// Index in a list.
    pub(super) index: Option<u64>,
    /// A list's first index and the one behind its last.
    pub(super) bounds: Option<(u64, u64)>,
    /// Time of a timer, or of a note.
    pub(super) time: Option<i64>,
    /// Of a note: where there are timers.
    pub(super) timers_from: Option<Vec<i64>>,
    /// Value; an empty one is none.
    pub(super) value: Option<&'a [u8]>,
    /// When it expires.
    pub(super) expires: Option<i64>,
}

impl Operators {
    /// Takes an entry's note, if it is one.
    pub(super) fn learn(&mut self, operator: OperatorUid, rest: &[u8], value: &[u8]) {
        if operator.0 < OperatorUid::FIRST_FREE || rest != [Kind::Note.byte(0)] {
            return;
        }
        if let Ok(StoredNote { description, .. }) = StoredNote::read(value) {
            let operator = self.0.entry(operator.0);
            operator.or_insert_with(|| Operator {
                name: description.name,
                keys: Encoded::new(&description.keys),
                map_keys: Encoded::new(&description.map_keys),
                values: Encoded::new(&description.values),
            });
        }
    }

    /// What is known of an operator.
    pub(super) fn get(&self, operator: OperatorUid) -> Option<&Operator> {
        self.0.get(&operator.0)
    }

    /// Name of an operator and kind of an entry of its keyed state.
    pub(super) fn kind(&self, operator: OperatorUid, key: &[u8]) -> Option<(&str, Kind)> {
        let known = self.get(operator)?;
        let (kind, _) = Kind::of(*key.get(STATE_KEY_PREFIX)?)?;
        Some((&known.name, kind))
    }

    /// Takes an entry apart; `None` if it is no keyed state, or cannot be read as such.
    pub(super) fn entry<'a>(&'a self, operator: OperatorUid, key: &'a [u8], value: &'a [u8]) -> Option<Entry<'a>> {
        let operator = self.get(operator)?;
        let (kind, number) = Kind::of(*key.get(STATE_KEY_PREFIX)?)?;
        let rest = &key[STATE_KEY_PREFIX + 1..];
        match kind {
            Kind::Note => note(operator, value),
            Kind::Value | Kind::List | Kind::Map | Kind::Timer => keyed(operator, kind, number, rest, value),
        }
    }
}

fn note<'a>(operator: &'a Operator, value: &[u8]) -> Option<Entry<'a>> {
    let note = StoredNote::read(value).ok()?;
    let (time, timers_from) = (Some(note.time_ms), Some(note.buckets));
    Some(Entry { time, timers_from, ..Entry::new(operator, Kind::Note) })
}

fn keyed<'a>(operator: &'a Operator, kind: Kind, number: u8, rest: &'a [u8], value: &'a [u8]) -> Option<Entry<'a>> {
    let mut entry = Entry { number: Some(number), ..Entry::new(operator, kind) };
    let (expires, payload) = stored_value(value).ok()?;
    entry.expires = (expires != NEVER).then_some(expires);
    let rest = match kind {
        Kind::Timer => {
            let (time, rest) = rest.split_first_chunk::<8>()?;
            entry.time = Some((u64::from_be_bytes(*time) ^ (1 << 63)) as i64);
            rest
        }
        Kind::Note | Kind::Value | Kind::List | Kind::Map => rest,
    };
    let (user, rest) = rest.split_at_checked(operator.keys.length(rest)?)?;
    entry.key = Some(operator.keys.row(user)?);
    match kind {
        Kind::List => match u64::from_be_bytes(rest.try_into().ok()?) {
            BOUNDS => {
                let (first, next) = payload.split_first_chunk::<8>()?;
                entry.bounds = Some((u64::from_le_bytes(*first), u64::from_le_bytes(next.try_into().ok()?)));
            }
            index => entry.index = Some(index),
        },
        Kind::Map => entry.map_key = Some(operator.map_keys.row(rest)?),
        Kind::Note | Kind::Value | Kind::Timer => {}
    }
    if kind != Kind::Timer && entry.bounds.is_none() && !payload.is_empty() {
        entry.value = Some(operator.values.row(payload)?);
    }
    Some(entry)
}

impl<'a> Entry<'a> {
    /// One of which nothing is known yet.
    fn new(operator: &'a Operator, kind: Kind) -> Self {
        Self {
            operator,
            kind,
            number: None,
            key: None,
            map_key: None,
            index: None,
            bounds: None,
            time: None,
            timers_from: None,
            value: None,
            expires: None,
        }
    }

    /// The operator's name.
    pub(super) fn name(&self) -> &'a str {
        &self.operator.name
    }

    /// What it is called.
    pub(super) fn what(&self) -> &'static str {
        what(self.kind)
    }

    /// As fields of JSON.
    pub(super) fn json(&self) -> Option<Map<String, Value>> {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
        put("name", json!(self.name()));
        put("what", json!(self.what()));
        if let Some(number) = self.number {
            put("number", json!(number));
        }
        if let Some(key) = self.key {
            put("key", self.operator.keys.value(key)?);
        }
        if let Some(time) = self.time {
            put("time", json!(time));
        }
        if let Some(timers_from) = &self.timers_from {
            put("timersFrom", json!(timers_from));
        }
        if let Some(index) = self.index {
            put("index", json!(index));
        }
        if let Some(key) = self.map_key {
            put("mapKey", self.operator.map_keys.value(key)?);
        }
        match self.kind {
            Kind::Note | Kind::Timer => {}
            Kind::Value | Kind::List | Kind::Map => {
                let value = match (self.bounds, self.value) {
                    (Some((first, next)), _) => json!({"first": first, "next": next}),
                    (None, Some(value)) => self.operator.values.value(value)?,
                    (None, None) => Value::Null,
                };
                put("value", value);
            }
        }
        if let Some(expires) = self.expires {
            put("expires", json!(expires));
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    const UID: OperatorUid = OperatorUid(99);

    fn operators() -> Operators {
        let column = |name: &str, data_type| vec![(name.to_owned(), data_type)];
        let description = Description {
            name: "deduplicate(k)".to_owned(),
            keys: column("k", DataType::Utf8),
            map_keys: column("m", DataType::Int32),
            values: column("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
        };
        let note = StoredNote { groups_end: 5, time_ms: 7, description, buckets: vec![] };
        let (mut value, mut operators) = (Vec::new(), Operators::default());
        note.write(&mut value);
        operators.learn(UID, &[0], &value);
        operators
    }

    fn shown(kind: u8, rest: &[u8], value: &[u8]) -> Option<String> {
        let key = [&[0, 9, 0, 0, 0, 99, kind][..], rest].concat();
        operators().entry(UID, &key, value)?.json().map(|entry| Value::Object(entry).to_string())
    }

    #[test]
    fn entries_are_shown_by_their_columns() {
        let user = [1, 0, 0, 0, 1, b'a'];
        let row = [&[1, 1, 5, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0x80, 0, 0, 0, 0, 0, 3, 0xe8]].concat();
        assert_eq!(
            shown(0x10, &user, &row).as_deref(),
            Some(
                r#"{"name":"deduplicate(k)","what":"value","number":0,"key":{"k":"a"},"value":{"ts":"1970-01-01 00:00:01"},"expires":5}"#
            )
        );
        assert!(shown(0x10, &user, &[1, 0]).unwrap().ends_with(r#""value":null}"#));
        let timer = [&[0x80, 0, 0, 0, 0, 0, 0, 9][..], &user].concat();
        assert!(shown(0x40, &timer, &[1, 0]).unwrap().ends_with(r#""key":{"k":"a"},"time":9}"#));
        let element = [&user[..], &[0, 0, 0, 0, 0, 0, 0, 2]].concat();
        assert!(shown(0x20, &element, &[1, 0]).unwrap().contains(r#""index":2"#));
        let bounds = [&[1, 0, 1][..], &[0; 7], &[3, 0, 0, 0, 0, 0, 0, 0]].concat();
        let shown_bounds = shown(0x20, &[&user[..], &[255; 8]].concat(), &bounds).unwrap();
        assert!(shown_bounds.ends_with(r#""value":{"first":1,"next":3}}"#), "{shown_bounds}");
        let entry = [&user[..], &[1, 0x80, 0, 0, 4]].concat();
        assert!(shown(0x30, &entry, &[1, 0]).unwrap().contains(r#""mapKey":{"m":4}"#));
    }

    #[test]
    fn what_does_not_fit_is_left_to_be_shown_as_bytes() {
        assert_eq!(shown(0x10, &[7], &[1, 0]), None);
        assert_eq!(shown(0x50, &[], &[1, 0]), None);
        assert_eq!(shown(0x10, &[0], &[9]), None);
        assert!(operators().entry(OperatorUid(98), &[0, 0, 0, 0, 0, 98, 0x10, 0], &[1, 0]).is_none());
    }
}
