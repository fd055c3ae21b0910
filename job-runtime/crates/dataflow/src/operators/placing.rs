//! The hashes that an operator keeps its keys by: each key's own, with the key group of where its state lies.
//!
//! Owns how the key group is found. Which way a plan needs is `placement`'s.

use std::sync::Arc;

use crate::batch::Batch;
use crate::key::{EncodedKeys, KeyEncoder, group_of, in_group};

/// How an operator finds the key group of each row's key.
#[derive(Clone, Debug)]
pub enum Placing {
    /// From the key's own hash, which batches of an exchange come with.
    Given,
    /// From the key's own hash.
    Own,
    /// From the hash of some of the key columns.
    Columns(KeyEncoder),
    /// From the hashes that rows carry since their source.
    Carried,
}

impl Placing {
    /// The hash of each row's key; `keys` are the batch's.
    pub(super) fn hashes(&self, batch: &Batch, keys: &EncodedKeys) -> Arc<[u64]> {
        match (self, &batch.hashes) {
            (Self::Given, Some(hashes)) => Arc::clone(hashes),
            (Self::Given | Self::Own, _) => keys.hashes(),
            (Self::Columns(columns), _) => placed(&keys.hashes(), &columns.encode(&batch.rows).hashes()),
            (Self::Carried, carried) => {
                let carried = carried.as_ref();
                placed(
                    &keys.hashes(),
                    carried.expect("the worker checks that every partition of the source has a key group"),
                )
            }
        }
    }

    /// True if the rows that the operator gives out must carry hashes in their turn.
    pub(super) fn carries(&self) -> bool {
        match self {
            Self::Carried => true,
            Self::Given | Self::Own | Self::Columns(_) => false,
        }
    }
}

/// Hashes of keys in the key groups of other hashes.
fn placed(keys: &[u64], places: &[u64]) -> Arc<[u64]> {
    keys.iter().zip(places).map(|(key, place)| in_group(*key, group_of(*place))).collect()
}
