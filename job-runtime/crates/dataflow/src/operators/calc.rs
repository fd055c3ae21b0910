//! Filter and projection, a batch at a time.
//!
//! Owns the selection of rows; expressions are the planner's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::error::ArrowError;

use crate::batch::Batch;
use crate::graph::{Calc, ExpressionError};

/// A calculation failed on data.
#[derive(Debug, thiserror::Error)]
pub enum CalcError {
    /// An expression failed.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// The results do not make a batch of the output's schema.
    #[error("the results do not fit the output")]
    Arrow(#[from] ArrowError),
}

/// Applies a calculation; `None` if no row is left. Hashes stay with their rows.
///
/// # Errors
/// See [`CalcError`].
pub fn apply(calc: &Calc, batch: &Batch) -> Result<Option<Batch>, CalcError> {
    let Some(filter) = &calc.filter else {
        let rows = project(calc, &batch.rows)?;
        return Ok(Some(Batch { rows, hashes: batch.hashes.clone(), partial: false }));
    };
    let mask = filter.evaluate(&batch.rows)?;
    let mask = mask.as_boolean();
    let Some(rows) = kept(calc, mask, &batch.rows)? else { return Ok(None) };
    let hashes = batch.hashes.as_ref().map(|hashes| select_hashes(mask, hashes));
    Ok(Some(Batch { rows, hashes, partial: false }))
}

/// The projection of the rows for which `mask` is true.
fn kept(calc: &Calc, mask: &BooleanArray, batch: &RecordBatch) -> Result<Option<RecordBatch>, CalcError> {
    // Columns that are not given on need not be filtered; only another expression might read them.
    if let Some(columns) = calc.projection.iter().map(|expr| expr.as_column()).collect::<Option<Vec<_>>>() {
        let Some(kept) = select(mask, &batch.project(&columns)?)? else { return Ok(None) };
        return Ok(Some(with_schema(calc, kept.columns().to_vec(), kept.num_rows())?));
    }
    match select(mask, batch)? {
        Some(kept) => project(calc, &kept).map(Some),
        None => Ok(None),
    }
}

fn project(calc: &Calc, rows: &RecordBatch) -> Result<RecordBatch, CalcError> {
    let columns = calc.projection.iter().map(|expr| match expr.as_column() {
        Some(index) => Ok(ArrayRef::clone(rows.column(index))),
        None => expr.evaluate(rows),
    });
    Ok(with_schema(calc, columns.collect::<Result<Vec<_>, _>>()?, rows.num_rows())?)
}

fn with_schema(calc: &Calc, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(calc.schema.clone(), columns, &options)
}

/// The rows for which `mask` is true: the batch itself if that is all, `None` if it is none.
pub(crate) fn select(mask: &BooleanArray, batch: &RecordBatch) -> Result<Option<RecordBatch>, ArrowError> {
    let kept = mask.true_count();
    if kept == 0 {
        return Ok(None);
    }
    if kept == batch.num_rows() {
        return Ok(Some(batch.clone()));
    }
    let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    filter_record_batch(batch, &mask).map(Some)
}

/// The hashes of the rows for which `mask` is true.
pub(crate) fn select_hashes(mask: &BooleanArray, hashes: &Arc<[u64]>) -> Arc<[u64]> {
    if mask.true_count() == hashes.len() {
        return Arc::clone(hashes);
    }
    mask.iter().zip(hashes.iter()).filter(|(kept, _)| *kept == Some(true)).map(|(_, hash)| *hash).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;
    use crate::graph::{ExprRef, Expression};

    #[derive(Debug)]
    struct Column(usize);
    impl Expression for Column {
        fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
            Ok(Arc::clone(batch.column(self.0)))
        }
        fn as_column(&self) -> Option<usize> {
            Some(self.0)
        }
    }

    #[derive(Debug)]
    struct Mask(Vec<Option<bool>>);
    impl Expression for Mask {
        fn evaluate(&self, _: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
            Ok(Arc::new(BooleanArray::from(self.0.clone())))
        }
    }

    fn run_over(values: Vec<Option<i64>>, mask: Vec<Option<bool>>, nullable: bool) -> Option<RecordBatch> {
        let schema = |nullable| Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, nullable)]));
        let batch = RecordBatch::try_new(schema(true), vec![Arc::new(Int64Array::from(values))]).unwrap();
        let projection: Vec<ExprRef> = vec![Arc::new(Column(0))];
        let calc = Calc { filter: Some(Arc::new(Mask(mask))), projection, schema: schema(nullable) };
        let hashes = Some((0..batch.num_rows() as u64).collect());
        let kept = apply(&calc, &Batch { rows: batch, hashes, partial: false }).unwrap()?;
        assert_eq!(kept.hashes.unwrap().len(), kept.rows.num_rows(), "a hash for every row");
        Some(kept.rows)
    }

    fn run(mask: Vec<Option<bool>>) -> Option<RecordBatch> {
        run_over(vec![Some(1), Some(2), Some(3)], mask, true)
    }

    #[test]
    fn a_filter_may_leave_out_the_nulls_of_a_column() {
        let kept = run_over(vec![Some(1), None], vec![Some(true), Some(false)], false).unwrap();
        assert_eq!(kept.num_rows(), 1);
    }

    #[test]
    fn null_is_not_true() {
        let kept = run(vec![Some(true), None, Some(false)]).unwrap();
        assert_eq!(kept.column(0).as_primitive::<Int64Type>().values(), &[1]);
        assert!(run(vec![None, None, Some(false)]).is_none());
    }

    #[test]
    fn keeping_all_rows_keeps_them_in_order() {
        let kept = run(vec![Some(true); 3]).unwrap();
        assert_eq!(kept.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    }
}
