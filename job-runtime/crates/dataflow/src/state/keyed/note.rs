//! What a shard knows of an operator without its entries being read: what they mean, how far time was, and where its timers are.
//!
//! Owns the note's layout. When one is written is `scope`'s decision.
//!
//! # Layout (integers little-endian)
//! Version 1: `version u8 = 1 | end of the shard's key groups u16 | time i64, the least one if unknown | description | starts of the buckets of
//! timers, i64 each, to the end`. A description is `name | keys | map keys | values`, where a name is `length u16 | UTF-8` and columns are
//! `count u16 | per column: name | type`. A type is one byte, and what belongs to it:
//!
//! | | | | |
//! | --- | --- | --- | --- |
//! | 0 Boolean | 1 Int8 | 2 Int16 | 3 Int32 |
//! | 4 Int64 | 5 Float32 | 6 Float64 | 7 Date32 |
//! | 8 Time32 + unit u8 | 9 Time64 + unit u8 | 10 Timestamp + unit u8 + zone name (empty: none) | 11 Decimal128 + precision u8 + scale i8 |
//! | 12 Utf8 | 13 Binary | | |
//!
//! Units: 0 seconds, 1 milliseconds, 2 microseconds, 3 nanoseconds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::key::{KeyDecoder, UnsupportedKey};
use crate::watermark::NO_WATERMARK;

const VERSION: u8 = 1;

/// A note cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Written by a newer release.
    #[error("the note has version {0}, this release reads {VERSION}")]
    Version(u8),
    /// Not the layout.
    #[error("the note is damaged")]
    Damaged,
}

/// Names and types of encoded columns.
pub type Columns = Vec<(String, DataType)>;

/// What the entries of an operator mean, for tools that have no plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The operator's name, e.g. `deduplicate(customer)`.
    pub name: String,
    /// Columns of the user key, in the key encoding.
    pub keys: Columns,
    /// Columns of map keys, in the key encoding; empty if there is no map.
    pub map_keys: Columns,
    /// Columns of values, in the row encoding (see [`crate::key::KeyEncoder::exact`]).
    pub values: Columns,
}

impl Description {
    /// A decoder of columns.
    ///
    /// # Errors
    /// When a type is none that the engine encodes.
    pub fn decoder(columns: &Columns) -> Result<KeyDecoder, UnsupportedKey> {
        let fields: Vec<Field> = columns.iter().map(|(name, t)| Field::new(name, t.clone(), true)).collect();
        KeyDecoder::new(&Schema::new(fields), &(0..columns.len()).collect::<Vec<_>>())
    }
}

/// A shard's note of one operator, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNote {
    /// End of the shard's key groups, so that a shard that is cut differently later knows what the note is of.
    pub groups_end: u16,
    /// How far the operator's time was; the least number if it was not known.
    pub time_ms: i64,
    /// What the entries mean.
    pub description: Description,
    /// Starts of the buckets that hold timers of the shard, ascending.
    pub buckets: Vec<i64>,
}

impl StoredNote {
    /// Of a shard in which nothing is stored.
    pub(super) fn nothing() -> Self {
        Self { groups_end: 0, time_ms: NO_WATERMARK, description: Description::default(), buckets: Vec::new() }
    }

    /// Replaces `out` with the stored form.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(VERSION);
        out.extend_from_slice(&self.groups_end.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        write_text(&self.description.name, out);
        for columns in [&self.description.keys, &self.description.map_keys, &self.description.values] {
            out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
            for (name, data_type) in columns {
                write_text(name, out);
                write_type(data_type, out);
            }
        }
        self.buckets.iter().for_each(|start| out.extend_from_slice(&start.to_le_bytes()));
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn read(value: &[u8]) -> Result<Self, NoteError> {
        let mut rest = match value.split_first().ok_or(NoteError::Damaged)? {
            (&VERSION, rest) => rest,
            (&version, _) => return Err(NoteError::Version(version)),
        };
        let groups_end = u16::from_le_bytes(take(&mut rest)?);
        let time_ms = i64::from_le_bytes(take(&mut rest)?);
        let name = read_text(&mut rest)?;
        let (keys, map_keys, values) = (columns(&mut rest)?, columns(&mut rest)?, columns(&mut rest)?);
        let (buckets, []) = rest.as_chunks::<8>() else { return Err(NoteError::Damaged) };
        let buckets = buckets.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        Ok(Self { groups_end, time_ms, description: Description { name, keys, map_keys, values }, buckets })
    }
}

fn columns(rest: &mut &[u8]) -> Result<Columns, NoteError> {
    let count = u16::from_le_bytes(take(rest)?);
    (0..count).map(|_| Ok((read_text(rest)?, read_type(rest)?))).collect()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], NoteError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(NoteError::Damaged)?;
    *rest = tail;
    Ok(*head)
}

