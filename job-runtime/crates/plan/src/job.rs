//! The StreamJob file: read with every problem at its place.
//!
//! Owns the list of fields (the CRD's, see `crds`) and the way from a place in the SQL to a place in the file. Reads no files.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

mod checkpoint;
pub mod duration;
mod fields;
mod memory;
mod restore;
mod template;
mod yaml;

use crate::Span;
use crate::diagnostic::{Diagnostic, Diagnostics};
use fields::Fields;
use yaml::{Node, Value};

pub use checkpoint::Checkpointing;

/// The one version of the file.
pub const API_VERSION: &str = "millstream.io/v1alpha1";
/// The kind.
pub const KIND: &str = "StreamJob";

/// A StreamJob file that is well-formed. Its SQL is not looked at yet.
#[derive(Clone, Debug)]
pub struct JobFile {
    /// The file's name as the user gave it.
    pub file_name: String,
    /// The file's text.
    pub text: Arc<str>,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: Option<String>,
    /// `metadata.uid`, given by Kubernetes.
    pub uid: Option<String>,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `spec.clusterRef.name`
    pub cluster: Option<String>,
    /// `spec.sql` or `spec.sqlFrom`
    pub sql: SqlSource,
    /// `spec.state`
    pub state: DesiredState,
    /// `spec.replicas`
    pub replicas: u16,
    /// Where `spec.replicas` stands, if it is written.
    pub replicas_span: Option<Span>,
    /// `spec.shards`
    pub shards: u16,
    /// `spec.commitInterval`
    pub commit_interval: Duration,
    /// `spec.workers`: threads of a pod; `None` for one per core.
    pub workers: Option<u16>,
    /// `spec.checkpoint`
    pub checkpoint: Checkpointing,
    /// `spec.stateMemory`: memory of a pod for keyed state, in bytes.
    pub state_memory: u64,
    /// `spec.restoreFrom.location`: where a job without state of its own gets it from.
    pub restore_from: Option<String>,
}

impl JobFile {
    /// Problems of this file, ready to be shown: the runtime's way to blame an option.
    pub fn diagnostics(&self, items: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics::new(self.file_name.clone(), self.text.clone(), items)
    }
}

/// `spec.state`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DesiredState {
    /// The job runs.
    #[default]
    Running,
    /// The job stands still; its state is kept.
    Suspended,
}

/// Where the SQL is.
#[derive(Clone, Debug)]
pub enum SqlSource {
    /// `spec.sql`
    Inline(SqlText),
    /// `spec.sqlFrom.configMapKeyRef`
    ConfigMap {
        /// Name of the ConfigMap.
        name: String,
        /// Key in it.
        key: String,
        /// Where it is written.
        span: Span,
    },
}

/// The SQL with the way back to the file's text.
#[derive(Clone, Debug)]
pub struct SqlText {
    /// The SQL.
    pub text: String,
    /// For every byte of `text`, and its end: the byte of the file.
    places: Vec<u32>,
}

impl SqlText {
    /// SQL that is a file of its own: places are the same.
    pub fn whole_file(text: impl Into<String>) -> Self {
        let text = text.into();
        let places = (0..=text.len() as u32).collect();
        Self { text, places }
    }

    /// Finds the scalar's characters again in the file from `start` on. Block scalars lose their indentation, folded ones their line
    /// breaks, quoted ones their escapes: characters that the SQL does not have are passed over.
    fn align(text: String, file: &str, start: usize) -> Self {
        let mut places = Vec::with_capacity(text.len() + 1);
        let mut at = scalar_start(file, start);
        for c in text.chars() {
            if !c.is_whitespace() {
                at += file[at..].find(c).unwrap_or(0);
            } else if c == '\n' {
                at += file[at..].find('\n').unwrap_or(0);
            }
            places.extend(std::iter::repeat_n(at as u32, c.len_utf8()));
            at = (at + file[at..].chars().next().map_or(0, char::len_utf8)).min(file.len());
        }
        places.push(at as u32);
        Self { text, places }
    }

    /// The place in the file of a range of the SQL.
    pub fn file_span(&self, range: std::ops::Range<usize>) -> Span {
        let place = |i: usize| self.places[i.min(self.text.len())] as usize;
        let start = place(range.start);
        // The end is taken from the last byte inside, so that a range never grows over an indentation.
        let end = if range.end > range.start { place(range.end - 1) + 1 } else { start };
        Span { start, end: end.max(start) }
    }
}

