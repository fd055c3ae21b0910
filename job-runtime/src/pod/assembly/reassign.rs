//! Other assignments in the start of a pod: what the driver needs to take them up while it works.
//!
//! Owns that wiring. What is taken up is in `pod::reassign`.

use std::sync::{Arc, Mutex};

use dataflow::key::ShardId;
use dataflow::state::ShardStore as _;

use super::cast::Cast;
use super::savepoints::Watch;
use super::{Log, Recovered};
use crate::commit::kafka::ControlTopic;
use crate::pod::PodConfig;
use crate::pod::reassign::{Fetch, Moving, Reassign, Watched};
use crate::state::rocks::{RocksDatabases, RocksShardStore, StoreGauge};

/// What is known before the pod's parts are placed.
pub(super) struct Shards {
    stores: Vec<(ShardId, StoreGauge)>,
    fetch: Option<Fetch>,
    begins_empty: bool,
}

/// Fetches shards into the databases' place.
pub(super) fn fetch(config: &PodConfig, job_uid: &str, databases: Arc<RocksDatabases>, topic: ControlTopic) -> Fetch {
    Fetch {
        place: config.snapshots.as_ref().map(|snapshots| snapshots.place.clone()),
        name: config.name.clone(),
        uid: job_uid.to_owned(),
        shards: config.shards,
        databases,
        topic: Mutex::new(topic),
    }
}

impl Shards {
    pub(super) fn of(config: &PodConfig, recovered: &Recovered) -> Self {
        let gauge = |store: &RocksShardStore| (store.shard(), store.gauge());
        let fetch = match &recovered.log {
            Log::Kafka(kafka) => {
                let databases = Arc::clone(&recovered.databases);
                Some(fetch(config, &config.connectors.job_uid, databases, kafka.log.control_topic()))
            }
            Log::Local(_) => None,
        };
        let stores = recovered.stores.iter().map(gauge).collect();
        Self { stores, fetch, begins_empty: recovered.origin.is_none() }
    }

    /// `watch` is there if the pod may not be alone for ever.
    pub(super) fn reassign(self, cast: &Cast, watch: Option<Watch>) -> Reassign {
        let watched = watch.map(|Watch { member, sayings, news, events }| Watched {
            member,
            sayings,
            news,
            events,
            seat: Arc::clone(&cast.seat),
            owner: Arc::clone(&cast.owner),
            stores: self.stores,
            moving: Moving::new(self.fetch, std::thread::current()),
            begins_empty: self.begins_empty,
        });
        Reassign::new(watched, cast.seat.assignment())
    }
}
