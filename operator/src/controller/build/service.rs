//! The headless Service: names for the pods. It balances nothing.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{CONTROL, HEALTH};
use super::{metadata, selector_labels};
use crate::controller::validate::ValidatedJob;

/// Builds the Service.
pub(super) fn build(job: &ValidatedJob) -> Service {
    let port = |name: &str, number: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(job, &job.name),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(selector_labels(job)),
            ports: Some(vec![port(HEALTH, job_api::HEALTH_PORT), port(CONTROL, job_api::CONTROL_PORT)]),
            // Pods find each other while they start.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
