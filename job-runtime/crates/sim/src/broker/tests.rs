//! What real Kafka does, behaviour by behaviour.

use super::*;
use crate::message::{Fetched, Isolation, ProducerEpoch, Record, Transactional};

const COMMITTED: Isolation = Isolation::ReadCommitted;
const UNCOMMITTED: Isolation = Isolation::ReadUncommitted;

struct Rig {
    broker: Broker,
    now: u64,
}

impl Rig {
    fn new() -> Self {
        Self::of(Protocol::One)
    }

    fn of(protocol: Protocol) -> Self {
        let mut rig = Self { broker: Broker::new(protocol), now: 0 };
        assert_eq!(rig.ask(Request::CreateTopic { topic: "t".into(), partitions: 2 }), Ok(Answer::Done));
        rig
    }

    fn ask(&mut self, request: Request) -> Response {
        self.broker.handle(self.now, &request)
    }

    fn init(&mut self, id: &str) -> Response {
        self.ask(Request::InitProducerId { transactional_id: id.into(), timeout_ms: 1000 })
    }

    fn producer(&mut self, id: &str) -> Transactional {
        loop {
            match self.init(id) {
                Ok(Answer::Producer(producer)) => return Transactional { id: id.into(), producer },
                Err(ErrorCode::ConcurrentTransactions) => self.write_markers(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn add(&mut self, by: &Transactional) -> Response {
        self.ask(Request::AddPartitionsToTxn { by: by.clone(), partitions: vec![place(0)] })
    }

    fn produce(&mut self, by: &Transactional, sequence: i32, values: &[u8]) -> Response {
        let records = values.iter().map(|value| record(*value)).collect();
        self.ask(Request::Produce { by: Some(by.clone()), to: place(0), sequence, records })
    }

    fn offsets(&mut self, by: &Transactional, offset: i64) -> Response {
        self.ask(Request::AddOffsetsToTxn { by: by.clone(), group: "g".into() })?;
        self.ask(Request::TxnOffsetCommit { by: by.clone(), group: "g".into(), offsets: vec![(place(1), offset)] })
    }

    fn end(&mut self, by: &Transactional, commit: bool) -> Response {
        self.ask(Request::EndTxn { by: by.clone(), commit })
    }

    fn write_markers(&mut self) {
        for marker in self.broker.markers() {
            self.broker.write_marker(&marker);
        }
    }

    fn committed(&mut self, require_stable: bool) -> Result<i64, ErrorCode> {
        match self.ask(Request::OffsetFetch { group: "g".into(), partitions: vec![place(1)], require_stable })? {
            Answer::Offsets(offsets) => Ok(offsets[0]),
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, isolation: Isolation) -> Fetched {
        match self.ask(Request::Fetch { from: place(0), offset: 0, most: 100, isolation }) {
            Ok(Answer::Fetched(fetched)) => fetched,
            other => panic!("{other:?}"),
        }
    }

    fn values(&mut self, isolation: Isolation) -> Vec<u8> {
        self.fetch(isolation).records.iter().map(|(_, record)| record.value.as_ref().unwrap()[0]).collect()
    }
}

fn place(partition: i32) -> Place {
    ("t".into(), partition)
}

fn record(value: u8) -> Record {
    Record { value: Some(vec![value]), timestamp_ms: 7, headers: vec![("h".into(), vec![value])], key: None }
}

#[test]
fn records_come_back_as_they_were_and_markers_take_offsets() {
    let mut rig = Rig::new();
    let by = rig.producer("p");
    rig.add(&by).unwrap();
    assert_eq!(rig.produce(&by, 0, &[1, 2]), Ok(Answer::Appended(0)));
    rig.end(&by, true).unwrap();
    rig.write_markers();
    let fetched = rig.fetch(COMMITTED);
    assert_eq!(fetched.records, [(0, record(1)), (1, record(2))]);
    assert_eq!((fetched.next_offset, fetched.high_watermark, fetched.last_stable_offset), (3, 3, 3));
}

#[test]
fn an_open_transaction_holds_back_committed_readers_even_of_others() {
    let mut rig = Rig::new();
    let (slow, quick) = (rig.producer("slow"), rig.producer("quick"));
    rig.add(&slow).unwrap();
    rig.produce(&slow, 0, &[1]).unwrap();
    rig.add(&quick).unwrap();
    rig.produce(&quick, 0, &[2]).unwrap();
    rig.end(&quick, true).unwrap();
    rig.write_markers();
    assert_eq!((rig.values(COMMITTED), rig.values(UNCOMMITTED)), (vec![], vec![1, 2]));
    assert_eq!(rig.fetch(COMMITTED).last_stable_offset, 0);
    rig.end(&slow, false).unwrap();
    rig.write_markers();
    assert_eq!(
        (rig.values(COMMITTED), rig.values(UNCOMMITTED)),
        (vec![2], vec![1, 2]),
        "aborted records stay in the log"
    );
}

#[test]
fn a_commit_that_returned_is_durable_and_not_yet_visible() {
    let mut rig = Rig::new();
    let by = rig.producer("p");
    rig.add(&by).unwrap();
    rig.produce(&by, 0, &[1]).unwrap();
    rig.offsets(&by, 5).unwrap();
    assert_eq!(rig.end(&by, true), Ok(Answer::Done));
    assert_eq!(rig.values(COMMITTED), [] as [u8; 0]);
    assert_eq!((rig.committed(false), rig.committed(true)), (Ok(-1), Err(ErrorCode::UnstableOffsetCommit)));
    assert_eq!(rig.add(&by), Err(ErrorCode::ConcurrentTransactions), "the next transaction waits for the markers");
    assert_eq!(rig.end(&by, true), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(rig.init("p"), Err(ErrorCode::ConcurrentTransactions));
    rig.write_markers();
    assert_eq!((rig.values(COMMITTED), rig.committed(true)), (vec![1], Ok(5)));
    assert_eq!(rig.end(&by, true), Ok(Answer::Done), "asked again");
    assert_eq!(rig.end(&by, false), Err(ErrorCode::InvalidTxnState));
}

#[test]
fn a_new_epoch_aborts_what_is_open_and_refuses_the_old_one_everywhere() {
    let mut rig = Rig::new();
    let old = rig.producer("p");
    rig.add(&old).unwrap();
    rig.produce(&old, 0, &[1]).unwrap();
    rig.offsets(&old, 5).unwrap();
    assert_eq!(rig.init("p"), Err(ErrorCode::ConcurrentTransactions), "it ends the open transaction first");
    let new = rig.producer("p");
    assert!(new.producer.epoch > old.producer.epoch && new.producer.id == old.producer.id);
    assert_eq!((rig.values(COMMITTED), rig.committed(true)), (vec![], Ok(-1)));
    assert_eq!(rig.produce(&old, 1, &[2]), Err(ErrorCode::InvalidProducerEpoch));
    assert_eq!(rig.add(&old), Err(ErrorCode::ProducerFenced));
    assert_eq!(rig.offsets(&old, 6), Err(ErrorCode::ProducerFenced));
    assert_eq!(rig.end(&old, true), Err(ErrorCode::ProducerFenced));
    rig.add(&new).unwrap();
    assert_eq!(rig.produce(&new, 0, &[3]), Ok(Answer::Appended(2)), "sequence numbers begin anew");
}

#[test]
fn a_transaction_that_is_too_old_is_aborted_and_its_producer_fenced() {
    let mut rig = Rig::new();
    let by = rig.producer("p");
    rig.add(&by).unwrap();
    rig.produce(&by, 0, &[1]).unwrap();
    rig.now = 999;
    rig.broker.expire(rig.now);
    assert_eq!(rig.broker.markers(), []);
    rig.now = 1000;
    rig.broker.expire(rig.now);
    assert_eq!(rig.end(&by, true), Err(ErrorCode::ProducerFenced));
    rig.write_markers();
    let fetched = rig.fetch(COMMITTED);
    assert_eq!((fetched.records.len(), fetched.last_stable_offset, rig.broker.unfinished()), (0, 2, 0));
}

#[test]
fn a_batch_that_comes_again_is_known_and_a_gap_is_refused() {
    let mut rig = Rig::new();
    let by = rig.producer("p");
    rig.add(&by).unwrap();
    assert_eq!(rig.produce(&by, 0, &[1, 2]), Ok(Answer::Appended(0)));
    assert_eq!(rig.produce(&by, 0, &[1, 2]), Ok(Answer::Appended(0)));
    assert_eq!(rig.produce(&by, 3, &[4]), Err(ErrorCode::OutOfOrderSequenceNumber));
    for sequence in 2..9 {
        rig.produce(&by, sequence, &[3]).unwrap();
    }
    assert_eq!(rig.produce(&by, 0, &[1, 2]), Err(ErrorCode::DuplicateSequenceNumber), "too long ago");
    assert_eq!(rig.fetch(UNCOMMITTED).high_watermark, 9);
}

#[test]
fn a_partition_or_group_that_is_not_in_the_transaction_is_refused() {
    let mut rig = Rig::new();
    let by = rig.producer("p");
    assert_eq!(rig.produce(&by, 0, &[1]), Err(ErrorCode::InvalidTxnState));
    assert_eq!(rig.end(&by, true), Err(ErrorCode::InvalidTxnState), "nothing is open");
    rig.add(&by).unwrap();
    let send = Request::TxnOffsetCommit { by: by.clone(), group: "g".into(), offsets: vec![(place(1), 1)] };
    assert_eq!(rig.ask(send), Err(ErrorCode::InvalidTxnState));
    let other = Transactional { id: "p".into(), producer: ProducerEpoch { id: 77, epoch: 0 } };
    assert_eq!(rig.add(&other), Err(ErrorCode::InvalidProducerIdMapping));
}

#[test]
fn of_two_pending_offsets_the_one_sent_later_stands() {
    let mut rig = Rig::new();
    let (first, second) = (rig.producer("a"), rig.producer("b"));
    rig.offsets(&first, 5).unwrap();
    rig.offsets(&second, 6).unwrap();
    rig.end(&first, true).unwrap();
    rig.end(&second, true).unwrap();
    let markers = rig.broker.markers();
    markers.iter().rev().for_each(|marker| rig.broker.write_marker(marker));
    assert_eq!(rig.committed(true), Ok(6));
}

#[test]
fn offsets_can_be_committed_without_a_transaction_and_deleted_records_are_gone() {
    let mut rig = Rig::new();
    rig.ask(Request::OffsetCommit { group: "g".into(), offsets: vec![(place(1), 3)] }).unwrap();
    assert_eq!(rig.committed(true), Ok(3));
    let plain = Request::Produce { by: None, to: place(0), sequence: 0, records: vec![record(1), record(2)] };
    assert_eq!(rig.ask(plain), Ok(Answer::Appended(0)));
    rig.ask(Request::DeleteRecords { from: place(0), before: 1 }).unwrap();
    let fetch = |offset| Request::Fetch { from: place(0), offset, most: 9, isolation: COMMITTED };
    assert_eq!(rig.ask(fetch(0)), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(rig.ask(fetch(3)), Err(ErrorCode::OffsetOutOfRange));
    let Ok(Answer::Fetched(fetched)) = rig.ask(fetch(1)) else { panic!() };
    assert_eq!((fetched.records.len(), fetched.log_start), (1, 1));
    assert_eq!(rig.ask(Request::ListOffsets { of: place(0) }), Ok(Answer::Edges(1, 2)));
    let unknown = Request::Fetch { from: ("no".into(), 0), offset: 0, most: 9, isolation: COMMITTED };
    assert_eq!(rig.ask(unknown), Err(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(rig.ask(Request::CreateTopic { topic: "t".into(), partitions: 1 }), Err(ErrorCode::TopicAlreadyExists));
}

#[test]
fn a_request_of_the_present_epoch_that_comes_late_ends_the_next_transaction() {
    // What transaction protocol 2 closes: within one epoch, transaction 1's request cannot be told from transaction 2's.
    let mut rig = Rig::new();
    let by = rig.producer("p");
    rig.add(&by).unwrap();
    rig.produce(&by, 0, &[1]).unwrap();
    rig.end(&by, true).unwrap();
    rig.write_markers();
    rig.add(&by).unwrap();
    rig.produce(&by, 1, &[2]).unwrap();
    assert_eq!(rig.end(&by, true), Ok(Answer::Done), "a copy of the first");
    rig.write_markers();
    assert_eq!(rig.values(COMMITTED), [1, 2]);
}

/// The producer with the epoch that an answer gives it.
fn with(by: &Transactional, answer: Response) -> Transactional {
    match answer {
        Ok(Answer::Producer(producer)) => Transactional { id: by.id.clone(), producer },
        other => panic!("{other:?}"),
    }
}

#[test]
fn in_protocol_2_a_request_of_an_earlier_transaction_is_refused() {
    let mut rig = Rig::of(Protocol::Two);
    let first = rig.producer("p");
    rig.produce(&first, 0, &[1]).expect("it takes part by being written to");
    let answer = rig.end(&first, true);
    let second = with(&first, answer);
    assert_eq!((second.producer.id, second.producer.epoch), (first.producer.id, first.producer.epoch + 1));
    rig.write_markers();
    assert_eq!(rig.produce(&second, 0, &[2]), Ok(Answer::Appended(2)), "sequence numbers begin anew");
    assert_eq!(rig.end(&first, true), Err(ErrorCode::ProducerFenced), "a copy of the first");
    assert_eq!(rig.produce(&first, 1, &[3]), Err(ErrorCode::InvalidProducerEpoch));
    let send = |by: &Transactional| Request::TxnOffsetCommit {
        by: by.clone(),
        group: "g".into(),
        offsets: vec![(place(1), 9)],
    };
    assert_eq!(rig.ask(send(&first)), Err(ErrorCode::ProducerFenced));
    assert_eq!(rig.ask(send(&second)), Ok(Answer::Done));
    assert_eq!(rig.values(COMMITTED), [1], "the second is still open");
    rig.end(&second, true).unwrap();
    rig.write_markers();
    assert_eq!((rig.values(COMMITTED), rig.committed(true)), (vec![1, 2], Ok(9)));
}

#[test]
fn in_protocol_2_the_end_may_be_asked_for_again_until_the_next_transaction_begins() {
    let mut rig = Rig::of(Protocol::Two);
    let first = rig.producer("p");
    rig.produce(&first, 0, &[1]).unwrap();
    let answer = rig.end(&first, true);
    let second = with(&first, answer);
    assert_eq!(rig.end(&first, true), Err(ErrorCode::ConcurrentTransactions), "its markers are to come");
    assert_eq!(rig.produce(&second, 0, &[2]), Err(ErrorCode::ConcurrentTransactions));
    rig.write_markers();
    assert_eq!(rig.end(&first, true), Ok(Answer::Producer(second.producer)), "the answer was lost");
    assert_eq!(rig.end(&first, false), Err(ErrorCode::InvalidTxnState), "it is committed");
    assert_eq!(rig.end(&second, true), Err(ErrorCode::InvalidTxnState), "nothing is open");
    let new = rig.producer("p");
    assert!(new.producer.epoch > second.producer.epoch);
    assert_eq!(rig.end(&first, true), Err(ErrorCode::ProducerFenced), "another process has the id");
    assert_eq!(rig.end(&second, true), Err(ErrorCode::ProducerFenced));
}

#[test]
fn in_protocol_2_a_transaction_that_is_too_old_is_not_ended_by_its_producer() {
    let mut rig = Rig::of(Protocol::Two);
    let by = rig.producer("p");
    rig.produce(&by, 0, &[1]).unwrap();
    rig.now = 1000;
    rig.broker.expire(rig.now);
    assert_eq!(rig.end(&by, false), Err(ErrorCode::ProducerFenced));
    rig.write_markers();
    assert_eq!(rig.end(&by, false), Err(ErrorCode::ProducerFenced), "it would get an epoch that is not its own");
    assert_eq!(rig.values(COMMITTED), [] as [u8; 0]);
}
