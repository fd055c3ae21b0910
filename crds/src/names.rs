//! Names that others rely on: group, labels, annotations, finalizer, field manager, condition types and reasons.
//!
//! It does not build objects.

use std::fmt;

/// API group of all our kinds.
pub const GROUP: &str = "millstream.io";

/// Finalizer of a StreamJob: its pods are gone before the object goes.
pub const FINALIZER: &str = "millstream.io/pods-gone";

/// The one field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "millstream-operator";

/// Name of the operator as a reporter of events and as `app.kubernetes.io/managed-by`.
pub const CONTROLLER: &str = "millstream-operator";

/// `app.kubernetes.io/name` of a job's objects.
pub const APP_NAME: &str = "millstream";

/// `app.kubernetes.io/component` of a job's objects.
pub const COMPONENT_JOB: &str = "job";

/// `app.kubernetes.io/component` of the operator's own pods; a job's NetworkPolicy lets only these reach the control port.
pub const COMPONENT_OPERATOR: &str = "operator";

/// Recommended label: name of the application.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Recommended label: which instance of the application.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Recommended label: the part of the architecture.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Recommended label: the larger whole.
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// Recommended label: who manages the object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Our label: the StreamJob that an object belongs to.
pub const LABEL_JOB: &str = "millstream.io/job";

/// Annotation of the pod template: revision of the spec that the pod runs.
pub const ANNOTATION_REVISION: &str = "millstream.io/revision";

/// Longest name of a StreamJob: leaves room for the suffixes that Kubernetes adds to a StatefulSet's pods and revisions.
pub const JOB_NAME_MAX: usize = 45;

/// Types of conditions in a StreamJob's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The job is as its spec asks: running and ready, suspended with no pod left, or finished.
    Ready,
    /// The operator is at work and expects to get there by itself.
    Reconciling,
    /// Something stands in the way that the operator cannot remove; the reason names it.
    Stalled,
}

impl ConditionType {
    /// All types, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Reconciling, Self::Stalled];

    /// The type as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Reasons of conditions, of `status.lastError` and of events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name),+
        }

        impl Reason {
            /// Every reason with what it means, for the reference.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, concat!($($doc),+))),+];

            /// The reason as it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),+
                }
            }
        }
    };
}

reasons! {
    /// Pods are being created, replaced or are starting.
    Deploying,
    /// The pods run this revision and are ready.
    Running,
    /// Pods are being ended because `spec.state` is `Suspended`.
    Suspending,
    /// `spec.state` is `Suspended` and no pod is left.
    Suspended,
    /// Bounded input came to its end, the last commit is made, no pod is left.
    Finished,
    /// The last commit is made; pods are being ended.
    Finishing,
    /// The object is being deleted.
    Deleting,
    /// Nothing stands in the way.
    NotStalled,
    /// The object is as the operator wants it.
    Settled,
    /// The job's text is wrong: only an edit helps. The pods are ended.
    InvalidJob,
    /// A connector cannot start: no broker, no topic, no right, no file.
    ConnectorFailed,
    /// A record could not be processed and the table's option is `fail`.
    RecordFailed,
    /// The state directory belongs to another job or cannot be read.
    StateFailed,
    /// A commit was refused or its outcome is unknown.
    CommitFailed,
    /// Another process of the job took over.
    Fenced,
    /// A bug of ours.
    Internal,
    /// A pod ended without last words, again and again.
    CrashLoop,
    /// The kernel ended a pod that used more memory than its limit.
    OutOfMemory,
    /// The image cannot be pulled.
    ImagePullFailed,
    /// A container cannot be created, as when a Secret or ConfigMap that it names does not exist.
    ContainerConfigFailed,
    /// No node can take the pod.
    Unschedulable,
    /// The API server refuses the pods, as by a quota or the namespace's pod security.
    PodsRefused,
    /// The StreamCluster that `spec.clusterRef` names does not exist.
    ClusterNotFound,
    /// The ConfigMap or the key that `spec.sqlFrom` names does not exist.
    SqlNotFound,
    /// The spec cannot be carried out; the message says which field.
    InvalidSpec,
    /// An object that the job needs to create exists and belongs to someone else.
    NameTaken,
    /// The API server refuses an object of the job.
    ApplyRefused,
    /// What was waited for did not come in time; the operator keeps trying.
    DeadlineExceeded,
    /// The Checkpoint that `spec.restoreFrom` names does not exist.
    CheckpointNotFound,
    /// The Checkpoint that `spec.restoreFrom` names is not complete.
    CheckpointNotReady,
    /// Work is being distributed over another number of pods.
    Rescaling,
    /// The StreamJob of a Checkpoint does not exist, or is not the one that the savepoint was ordered from.
    JobNotFound,
    /// The StreamJob of a Checkpoint has no pods and will have none without an edit.
    JobNotRunning,
    /// The StreamJob of a Checkpoint has no pod yet that takes orders.
    WaitingForJob,
    /// The StreamJob of a Checkpoint has no place for snapshots.
    NoStorage,
    /// The job's pods do not take the order; the message holds their words.
    OrderRefused,
    /// The savepoint is ordered and not complete.
    SavepointRunning,
    /// The savepoint is complete: a job can be started from it.
    Completed,
    /// The savepoint failed: the job went on, and another one can be created.
    SavepointFailed,
    /// An event: the operator ordered the job's work to be distributed over another number of pods.
    AssignmentOrdered,
    /// An event: the spec changed and a new revision is being deployed.
    RevisionChanged,
    /// An event: a pod of an older revision was ended.
    PodReplaced,
    /// An event: the namespace's deadline for ending the pods passed; they are left to the kubelet.
    DeletionDeadlineExceeded,
    /// This version of Millstream does not carry out this kind of object.
    NotSupported,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().to_owned()
    }
}
