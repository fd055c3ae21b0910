//! The promises of keys: values are for ever, encodings decode back, equal encodings are equal keys, order is kept.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let fields = columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

fn encode(batch: &RecordBatch) -> (EncodedKeys, Vec<Vec<u8>>) {
    let all: Vec<usize> = (0..batch.num_columns()).collect();
    let keys = KeyEncoder::new(&batch.schema(), &all).unwrap().encode(batch);
    let written = |row| {
        let mut out = Vec::new();
        keys.write(row, &mut out);
        out
    };
    let encoded = (0..batch.num_rows()).map(written).collect();
    (keys, encoded)
}

/// Encodes, checks hashes against the documented definition, decodes.
fn round_trip(columns: Vec<ArrayRef>) -> RecordBatch {
    let batch = batch(columns);
    let (keys, encoded) = encode(&batch);
    let hashes: Vec<u64> = encoded.iter().map(|key| hash_bytes(key)).collect();
    assert_eq!(&keys.hashes()[..], &hashes[..]);
    let all: Vec<usize> = (0..batch.num_columns()).collect();
    let slices: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    let decoded = KeyDecoder::new(&batch.schema(), &all).unwrap().decode(&slices).unwrap();
    RecordBatch::try_new(batch.schema(), decoded).unwrap()
}

fn check(columns: Vec<ArrayRef>) {
    let before = batch(columns.clone());
    assert_eq!(round_trip(columns), before);
}

#[test]
fn key_groups_are_for_ever() {
    let golden = |column: ArrayRef, expected: &[(&[u8], u64)]| {
        let (keys, encoded) = encode(&batch(vec![column]));
        let hashes = keys.hashes();
        for (row, (bytes, hash)) in expected.iter().enumerate() {
            assert_eq!(&encoded[row], bytes, "encoding of row {row}");
            assert_eq!(hashes[row], *hash, "hash of row {row}: {:#018x}", hashes[row]);
        }
    };
    golden(
        Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), None])),
        &[
            (&[1, 0x80, 0, 0, 0, 0, 0, 0, 0], GOLDEN[0]),
            (&[1, 0x80, 0, 0, 0, 0, 0, 0, 1], GOLDEN[1]),
            (&[1, 0x7f, 255, 255, 255, 255, 255, 255, 255], GOLDEN[2]),
            (&[0], GOLDEN[3]),
        ],
    );
    golden(Arc::new(Int32Array::from(vec![7])), &[(&[1, 0x80, 0, 0, 7], GOLDEN[4])]);
    golden(
        Arc::new(StringArray::from(vec!["", "JFK", "Zürich"])),
        &[
            (&[1, 0, 0, 0, 0], GOLDEN[5]),
            (&[1, 0, 0, 0, 3, b'J', b'F', b'K'], GOLDEN[6]),
            (&[1, 0, 0, 0, 7, b'Z', 0xc3, 0xbc, b'r', b'i', b'c', b'h'], GOLDEN[7]),
        ],
    );
    golden(
        Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, 1.5, -1.5])),
        &[
            (&[1, 0x80, 0, 0, 0, 0, 0, 0, 0], GOLDEN[0]),
            (&[1, 0x80, 0, 0, 0, 0, 0, 0, 0], GOLDEN[0]),
            (&[1, 0xff, 0xf8, 0, 0, 0, 0, 0, 0], GOLDEN[8]),
            (&[1, 0xbf, 0xf8, 0, 0, 0, 0, 0, 0], GOLDEN[9]),
            (&[1, 0x40, 0x07, 255, 255, 255, 255, 255, 255], GOLDEN[10]),
        ],
    );
    assert_eq!(hash_bytes(&[]), GOLDEN[11], "the empty key: {:#018x}", hash_bytes(&[]));
    assert_eq!(group_of(hash_bytes(&[1, 0, 0, 0, 3, b'J', b'F', b'K'])), KeyGroup((GOLDEN[6] % 4096) as u16));
}

/// Computed with another implementation of xxh3 (the C library's). Never to be changed.
const GOLDEN: [u64; 12] = [
    0x5ed9351268211059,
    0x82452dc3791a853e,
    0xa3c359fd3e03bbfc,
    0xc44bdff4074eecdb,
    0xda6f68afedc7300d,
    0xd1dd927ed529f768,
    0x9c4a2665e6ed1c70,
    0xb7e0d1b2507dedc7,
    0x4a3477125194e42d,
    0x08ceb94268d2295e,
    0x6be931503f10a2c1,
    0x2d06800538d394c2,
];

