//! What a job's pod is: one container under restricted security, no API token, probes that tell the truth.
//!
//! Everything about security is fixed here; nothing that a user writes reaches it.

use std::collections::BTreeMap;

use crds::{names, v1alpha1};
use job_api::{CONFIG_DIR, CONTROL_PORT, HEALTH_PORT, KAFKA_SECRET_DIR, STATE_DIR, TERMINATION_FILE};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapKeySelector, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource,
    SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{JOB_CONTAINER, config_map_name, labels, selector};
use crate::controller::validate::ValidatedJob;

/// Name of the health port.
pub(super) const HEALTH: &str = "health";
/// Name of the control port.
pub(super) const CONTROL: &str = "control";
/// Name of the state volume and of its claim.
pub(super) const STATE_VOLUME: &str = "state";

const CONFIG_VOLUME: &str = "config";
const KAFKA_VOLUME: &str = "kafka-credentials";
const TMP_VOLUME: &str = "tmp";

/// User and group of the process: the image's `nonroot`.
const UID: i64 = 65532;

/// Time to make the last commit and leave.
const GRACE_SECONDS: i64 = 30;

/// The pod template.
pub(super) fn template(job: &ValidatedJob) -> PodTemplateSpec {
    let template = &job.definition.template;
    let mut all_labels = template.labels.clone();
    all_labels.extend(labels(job));
    let mut annotations = template.annotations.clone();
    annotations.insert(names::ANNOTATION_REVISION.to_owned(), job.revision.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(spec(job)),
    }
}

fn spec(job: &ValidatedJob) -> PodSpec {
    let template = &job.definition.template;
    PodSpec {
        service_account_name: template.service_account_name.clone(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: not_empty(
            template
                .image_pull_secrets
                .iter()
                .map(|secret| LocalObjectReference { name: secret.name.clone() })
                .collect(),
        ),
        node_selector: Some(template.node_selector.clone()).filter(|map| !map.is_empty()),
        tolerations: not_empty(template.tolerations.clone()),
        affinity: template.affinity.clone(),
        topology_spread_constraints: Some(spread(job)),
        priority_class_name: template.priority_class_name.clone(),
        termination_grace_period_seconds: Some(template.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(job)],
        volumes: Some(volumes(job)),
        ..PodSpec::default()
    }
}

fn container(job: &ValidatedJob) -> Container {
    let definition = &job.definition;
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: JOB_CONTAINER.to_owned(),
        image: Some(definition.image.clone()),
        image_pull_policy: definition.image_pull_policy.map(str::to_owned),
        args: Some(vec!["pod".to_owned()]),
        env: Some(environment(job)),
        ports: Some(vec![port(HEALTH, HEALTH_PORT), port(CONTROL, CONTROL_PORT)]),
        resources: Some(definition.resources.clone().unwrap_or_else(default_resources)),
        // Recovery may take long: half an hour of starting, then a process that hangs is ended after a minute.
        startup_probe: Some(probe("/startupz", 2, 900)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        termination_message_path: Some(TERMINATION_FILE.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(job)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(HEALTH.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// Enough for a small job, and a limit so that a job that grows takes nothing from others.
fn default_resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        let map: BTreeMap<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect();
        Some(map)
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "500m"), ("memory", "512Mi")]),
        limits: quantities(&[("memory", "2Gi")]),
        claims: None,
    }
}

fn environment(job: &ValidatedJob) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: Some("v1".to_owned()) }),
            ..EnvVarSource::default()
        }),
    };
    let ours = [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")];
    // Names are the keys of a list that is applied; a name written twice would be refused, and the last one is what a shell would see.
    let mut by_name = BTreeMap::new();
    for variable in job.definition.s3_secret.iter().flat_map(|secret| s3_variables(secret)) {
        by_name.insert(variable.name.clone(), variable);
    }
    for variable in &job.definition.template.env {
        by_name.insert(variable.name.clone(), user_variable(variable));
    }
    for variable in ours {
        by_name.insert(variable.name.clone(), variable);
    }
    by_name.into_values().collect()
}

/// The bucket's credentials under the names that the AWS SDK reads. What the user writes in the template wins.
fn s3_variables(secret: &str) -> [EnvVar; 2] {
    [("AWS_ACCESS_KEY_ID", "accessKeyId"), ("AWS_SECRET_ACCESS_KEY", "secretAccessKey")].map(|(name, key)| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None }),
            ..EnvVarSource::default()
        }),
    })
}

fn user_variable(variable: &v1alpha1::EnvVar) -> EnvVar {
    let source = variable.value_from.as_ref().map(|source| EnvVarSource {
        secret_key_ref: source.secret_key_ref.as_ref().map(|reference| SecretKeySelector {
            name: reference.name.clone(),
            key: reference.key.clone(),
            optional: None,
        }),
        config_map_key_ref: source.config_map_key_ref.as_ref().map(|reference| ConfigMapKeySelector {
            name: reference.name.clone(),
            key: reference.key.clone(),
            optional: None,
        }),
        ..EnvVarSource::default()
    });
    EnvVar { name: variable.name.clone(), value: variable.value.clone(), value_from: source }
}

fn mounts(job: &ValidatedJob) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount(CONFIG_VOLUME, CONFIG_DIR, true),
        mount(STATE_VOLUME, STATE_DIR, false),
        mount(TMP_VOLUME, "/tmp", false),
    ];
    if job.definition.kafka_secret.is_some() {
        mounts.push(mount(KAFKA_VOLUME, KAFKA_SECRET_DIR, true));
    }
    mounts
}

fn volumes(job: &ValidatedJob) -> Vec<Volume> {
    let empty = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mut volumes = vec![
        Volume {
            name: CONFIG_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map_name(&job.name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        empty(TMP_VOLUME),
    ];
    if job.definition.template.volume_size.is_none() {
        volumes.push(empty(STATE_VOLUME));
    }
    if let Some(secret) = &job.definition.kafka_secret {
        volumes.push(Volume {
            name: KAFKA_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.clone()),
                // Readable by the process' group, which the kubelet sets, and by nobody else.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn spread(job: &ValidatedJob) -> Vec<TopologySpreadConstraint> {
    let given = &job.definition.template.topology_spread_constraints;
    if !given.is_empty() {
        return given.clone();
    }
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(job)),
        ..TopologySpreadConstraint::default()
    }]
}

fn not_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
