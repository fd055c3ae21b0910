//! The connector `datagen`: made-up rows, as Flink's `datagen` makes them, the same for the same seed.
//!
//! Owns options and what each column holds. Random timestamps lie before the clock's now, as in Flink: they alone differ from run to run.

#[cfg(test)]
mod tests;
mod values;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, SchemaRef};
use dataflow::source::{PartitionId, SourcePartition};

use self::values::{Filler, Random};
use super::generated::{GeneratedPartition, Pace, RowMaker, next_row, random};
use super::options::{self, TableOptions};
use super::stats::Unit;
use super::{ConnectorError, Opening, SizeHint, SourceFactory};

/// The only partition.
const PARTITION: &str = "0";

/// Makes the one partition of a table.
#[derive(Clone, Debug)]
pub(super) struct DatagenFactory {
    table: String,
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: Option<u64>,
    rows_per_second: i64,
}

#[derive(Clone, Debug)]
struct Column {
    /// Its own random numbers, by its name: other columns can come and go.
    key: u64,
    null_rate: f64,
    filler: Filler,
}

/// Checks every column's options.
pub(super) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    let schema = &options.table().physical;
    for (rest, _) in options.with_prefix("fields.") {
        let named = rest.rsplit_once('.').map_or(rest, |(name, _)| name);
        if schema.index_of(named).is_err() {
            let hint = options::nearest(named, schema.fields().iter().map(|f| f.name().as_str()));
            let hint = hint.map(|h| format!("; did you mean {h}?")).unwrap_or_default();
            return Err(options.error(&format!("fields.{rest}"), format!("the table has no column {named}{hint}")));
        }
    }
    schema.fields().iter().try_for_each(|field| column(options, field, 0).map(drop))
}

fn column(options: &TableOptions<'_>, field: &Field, seed: u64) -> Result<Column, ConnectorError> {
    let key_of = |part: &str| format!("fields.{}.{part}", field.name());
    let null_rate = options.raw(&key_of("null-rate")).unwrap_or("0");
    let null_rate = null_rate.parse().ok().filter(|rate| (0.0..=1.0).contains(rate)).ok_or_else(|| {
        options.error(&key_of("null-rate"), format!("'{}' is a share from 0 to 1", key_of("null-rate")))
    })?;
    if null_rate > 0.0 && !field.is_nullable() {
        return Err(options.error(&key_of("null-rate"), format!("column {} is NOT NULL", field.name())));
    }
    let number = |part: &str| {
        let key = key_of(part);
        options
            .raw(&key)
            .and_then(|v| v.trim().parse::<i64>().ok())
            .ok_or_else(|| options.error(&key, format!("a sequence needs '{key}', a whole number")))
    };
    let filler = match options.raw(&key_of("kind")) {
        Some("sequence") => {
            let (start, end) = (number("start")?, number("end")?);
            if end < start {
                return Err(options.error(&key_of("end"), format!("'{}' is less than the start", key_of("end"))));
            }
            Filler::sequence(field.data_type(), start, end)
        }
        _ => Random::of(field.data_type(), &|part| options.raw(&key_of(part))).map(Filler::Random),
    };
    let filler = filler
        .map_err(|(part, message)| options.error(&key_of(part), format!("column {}: {message}", field.name())))?;
    let key = random(seed, xxhash_rust::xxh3::xxh3_64(field.name().as_bytes()));
    Ok(Column { key, null_rate, filler })
}

impl DatagenFactory {
    pub(super) fn new(options: &TableOptions<'_>, decoded: &SchemaRef) -> Result<Self, ConnectorError> {
        let seed = options.integer(&options::DATAGEN_SEED).unwrap_or(0).cast_unsigned();
        let physical = &options.table().physical;
        // A sequence ends the table even if the query does not read it.
        let all = physical.fields().iter().map(|f| column(options, f, seed)).collect::<Result<Vec<_>, _>>()?;
        let asked = options.integer(&options::NUMBER_OF_ROWS).map(i64::cast_unsigned);
        let sequences = all.iter().filter_map(|c| c.filler.rows());
        Ok(DatagenFactory {
            table: options.table().name.clone(),
            schema: decoded.clone(),
            columns: decoded.fields().iter().map(|f| column(options, f, seed)).collect::<Result<_, _>>()?,
            rows: sequences.chain(asked).min(),
            rows_per_second: options.integer(&options::ROWS_PER_SECOND).unwrap_or(10_000),
        })
    }
}

impl SourceFactory for DatagenFactory {
    fn partitions(&self) -> Result<Vec<PartitionId>, ConnectorError> {
        Ok(vec![PartitionId(PARTITION.to_owned())])
    }

    fn open(
        &self,
        id: &PartitionId,
        Opening { start, wake, stats }: Opening,
    ) -> Result<Box<dyn SourcePartition>, ConnectorError> {
        let next = next_row(&self.table, &start)?;
        stats.measure(Unit::Records, next, self.rows);
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let pace = Pace::start(self.rows_per_second as f64, next, wake).map_err(|e| ConnectorError {
            table: self.table.clone(),
            option: Some(options::ROWS_PER_SECOND.key.to_owned()),
            message: e.to_string(),
        })?;
        Ok(Box::new(GeneratedPartition {
            id: id.clone(),
            table: self.table.clone(),
            maker: Maker { schema: self.schema.clone(), columns: self.columns.clone() },
            next,
            rows: self.rows,
            pace: Some(pace),
            stats,
        }))
    }

    fn bounded(&self) -> bool {
        self.rows.is_some()
    }

    fn size_hint(&self) -> Option<SizeHint> {
        self.rows.map(SizeHint::Rows)
    }
}

struct Maker {
    schema: SchemaRef,
    columns: Vec<Column>,
}

impl RowMaker for Maker {
    fn make(&mut self, from: u64, count: usize) -> Result<RecordBatch, String> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let rows = from..from + count as u64;
        let array = |column: &Column| -> Result<ArrayRef, String> {
            column.filler.fill(column.key, column.null_rate, rows.clone(), now_ms).map_err(|e| e.to_string())
        };
        let arrays = self.columns.iter().map(array).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| e.to_string())
    }
}
