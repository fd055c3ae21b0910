//! The StatefulSet: stable names for pods and their volumes. What a pod is, is in `pod.rs`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::{self, STATE_VOLUME};
use super::{labels, metadata, selector};
use crate::controller::validate::ValidatedJob;

/// Builds the StatefulSet.
pub(super) fn build(job: &ValidatedJob, replicas: u16) -> StatefulSet {
    StatefulSet {
        metadata: metadata(job, &job.name),
        spec: Some(StatefulSetSpec {
            service_name: Some(job.name.clone()),
            replicas: Some(i32::from(replicas)),
            // Pods recover alone; none waits for another.
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator deletes pods of older revisions itself: a StatefulSet never leaves a revision whose pods do not become ready.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            revision_history_limit: Some(2),
            selector: selector(job),
            template: pod::template(job),
            volume_claim_templates: claim(job).map(|claim| vec![claim]),
            // A suspended or finished job has no pods and keeps its state; a deleted one leaves nothing behind.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Delete".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn claim(job: &ValidatedJob) -> Option<PersistentVolumeClaim> {
    let template = &job.definition.template;
    let size = template.volume_size.clone()?;
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(STATE_VOLUME.to_owned()),
            labels: Some(labels(job)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: template.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}