/// Where a scalar's content begins: behind the header line of a block scalar, else at the scalar.
fn scalar_start(file: &str, start: usize) -> usize {
    let rest = &file[start..];
    if rest.starts_with(['|', '>']) { start + rest.find('\n').map_or(rest.len(), |n| n + 1) } else { start }
}

/// Reads a StreamJob file.
///
/// # Errors
/// All problems that could be found, each at its place.
pub fn read(file_name: &str, text: &str) -> Result<JobFile, Diagnostics> {
    let shared: Arc<str> = Arc::from(text);
    let mut problems = Vec::new();
    let job = match yaml::parse(text) {
        Ok(root) => read_root(file_name, &shared, &root, &mut problems),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    match job {
        Some(job) if problems.is_empty() => Ok(job),
        _ => Err(Diagnostics::new(file_name, shared, problems)),
    }
}

const SHAPE: &str = "a job file begins with:\n  apiVersion: millstream.io/v1alpha1\n  kind: StreamJob\n  metadata:\n    name: my-job\n  spec:\n    sql: |\n      CREATE TABLE ...";

fn read_root(file_name: &str, text: &Arc<str>, root: &Node, problems: &mut Vec<Diagnostic>) -> Option<JobFile> {
    if !matches!(root.value, Value::Mapping(_)) {
        problems.push(
            Diagnostic::at(root.span, format!("a StreamJob is a mapping, this is {}", root.value.kind())).help(SHAPE),
        );
        return None;
    }
    let top = Fields::new(root, "the job file", &["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let kind = top.string("kind", problems);
    match kind {
        Some((kind, _)) if kind == KIND => {}
        Some((kind, span)) => {
            problems.push(
                Diagnostic::at(span, format!("this is a `{kind}`, not a StreamJob")).help("write `kind: StreamJob`"),
            );
            return None;
        }
        None => {
            if !problems.iter().any(|p| p.message.contains("`kind`")) {
                problems.push(Diagnostic::at(root.span, "`kind` is missing").help(SHAPE));
            }
            return None;
        }
    }
    match top.string("apiVersion", problems) {
        Some((version, _)) if version == API_VERSION => {}
        Some((version, span)) => problems.push(
            Diagnostic::at(span, format!("apiVersion `{version}` is not known"))
                .help(format!("write `apiVersion: {API_VERSION}`")),
        ),
        None => problems.push(
            Diagnostic::at(root.span, "`apiVersion` is missing").help(format!("write `apiVersion: {API_VERSION}`")),
        ),
    }
    let metadata = top.required("metadata", problems).and_then(|node| read_metadata(node, problems));
    let spec = top.required("spec", problems)?;
    let spec = read_spec(spec, text, problems);
    let (metadata, spec) = (metadata?, spec?);
    Some(JobFile {
        file_name: file_name.to_owned(),
        text: text.clone(),
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        labels: metadata.labels,
        cluster: spec.cluster,
        sql: spec.sql,
        state: spec.state,
        replicas: spec.replicas,
        replicas_span: spec.replicas_span,
        shards: spec.shards,
        commit_interval: spec.commit_interval,
        workers: spec.workers,
        checkpoint: spec.checkpoint,
        state_memory: spec.state_memory,
        restore_from: spec.restore_from,
    })
}

struct Metadata {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    labels: BTreeMap<String, String>,
}

/// What a user may write, and what Kubernetes adds to it.
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "ownerReferences",
    "managedFields",
    "generateName",
    "selfLink",
];

fn read_metadata(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<Metadata> {
    let fields = Fields::new(node, "`metadata`", METADATA, problems)?;
    let namespace = fields.string("namespace", problems).map(|(s, _)| s);
    let uid = fields.string("uid", problems).map(|(s, _)| s);
    let labels = fields.string_map("labels", problems);
    fields.string_map("annotations", problems);
    fields.required("name", problems)?;
    let (name, span) = fields.string("name", problems)?;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // As in the resource's definition: pods and volumes are named after the job.
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !starts_well || name.len() > 45 || !name.chars().all(good) || name.ends_with('-') {
        problems.push(
            Diagnostic::at(span, format!("`{name}` cannot be the name of a job")).help(
                "use 1 to 45 lower-case letters, digits and `-`; begin with a letter, end with a letter or digit",
            ),
        );
        return None;
    }
    Some(Metadata { name, namespace, uid, labels })
}

struct Spec {
    cluster: Option<String>,
    sql: SqlSource,
    state: DesiredState,
    replicas: u16,
    replicas_span: Option<Span>,
    shards: u16,
    commit_interval: Duration,
    workers: Option<u16>,
    checkpoint: Checkpointing,
    state_memory: u64,
    restore_from: Option<String>,
}

const SPEC: &[&str] = &[
    "clusterRef",
    "sql",
    "sqlFrom",
    "state",
    "replicas",
    "shards",
    "commitInterval",
    "checkpoint",
    "stateMemory",
    "workers",
    "restoreFrom",
    "template",
];
/// What `commitInterval` may be.
const COMMIT_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// What it is if it is not written.
const DEFAULT_COMMIT_INTERVAL: Duration = Duration::from_millis(50);

fn read_spec(node: &Node, file: &str, problems: &mut Vec<Diagnostic>) -> Option<Spec> {
    let fields = Fields::new(node, "`spec`", SPEC, problems)?;
    let cluster = match fields.get("clusterRef") {
        Some(node) => Fields::new(node, "`clusterRef`", &["name"], problems).and_then(|f| {
            f.required("name", problems)?;
            f.string("name", problems).map(|(s, _)| s)
        }),
        None => None,
    };
    let state = match fields.string("state", problems) {
        None => DesiredState::Running,
        Some((state, span)) => match state.as_str() {
            "Running" => DesiredState::Running,
            "Suspended" => DesiredState::Suspended,
            other => {
                problems.push(
                    Diagnostic::at(span, format!("`state` cannot be `{other}`")).help("write `Running` or `Suspended`"),
                );
                DesiredState::Running
            }
        },
    };
    let replicas = fields.integer("replicas", 1..=4096, problems);
    let shards = fields.integer("shards", 1..=4096, problems);
    let count = shards.as_ref().map_or(16, |(count, _)| *count);
    if let Some((pods, span)) = replicas.as_ref().filter(|(pods, _)| *pods > count) {
        let message = format!("`replicas` is {pods}, and the job has {count} shards: a pod needs a shard");
        problems.push(Diagnostic::at(*span, message).help(format!("write {count} or less, or more `shards`")));
    }
    let workers = fields.integer("workers", 1..=1024, problems);
    let range = (COMMIT_INTERVAL, "use 10ms to 60s; the default is 50ms");
    let commit_interval =
        checkpoint::duration(&fields, "commitInterval", range, problems).unwrap_or(DEFAULT_COMMIT_INTERVAL);
    let state_memory = memory::read(&fields, "stateMemory", problems).unwrap_or(memory::DEFAULT);
    let checkpoint =
        fields.get("checkpoint").map_or_else(Checkpointing::default, |node| checkpoint::read(node, problems));
    let restore_from = fields.get("restoreFrom").and_then(|node| restore::read(node, problems));
    if let Some(node) = fields.get("template") {
        template::check(node, problems);
    }
    let sql = read_sql(&fields, node, file, problems)?;
    Some(Spec {
        cluster,
        sql,
        state,
        replicas: replicas.map_or(1, |(n, _)| n),
        replicas_span: replicas.map(|(_, span)| span),
        shards: count,
        commit_interval,
        workers: workers.map(|(n, _)| n),
        checkpoint,
        state_memory,
        restore_from,
    })
}

fn read_sql(fields: &Fields<'_>, spec: &Node, file: &str, problems: &mut Vec<Diagnostic>) -> Option<SqlSource> {
    match (fields.get("sql"), fields.get("sqlFrom")) {
        (Some(node), None) => {
            let (sql, _) = fields.string("sql", problems)?;
            if sql.trim().is_empty() {
                problems.push(Diagnostic::at(node.span, "`sql` is empty").help(SQL_SHAPE));
                return None;
            }
            Some(SqlSource::Inline(SqlText::align(sql, file, node.span.start)))
        }
        (None, Some(node)) => {
            let outer = Fields::new(node, "`sqlFrom`", &["configMapKeyRef"], problems)?;
            let inner = outer.required("configMapKeyRef", problems)?;
            let inner = Fields::new(inner, "`configMapKeyRef`", &["name", "key"], problems)?;
            inner.required("name", problems)?;
            inner.required("key", problems)?;
            let (name, _) = inner.string("name", problems)?;
            let (key, _) = inner.string("key", problems)?;
            Some(SqlSource::ConfigMap { name, key, span: node.span })
        }
        (Some(_), Some(from)) => {
            problems.push(Diagnostic::at(from.span, "`sql` and `sqlFrom` are both given").help("keep one of them"));
            None
        }
        (None, None) => {
            problems.push(Diagnostic::at(spec.span, "the job has no SQL").help(SQL_SHAPE));
            None
        }
    }
}

const SQL_SHAPE: &str =
    "write the statements below `spec`:\n  sql: |\n    CREATE TABLE ...;\n    INSERT INTO ... SELECT ...;";
