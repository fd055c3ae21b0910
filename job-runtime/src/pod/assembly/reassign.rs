//! Other assignments in the start of a pod: what the driver needs to take them up while it works.
//!
//! Owns that wiring. What is taken up is in `pod::reassign`.

use std::sync::{Arc, Mutex};

use dataflow::key::ShardId;
use dataflow::state::ShardStore as _;

use super::cast::Cast;
use super::savepoints::Watch;
use super::{Log, Recovered};
use crate::pod::PodConfig;
use crate::pod::reassign::{Fetch, Moving, Reassign, Watched};
use crate::state::rocks::{RocksShardStore, StoreGauge};

/// What is known before the pod's parts are placed.
pub(super) struct Shards {
    stores: Vec<(ShardId, StoreGauge)>,
    fetch: Option<Fetch>,
}

impl Shards {
    pub(super) fn of(config: &PodConfig, recovered: &Recovered) -> Self {
        let gauge = |store: &RocksShardStore| (store.shard(), store.gauge());
        let fetch = match (&config.snapshots, &recovered.log) {
            (Some(snapshots), Log::Kafka(kafka)) => Some(Fetch {
                place: snapshots.place.clone(),
                name: config.name.clone(),
                uid: config.connectors.job_uid.clone(),
                shards: config.shards,
                databases: Arc::clone(&recovered.databases),
                topic: Mutex::new(kafka.log.control_topic()),
            }),
            (Some(_), Log::Local(_)) | (None, _) => None,
        };
        Self { stores: recovered.stores.iter().map(gauge).collect(), fetch }
    }

    /// `watch` is there if the pod may not be alone for ever.
    pub(super) fn reassign(self, cast: &Cast, watch: Option<Watch>) -> Reassign {
        let watched = watch.map(|Watch { member, releases, news, events }| Watched {
            member,
            releases,
            news,
            events,
            seat: Arc::clone(&cast.seat),
            owner: Arc::clone(&cast.owner),
            stores: self.stores,
            moving: Moving::new(self.fetch, std::thread::current()),
        });
        Reassign::new(watched, cast.seat.assignment())
    }
}
