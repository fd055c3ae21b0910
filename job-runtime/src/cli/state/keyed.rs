//! Entries of keyed state in words: what kind they are, and keys and values as their columns, by the notes that the shards hold.
//!
//! Owns reading only. What has no note, or does not fit it, is shown as bytes by `state`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use dataflow::graph::OperatorUid;
use dataflow::key::KeyDecoder;
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

struct Operator {
    name: String,
    keys: Encoded,
    map_keys: Encoded,
    values: Encoded,
}

/// Encoded columns.
struct Encoded {
    columns: Columns,
    decoder: Option<KeyDecoder>,
}

impl Encoded {
    fn new(columns: Columns) -> Self {
        Self { decoder: Description::decoder(&columns).ok(), columns }
    }

    /// Length of the encoding that `bytes` begin with.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        self.decoder.as_ref()?.length(bytes).ok()
    }

    /// The columns of one row as JSON writes them; `None` if the bytes are no such row.
    fn value(&self, bytes: &[u8]) -> Option<Value> {
        let columns = self.decoder.as_ref()?.decode(&[bytes]).ok()?;
        let field = |(name, data_type): &(String, _)| Field::new(name, Clone::clone(data_type), true);
        let schema = Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).ok()?;
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
                keys: Encoded::new(description.keys),
                map_keys: Encoded::new(description.map_keys),
                values: Encoded::new(description.values),
            });
        }
    }

    /// Name of an operator and kind of an entry of its keyed state.
    pub(super) fn kind(&self, operator: OperatorUid, key: &[u8]) -> Option<(&str, Kind)> {
        let known = self.0.get(&operator.0)?;
        let (kind, _) = Kind::of(*key.get(STATE_KEY_PREFIX)?)?;
        Some((&known.name, kind))
    }

    /// An entry as fields of JSON; `None` if it is no keyed state, or cannot be read as such.
    pub(super) fn entry(&self, operator: OperatorUid, key: &[u8], value: &[u8]) -> Option<Map<String, Value>> {
        let known = self.0.get(&operator.0)?;
        let (kind, number) = Kind::of(*key.get(STATE_KEY_PREFIX)?)?;
        let rest = &key[STATE_KEY_PREFIX + 1..];
        let mut out = Map::new();
        out.insert("name".to_owned(), json!(known.name));
        out.insert("what".to_owned(), json!(what(kind)));
        if kind == Kind::Note {
            let note = StoredNote::read(value).ok()?;
            out.insert("time".to_owned(), json!(note.time_ms));
            out.insert("timersFrom".to_owned(), json!(note.buckets));
            return Some(out);
        }
        out.insert("number".to_owned(), json!(number));
        let (expires, payload) = stored_value(value).ok()?;
        let (time, rest) = match kind {
            Kind::Timer => {
                let (time, rest) = rest.split_first_chunk::<8>()?;
                (Some((u64::from_be_bytes(*time) ^ (1 << 63)) as i64), rest)
            }
            Kind::Note | Kind::Value | Kind::List | Kind::Map => (None, rest),
        };
        let (user, rest) = rest.split_at_checked(known.keys.length(rest)?)?;
        out.insert("key".to_owned(), known.keys.value(user)?);
        let mut bounds = false;
        match kind {
            Kind::Timer => drop(out.insert("time".to_owned(), json!(time))),
            Kind::List => {
                let index = u64::from_be_bytes(rest.try_into().ok()?);
                bounds = index == BOUNDS;
                if !bounds {
                    out.insert("index".to_owned(), json!(index));
                }
            }
            Kind::Map => drop(out.insert("mapKey".to_owned(), known.map_keys.value(rest)?)),
            Kind::Note | Kind::Value => {}
        }
        if kind != Kind::Timer {
            let value = match payload {
                [] => Value::Null,
                [..] if bounds => {
                    let (first, next) = payload.split_first_chunk::<8>()?;
                    let next = u64::from_le_bytes(next.try_into().ok()?);
                    json!({"first": u64::from_le_bytes(*first), "next": next})
                }
                [..] => known.values.value(payload)?,
            };
            out.insert("value".to_owned(), value);
        }
        if expires != NEVER {
            out.insert("expires".to_owned(), json!(expires));
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
        operators().entry(UID, &key, value).map(|entry| Value::Object(entry).to_string())
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