/// Names that are longer than a length can say lose their end: they are for reading only.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let mut length = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    out.extend_from_slice(&(length as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..length]);
}

fn read_text(rest: &mut &[u8]) -> Result<String, NoteError> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, tail) = rest.split_at_checked(length).ok_or(NoteError::Damaged)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| NoteError::Damaged)
}

fn write_type(data_type: &DataType, out: &mut Vec<u8>) {
    match data_type {
        DataType::Boolean => out.push(0),
        DataType::Int8 => out.push(1),
        DataType::Int16 => out.push(2),
        DataType::Int32 => out.push(3),
        DataType::Int64 => out.push(4),
        DataType::Float32 => out.push(5),
        DataType::Float64 => out.push(6),
        DataType::Date32 => out.push(7),
        DataType::Time32(unit) => out.extend([8, unit_byte(*unit)]),
        DataType::Time64(unit) => out.extend([9, unit_byte(*unit)]),
        DataType::Timestamp(unit, zone) => {
            out.extend([10, unit_byte(*unit)]);
            write_text(zone.as_deref().unwrap_or_default(), out);
        }
        DataType::Decimal128(precision, scale) => out.extend([11, *precision, *scale as u8]),
        DataType::Utf8 => out.push(12),
        // Nothing else has an encoding; a tool shows the bytes.
        _ => out.push(13),
    }
}

fn read_type(rest: &mut &[u8]) -> Result<DataType, NoteError> {
    let [tag] = take(rest)?;
    Ok(match tag {
        0 => DataType::Boolean,
        1 => DataType::Int8,
        2 => DataType::Int16,
        3 => DataType::Int32,
        4 => DataType::Int64,
        5 => DataType::Float32,
        6 => DataType::Float64,
        7 => DataType::Date32,
        8 => DataType::Time32(unit(rest)?),
        9 => DataType::Time64(unit(rest)?),
        10 => {
            let unit = unit(rest)?;
            let zone = read_text(rest)?;
            DataType::Timestamp(unit, (!zone.is_empty()).then(|| Arc::from(zone)))
        }
        11 => {
            let [precision, scale] = take(rest)?;
            DataType::Decimal128(precision, scale as i8)
        }
        12 => DataType::Utf8,
        13 => DataType::Binary,
        _ => return Err(NoteError::Damaged),
    })
}

fn unit_byte(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

fn unit(rest: &mut &[u8]) -> Result<TimeUnit, NoteError> {
    Ok(match take(rest)? {
        [0] => TimeUnit::Second,
        [1] => TimeUnit::Millisecond,
        [2] => TimeUnit::Microsecond,
        [3] => TimeUnit::Nanosecond,
        [_] => return Err(NoteError::Damaged),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_types() -> Vec<DataType> {
        use DataType::*;
        let units = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
        let mut all = vec![Boolean, Int8, Int16, Int32, Int64, Float32, Float64, Date32, Utf8, Binary];
        all.extend([Time32(TimeUnit::Second), Time64(TimeUnit::Nanosecond), Decimal128(38, -3), Decimal128(5, 2)]);
        all.extend(units.map(|unit| Timestamp(unit, None)));
        all.push(Timestamp(TimeUnit::Millisecond, Some("UTC".into())));
        all
    }

    #[test]
    fn the_layout_of_version_1_is_for_ever() {
        let columns = |name: &str| vec![(name.to_owned(), DataType::Int64)];
        let description = Description { name: "d".into(), keys: columns("k"), map_keys: vec![], values: columns("v") };
        let note = StoredNote { groups_end: 0x0102, time_ms: 3, description, buckets: vec![4] };
        let mut value = Vec::new();
        note.write(&mut value);
        let head = [1, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'd', 1, 0, 1, 0, b'k', 4, 0, 0, 1, 0, 1, 0, b'v', 4];
        assert_eq!(value, [&head[..], &[4, 0, 0, 0, 0, 0, 0, 0]].concat());
        value[0] = 2;
        assert_eq!(StoredNote::read(&value), Err(NoteError::Version(2)));
    }

    proptest! {
        #[test]
        fn notes_come_back(
            groups_end in any::<u16>(),
            time_ms in any::<i64>(),
            name in ".{0,9}",
            buckets in prop::collection::vec(any::<i64>(), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let columns: Columns = all_types().into_iter().enumerate().map(|(i, t)| (format!("{name}{i}"), t)).collect();
            let description = Description { name, keys: columns.clone(), map_keys: Vec::new(), values: columns };
            let note = StoredNote { groups_end, time_ms, description, buckets };
            let mut value = Vec::new();
            note.write(&mut value);
            prop_assert_eq!(StoredNote::read(&value), Ok(note.clone()));
            // Of any part of it, nothing else is made than fewer buckets.
            let part = &value[..cut.index(value.len())];
            if let Ok(other) = StoredNote::read(part) {
                prop_assert_eq!(other.description, note.description);
            }
        }
    }
}
