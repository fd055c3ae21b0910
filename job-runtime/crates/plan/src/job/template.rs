//! The fields of `spec.template`. The operator acts on them; here their names are checked, so that a laptop refuses what Kubernetes would.

use super::fields::Fields;
use super::yaml::Node;
use crate::diagnostic::Diagnostic;

const TEMPLATE: &[&str] = &[
    "serviceAccountName",
    "labels",
    "annotations",
    "resources",
    "nodeSelector",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "priorityClassName",
    "terminationGracePeriodSeconds",
    "env",
    "imagePullSecrets",
    "image",
    "volumeSize",
    "storageClassName",
];

pub(super) fn check(node: &Node, problems: &mut Vec<Diagnostic>) {
    let Some(fields) = Fields::new(node, "`template`", TEMPLATE, problems) else { return };
    for name in ["serviceAccountName", "priorityClassName", "image", "storageClassName"] {
        fields.string(name, problems);
    }
    for name in ["labels", "annotations", "nodeSelector"] {
        fields.string_map(name, problems);
    }
    if let Some(resources) = fields.get("resources") {
        Fields::new(resources, "`resources`", &["requests", "limits", "claims"], problems);
    }
}
