//! Promises about what is installed: the plain manifests, the samples and the chart's numbers. Needs no cluster, and no Helm but for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

use crds::v1alpha1::{StreamCluster, StreamJob};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_owned()
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a YAML file; a template's comments alone are none.
fn documents(text: &str) -> Vec<Value> {
    let documents =
        text.split("\n---\n").map(|part| serde_saphyr::from_str::<Value>(part).expect("a manifest is YAML"));
    documents.filter(|document| !document.is_null()).collect()
}

fn installed() -> Vec<Value> {
    documents(&read("manifests/install.yaml"))
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// Reads a document as a resource of ours and writes it again: what is lost on the way is a field that does not exist.
fn is_wholly_understood<T: Serialize + DeserializeOwned>(name: &str, document: &Value) {
    let read: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let back = serde_json::to_value(read).expect("a resource is JSON");
    assert_eq!(&back, document, "{name} has a field that the resource does not know");
}

#[test]
fn every_sample_is_wholly_understood() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("manifests/samples")).expect("there are samples") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for document in documents(&std::fs::read_to_string(&path).expect("a sample is text")) {
            match document["kind"].as_str() {
                Some("StreamJob") => is_wholly_understood::<StreamJob>(&name, &document),
                Some("StreamCluster") => is_wholly_understood::<StreamCluster>(&name, &document),
                other => panic!("{name} has the kind {other:?}"),
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} samples were read");
}

#[test]
fn the_operator_may_do_nothing_to_secrets_and_has_no_wildcard() {
    let documents = installed();
    let roles: Vec<&Value> = ["Role", "ClusterRole"].iter().flat_map(|kind| of_kind(&documents, kind)).collect();
    assert!(roles.len() >= 2, "the operator's roles are there");
    let forbidden = ["*", "secrets", "serviceaccounts", "roles", "rolebindings", "clusterroles", "nodes", "pods/exec"];
    for role in roles {
        let rules = role["rules"].as_array().expect("a role has rules");
        for word in rules.iter().flat_map(|rule| ["apiGroups", "resources", "verbs"].map(|part| &rule[part])) {
            let words = word.as_array().expect("a rule has lists");
            let bad: Vec<_> = words.iter().filter(|w| forbidden.iter().any(|f| *w == f)).collect();
            assert!(bad.is_empty(), "{} names {bad:?}", role["metadata"]["name"]);
        }
    }
}

#[test]
fn the_operator_runs_under_restricted_security() {
    let documents = installed();
    let deployments = of_kind(&documents, "Deployment");
    assert_eq!(deployments.len(), 1);
    let pod = &deployments[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().expect("a pod has containers") {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert!(container[probe].is_object(), "the operator has no {probe}");
        }
    }
}

#[test]
fn the_installed_definitions_are_the_generated_ones() {
    let installed = installed();
    let mut names = Vec::new();
    for definition in of_kind(&installed, "CustomResourceDefinition") {
        let name = definition["metadata"]["name"].as_str().expect("a definition has a name");
        let generated: Value = documents(&read(&format!("crds/{name}.yaml"))).remove(0);
        assert_eq!(
            definition["spec"], generated["spec"],
            "{name} in manifests/install.yaml is stale: run manifests/render"
        );
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        names.push(name.to_owned());
    }
    names.sort();
    assert_eq!(names, ["checkpoints.millstream.io", "streamclusters.millstream.io", "streamjobs.millstream.io"]);
}

#[test]
fn the_chart_has_the_version_of_the_workspace() {
    let chart: Value = serde_saphyr::from_str(&read("charts/millstream/Chart.yaml")).expect("Chart.yaml is YAML");
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn no_link_of_the_documentation_leads_nowhere() {
    let output =
        Command::new(root().join("docs/check-links")).output().expect("docs/check-links runs (it needs Python 3)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs the lab"]
fn the_plain_manifests_are_the_rendered_chart() {
    let output = Command::new(root().join("manifests/render")).arg("--check").output().expect("manifests/render runs");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