#[test]
fn every_key_type_decodes_back() {
    check(vec![Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))]);
    check(vec![Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)]))]);
    check(vec![Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)]))]);
    check(vec![Arc::new(Date32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))]);
    check(vec![Arc::new(Time32MillisecondArray::from(vec![Some(0), None, Some(86_399_999)]))]);
    check(vec![Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None, Some(5)]).with_timezone("UTC"))]);
    check(vec![Arc::new(Float32Array::from(vec![Some(f32::MIN), None, Some(-0.25)]))]);
    check(vec![Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0\xff"), None, Some(b"")]))]);
    let decimal = Decimal128Array::from(vec![Some(i128::from(i64::MIN)), None, Some(99)]);
    check(vec![Arc::new(decimal.with_precision_and_scale(38, 4).unwrap())]);
}

#[test]
fn a_list_is_no_key() {
    let field = Field::new_list("tags", Field::new_list_field(DataType::Utf8, true), true);
    let error = KeyEncoder::new(&Schema::new(vec![field]), &[0]).unwrap_err();
    assert!(error.to_string().starts_with("column tags of type List"), "{error}");
}

#[test]
fn shards_cover_all_key_groups_once() {
    for count in [1, 3, 16, 4095, 4096] {
        let shards = Shards::new(count).unwrap();
        let mut next = 0;
        for shard in shards.all() {
            let groups = shards.groups(shard);
            assert_eq!(groups.start, next);
            next = groups.end;
            assert!(groups.clone().all(|g| shards.shard_of(KeyGroup(g)) == shard));
        }
        assert_eq!(next, KEY_GROUPS);
    }
}

#[test]
fn damaged_keys_are_refused() {
    let schema = Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, None), true)]);
    let decoder = KeyDecoder::new(&schema, &[0]).unwrap();
    assert!(matches!(decoder.decode(&[&[1, 2]]), Err(KeyDecodeError::Truncated)));
    assert!(matches!(decoder.decode(&[&[7]]), Err(KeyDecodeError::Marker(7))));
    assert!(matches!(decoder.decode(&[&[0, 0]]), Err(KeyDecodeError::TooLong(1))));
}

proptest! {
    #[test]
    fn keys_decode_back_and_order_by_value(rows in prop::collection::vec(
        (any::<Option<i64>>(), any::<Option<i32>>(), prop::option::of(".{0,6}"), any::<Option<i128>>()), 0..40)) {
        let ints: ArrayRef = Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>());
        let dates: ArrayRef = Arc::new(rows.iter().map(|r| r.1).collect::<Date32Array>());
        let texts: ArrayRef = Arc::new(rows.iter().map(|r| r.2.clone()).collect::<StringArray>());
        let bytes = rows.iter().map(|r| r.3.map(i128::to_le_bytes)).collect::<Vec<_>>();
        let bytes: ArrayRef = Arc::new(bytes.iter().map(|b| b.as_ref().map(|b| b.as_slice())).collect::<BinaryArray>());
        check(vec![Arc::clone(&ints)]);
        check(vec![Arc::clone(&texts)]);
        check(vec![Arc::clone(&texts), Arc::clone(&ints), bytes, Arc::clone(&dates)]);
        let (_, encoded) = encode(&batch(vec![ints, dates]));
        for (a, left) in rows.iter().zip(&encoded) {
            for (b, right) in rows.iter().zip(&encoded) {
                prop_assert_eq!((a.0, a.1).cmp(&(b.0, b.1)), left.cmp(right));
            }
        }
    }

    #[test]
    fn floats_order_and_group_as_sql_does(values in prop::collection::vec(any::<f64>(), 0..40)) {
        let (_, encoded) = encode(&batch(vec![Arc::new(Float64Array::from(values.clone()))]));
        for (a, left) in values.iter().zip(&encoded) {
            for (b, right) in values.iter().zip(&encoded) {
                let expected = a.partial_cmp(b).unwrap_or(a.is_nan().cmp(&b.is_nan()));
                prop_assert_eq!(expected, left.cmp(right), "{} {}", a, b);
            }
        }
    }

    #[test]
    fn slices_encode_as_their_rows(values in prop::collection::vec(prop::option::of("[a-c]{0,3}"), 4..20)) {
        let whole = batch(vec![Arc::new(values.iter().cloned().collect::<StringArray>())]);
        let (_, all) = encode(&whole);
        let (_, part) = encode(&whole.slice(2, values.len() - 3));
        prop_assert_eq!(&all[2..values.len() - 1], &part[..]);
    }
}
