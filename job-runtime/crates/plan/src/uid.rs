//! Stable ids of stream operators, from the plan's meaning.
//!
//! Stored in every state key: what is hashed here must not change for an operator that did not change. The hash is xxh3-64 of the operator's
//! meaning as text, folded to 32 bits.

use std::collections::HashMap;

use dataflow::graph::OperatorUid;
use xxhash_rust::xxh3::xxh3_64;

/// The ids given so far.
#[derive(Debug, Default)]
pub(crate) struct Uids {
    meanings: HashMap<String, u32>,
    taken: HashMap<u32, String>,
}

impl Uids {
    /// The id of an operator. Operators that mean the same are told apart by their order.
    pub(crate) fn assign(&mut self, meaning: &str) -> Result<OperatorUid, String> {
        let count = self.meanings.entry(meaning.to_owned()).or_insert(0);
        *count += 1;
        let meaning = if *count == 1 { meaning.to_owned() } else { format!("{meaning}#{count}") };
        let hash = xxh3_64(meaning.as_bytes());
        let uid = ((hash >> 32) ^ (hash & 0xffff_ffff)) as u32;
        let uid = if uid < OperatorUid::FIRST_FREE { uid + OperatorUid::FIRST_FREE } else { uid };
        match self.taken.insert(uid, meaning.clone()) {
            None => Ok(OperatorUid(uid)),
            Some(other) => Err(format!(
                "the operators `{other}` and `{meaning}` have the same id {uid:08x}; change an alias in one of them"
            )),
        }
    }
}
