//! Shapes of schemas that derive macros cannot say: embedded Kubernetes types without their long descriptions, bounded maps and lists.
//!
//! It does not know our fields.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// Keywords of a schema that hold further schemas by name.
const BY_NAME: [&str; 1] = ["properties"];
/// Keywords of a schema that hold one further schema.
const SINGLE: [&str; 2] = ["items", "additionalProperties"];
/// Keywords of a schema that hold a list of schemas.
const LISTS: [&str; 3] = ["anyOf", "oneOf", "allOf"];

/// The schema of a Kubernetes type without descriptions: they are long, and the Pod's own documentation has them. This is what keeps a
/// resource definition below the size that `kubectl apply` can carry.
pub fn pruned<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut value = T::json_schema(generator).to_value();
    strip(&mut value);
    Schema::try_from(value).expect("a schema without descriptions is a schema")
}

/// [`pruned`], at most `N` entries, each key and value bounded as Kubernetes bounds labels and annotations.
pub fn string_map<const N: usize>(_: &mut SchemaGenerator) -> Schema {
    from_json(json!({
        "type": "object",
        "maxProperties": N,
        "additionalProperties": {"type": "string", "maxLength": 4096}
    }))
}

/// A list of a Kubernetes type, [`pruned`], of at most `N` entries.
pub fn pruned_list<T: JsonSchema, const N: usize>(generator: &mut SchemaGenerator) -> Schema {
    let items = pruned::<T>(generator).to_value();
    from_json(json!({"type": "array", "maxItems": N, "items": items}))
}

/// Conditions: one per type, each bounded.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let items = pruned::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>(generator).to_value();
    from_json(json!({
        "type": "array",
        "maxItems": 16,
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"]
    }))
}

/// A requirement of CPU, memory or other resources, as in a container.
pub fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = json!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "pattern": "^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$"
        }
    });
    from_json(json!({
        "type": "object",
        "properties": {"requests": quantities, "limits": quantities}
    }))
}

/// A schema from a literal.
pub fn from_json(value: Value) -> Schema {
    Schema::try_from(value).expect("a literal object is a schema")
}

fn strip(value: &mut Value) {
    let Value::Object(schema) = value else { return };
    schema.remove("description");
    schema.remove("title");
    for_each_child(schema, strip);
}

/// Calls `visit` on every direct subschema. Property names are data, not keywords, so a property called `description` survives.
fn for_each_child(schema: &mut Map<String, Value>, visit: fn(&mut Value)) {
    for keyword in BY_NAME {
        if let Some(Value::Object(children)) = schema.get_mut(keyword) {
            children.values_mut().for_each(visit);
        }
    }
    for keyword in SINGLE {
        if let Some(child) = schema.get_mut(keyword) {
            visit(child);
        }
    }
    for keyword in LISTS {
        if let Some(Value::Array(children)) = schema.get_mut(keyword) {
            children.iter_mut().for_each(visit);
        }
    }
}

/// Formats of numbers that Kubernetes knows. It warns at others, and bounds say the same.
const NUMBER_FORMATS: [&str; 4] = ["int32", "int64", "float", "double"];

/// The definition without formats of numbers that Kubernetes does not know, such as `uint16`.
pub fn without_foreign_formats(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(&definition).expect("a definition is JSON");
    for version in value["spec"]["versions"].as_array_mut().into_iter().flatten() {
        remove_foreign_formats(&mut version["schema"]["openAPIV3Schema"]);
    }
    serde_json::from_value(value).expect("a definition without formats is a definition")
}

fn remove_foreign_formats(value: &mut Value) {
    let Value::Object(schema) = value else { return };
    let is_number = matches!(schema.get("type").and_then(Value::as_str), Some("integer" | "number"));
    let is_foreign =
        schema.get("format").and_then(Value::as_str).is_some_and(|format| !NUMBER_FORMATS.contains(&format));
    if is_number && is_foreign {
        schema.remove("format");
    }
    for_each_child(schema, remove_foreign_formats);
}
