//! Rows come back as they were, from any batches, types and choice of rows; no damage panics.

use arrow::array::{BinaryArray, TimestampMillisecondArray, UInt32Array};
use arrow::array::{BooleanArray, Decimal128Array, Float64Array, Int8Array, Int64Array, StringArray};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, TimeUnit};
use proptest::prelude::*;

use super::*;

fn schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("text", DataType::Utf8),
        field("flag", DataType::Boolean),
        field("tiny", DataType::Int8),
        field("number", DataType::Int64),
        field("real", DataType::Float64),
        field("money", DataType::Decimal128(20, 2)),
        field("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        field("raw", DataType::Binary),
    ]))
}

type Row = (Option<String>, Option<bool>, Option<i8>, Option<i64>, Option<f64>, Option<i64>);

fn batch(rows: &[Row]) -> RecordBatch {
    let column = |array: ArrayRef| array;
    let money: Decimal128Array = rows.iter().map(|r| r.5.map(i128::from)).collect();
    let times: TimestampMillisecondArray = rows.iter().map(|r| r.3).collect();
    let columns = vec![
        column(Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>())),
        column(Arc::new(rows.iter().map(|r| r.1).collect::<BooleanArray>())),
        column(Arc::new(rows.iter().map(|r| r.2).collect::<Int8Array>())),
        column(Arc::new(rows.iter().map(|r| r.3).collect::<Int64Array>())),
        column(Arc::new(rows.iter().map(|r| r.4).collect::<Float64Array>())),
        column(Arc::new(money.with_precision_and_scale(20, 2).unwrap())),
        column(Arc::new(times.with_timezone("UTC"))),
        column(Arc::new(rows.iter().map(|r| r.0.as_ref().map(String::as_bytes)).collect::<BinaryArray>())),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Takes rows into as few blocks as there is need for.
fn blocks(parts: &[(RecordBatch, Vec<u32>)]) -> Vec<Vec<u8>> {
    let (mut builder, mut out) = (BlockBuilder::new(&schema()), Vec::new());
    for (batch, rows) in parts {
        let (source, mut rows) = (Source::new(batch), rows.as_slice());
        loop {
            rows = &rows[builder.take(&source, rows)..];
            if rows.is_empty() {
                break;
            }
            out.push(builder.finish());
        }
    }
    if !builder.is_empty() {
        out.push(builder.finish());
    }
    assert!(builder.is_empty());
    out
}

fn any_row() -> impl Strategy<Value = Row> {
    (
        any::<Option<String>>(),
        any::<Option<bool>>(),
        any::<Option<i8>>(),
        any::<Option<i64>>(),
        any::<Option<f64>>(),
        any::<Option<i64>>(),
    )
}

proptest! {
    #[test]
    fn chosen_rows_of_any_batches_come_back_in_order(
        all in proptest::collection::vec((proptest::collection::vec(any_row(), 1..40), any::<u64>(), 0usize..5), 1..5),
        cut in 0usize..400,
    ) {
        let mut expected = Vec::new();
        let mut parts = Vec::new();
        for (rows, choice, skipped) in &all {
            let whole = batch(rows);
            // A slice has an offset into its buffers.
            let skipped = (*skipped).min(rows.len() - 1);
            let sliced = whole.slice(skipped, rows.len() - skipped);
            let chosen: Vec<u32> = (0..sliced.num_rows() as u32).filter(|row| choice >> (row % 64) & 1 == 1).collect();
            expected.push(take_record_batch(&sliced, &UInt32Array::from(chosen.clone())).unwrap());
            parts.push((sliced, chosen));
        }
        let blocks = blocks(&parts);
        let found: Vec<_> = blocks.iter().map(|block| decode(&schema(), block).unwrap()).collect();
        prop_assert_eq!(concat_batches(&schema(), &found).unwrap(), concat_batches(&schema(), &expected).unwrap());
        for block in &blocks {
            prop_assert!(cut >= block.len() || decode(&schema(), &block[..cut]).is_err());
            let mut damaged = block.clone();
            let at = cut % block.len();
            damaged[at] = damaged[at].wrapping_add(1);
            let _ = decode(&schema(), &damaged);
        }
    }
}

#[test]
fn the_layout_is_pinned() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("v", DataType::Int16, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("ab"), None, Some("c")])),
        Arc::new(BooleanArray::from(vec![true, false, true])),
        Arc::new(arrow::array::Int16Array::from(vec![1, 2, -1])),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut builder = BlockBuilder::new(&schema);
    assert_eq!(builder.take(&Source::new(&batch), &[0, 1, 2]), 3);
    let block = builder.finish();
    let expected = [3, 1, 0b101, 2, 0, 1, b'a', b'b', b'c', 0, 0b101, 0, 1, 0, 2, 0, 255, 255];
    assert_eq!(block, expected);
    assert_eq!(decode(&schema, &block).unwrap(), batch);
    assert!(decode(&schema, &[&block[..], &[0]].concat()).is_err(), "nothing may follow");
}

#[test]
fn a_block_is_full_at_its_bound_and_holds_one_row_of_any_size() {
    let wide = |len: usize| (Some("x".repeat(len)), None, None, None, None, None);
    let rows = batch(&vec![wide(BLOCK_BYTES / 10); 100]);
    let all: Vec<u32> = (0..100).collect();
    let made = blocks(&[(rows, all)]);
    assert!(made.len() >= 20 && made.iter().all(|block| block.len() <= BLOCK_BYTES), "{}", made.len());
    let huge = blocks(&[(batch(&[wide(10), wide(2 * BLOCK_BYTES), wide(10)]), vec![0, 1, 2])]);
    let rows: Vec<usize> = huge.iter().map(|block| decode(&schema(), block).unwrap().num_rows()).collect();
    assert_eq!(rows, [1, 1, 1]);
}

#[test]
fn a_column_that_cannot_be_sent_is_named() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let error = check(&Schema::new(vec![Field::new("tags", list, true)])).unwrap_err();
    assert!(error.to_string().starts_with("column tags of type List"), "{error}");
}
