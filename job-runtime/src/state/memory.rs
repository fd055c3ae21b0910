//! How the memory for keyed state of a pod (`spec.stateMemory`) is divided.
//!
//! Half is for the workers' tables, in equal parts: entries that the next rows are likely to need, as the stream operators use them. Half is for
//! RocksDB: one block cache for all shards, in which data blocks, indexes and filters lie; write buffers count against it and take at most a
//! half of it. The halves serve each other: what the table has no room for is read through the cache.
//!
//! Beside it stand, outside of the budget: batches under way, the changes of the commits under way, and the process itself.

/// Memory for keyed state of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateMemory(u64);

impl StateMemory {
    /// In bytes.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes of the table of each of `workers` workers.
    pub fn table_per_worker(self, workers: usize) -> u64 {
        self.0 / 2 / workers.max(1) as u64
    }

    /// Bytes for RocksDB.
    pub fn databases(self) -> usize {
        usize::try_from(self.0 / 2).unwrap_or(usize::MAX)
    }
}

impl Default for StateMemory {
    fn default() -> Self {
        Self(256 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_not_more_than_the_whole() {
        let memory = StateMemory::default();
        for workers in [1, 2, 7] {
            let parts = memory.table_per_worker(workers) * workers as u64 + memory.databases() as u64;
            assert!(parts <= 256 << 20 && parts > 250 << 20, "{workers} workers: {parts}");
        }
    }
}
