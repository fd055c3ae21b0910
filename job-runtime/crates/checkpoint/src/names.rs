//! Names that a job has outside its processes, for ever: each is built here and nowhere else.
//!
//! All come from the job's uid, so that no two jobs meet and a renamed job keeps its own.

use dataflow::graph::OperatorUid;

/// `transactional.id` of a pod: one per pod ordinal, never per partition and never random, so that a restarted pod fences its former self.
pub fn transactional_id(job_uid: &str, ordinal: u16) -> String {
    format!("millstream-{job_uid}-{ordinal}")
}

/// Topic of the state changes: one partition per shard.
pub fn changelog_topic(job_uid: &str) -> String {
    format!("millstream-{job_uid}-changelog")
}

/// Topic of the rows that pods send to each other for one exchange: one partition per shard.
pub fn shuffle_topic(job_uid: &str, exchange: OperatorUid) -> String {
    format!("millstream-{job_uid}-shuffle-{exchange}")
}

/// Topic of the assignments: one partition.
pub fn control_topic(job_uid: &str) -> String {
    format!("millstream-{job_uid}-control")
}

/// Consumer group that carries the committed offsets, unless the table names one.
pub fn consumer_group(job_uid: &str) -> String {
    format!("millstream-{job_uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_they_are() {
        assert_eq!(transactional_id("u", 3), "millstream-u-3");
        assert_eq!(changelog_topic("u"), "millstream-u-changelog");
        assert_eq!(shuffle_topic("u", OperatorUid(0xabcd)), "millstream-u-shuffle-0000abcd");
        assert_eq!(control_topic("u"), "millstream-u-control");
        assert_eq!(consumer_group("u"), "millstream-u");
    }
}
