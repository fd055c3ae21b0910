//! Who may reach a job's pods: anyone in the cluster their health and metrics, only the operator their control port.
//!
//! What the pods may reach is not restricted. A policy can only name addresses and ports, and neither those of the brokers that a Kafka
//! cluster advertises nor those of a bucket are known here; a guess would cut jobs off. Pods hold no API token, so the API server is of
//! no use to them.

use std::collections::BTreeMap;

use crds::names;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::controller::validate::ValidatedJob;

/// Label that Kubernetes itself puts on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Builds the NetworkPolicy.
pub(super) fn build(job: &ValidatedJob, operator_namespace: &str) -> NetworkPolicy {
    let anyone =
        NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(match_label(NAMESPACE_NAME, operator_namespace)),
        pod_selector: Some(match_label(names::LABEL_COMPONENT, names::COMPONENT_OPERATOR)),
        ip_block: None,
    };
    NetworkPolicy {
        metadata: metadata(job, &job.name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(job)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![rule(anyone, job_api::HEALTH_PORT), rule(operator, job_api::CONTROL_PORT)]),
            egress: None,
        }),
    }
}

fn rule(peer: NetworkPolicyPeer, port: u16) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: Some(vec![peer]),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(i32::from(port))),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
    }
}

fn match_label(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])), match_expressions: None }
}
