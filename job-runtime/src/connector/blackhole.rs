//! The connector `blackhole`: takes every row and forgets it.
//!
//! Owns nothing but the count that ends up in the log. Rows are counted by the engine's metrics.

use dataflow::sink::{SinkChunk, SinkEncoder, SinkPayload};
use dataflow::worker::CommitId;

use super::encoder::BatchEncoder;
use super::{ConnectorError, ExternalSink, SinkFactory, SinkTarget, Ticket};

/// Makes black holes.
#[derive(Debug)]
pub(super) struct BlackholeFactory {
    pub(super) table: String,
}

impl SinkFactory for BlackholeFactory {
    fn encoder(&self, _worker: usize) -> Result<Box<dyn SinkEncoder>, ConnectorError> {
        Ok(Box::new(BatchEncoder))
    }

    fn target(&self) -> Result<SinkTarget, ConnectorError> {
        Ok(SinkTarget::External(Box::new(Blackhole { table: self.table.clone(), rows: 0 })))
    }

    fn guarantee(&self) -> plan::Guarantee {
        plan::Guarantee::None
    }
}

struct Blackhole {
    table: String,
    rows: u64,
}

impl ExternalSink for Blackhole {
    fn recover(&mut self, _tickets: &[Ticket]) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn write(&mut self, chunk: &SinkChunk) -> Result<(), ConnectorError> {
        self.rows += match &chunk.payload {
            SinkPayload::Rows(rows) => rows.ends.len() as u64,
            SinkPayload::Batch(batch) => batch.num_rows() as u64,
        };
        Ok(())
    }

    fn prepare(&mut self, _commit: CommitId) -> Result<Vec<Ticket>, ConnectorError> {
        Ok(Vec::new())
    }

    fn committed(&mut self, _commit: CommitId, last: bool) -> Result<(), ConnectorError> {
        if last {
            tracing::info!(table = self.table, rows = self.rows, "blackhole took its last row");
        }
        Ok(())
    }
}
