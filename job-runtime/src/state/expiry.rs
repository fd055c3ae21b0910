//! What a shard's database may forget: a compaction filter for entries of keyed state that have expired.
//!
//! Owns the way from what operators said (`ShardStore::expire`) to RocksDB's compactions. What is expired, `dataflow::state::keyed` decides.
//! Only operators that said something are touched: what another plan left is not read.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow::graph::OperatorUid;
use dataflow::state::STATE_KEY_PREFIX;
use dataflow::state::keyed::is_expired;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

const NAME: &CStr = c"millstream-keyed-state";

/// Through which time the entries of each operator have expired, of one shard. Shared by the worker that owns it and RocksDB's threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Expiry(Arc<Mutex<BTreeMap<u32, i64>>>);

impl Expiry {
    /// Time only goes on.
    pub(super) fn set(&self, operator: OperatorUid, through_ms: i64) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = times.entry(operator.0).or_insert(through_ms);
        *known = through_ms.max(*known);
    }

    fn times(&self) -> BTreeMap<u32, i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl CompactionFilterFactory for Expiry {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        Filter(self.times())
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// Of one compaction, with the times of its begin.
pub(super) struct Filter(BTreeMap<u32, i64>);

impl Filter {
    fn has_expired(&self, key: &[u8], value: &[u8]) -> bool {
        let operator = key.get(2..STATE_KEY_PREFIX).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let through = operator.and_then(|operator| self.0.get(&operator));
        through.is_some_and(|through_ms| is_expired(key, value, *through_ms))
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if !self.0.is_empty() && self.has_expired(key, value) {
            return CompactionDecision::Remove;
        }
        CompactionDecision::Keep
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
