//! What a sequence of the protocol's inputs promises, message by message. Does no I/O.

use super::*;
use proptest::prelude::*;

const TRIGGERS: Triggers = Triggers { interval_ms: 50, max_bytes: 1000, max_rows: 100 };
const ONE: CommitId = CommitId(1);
const TWO: CommitId = CommitId(2);

struct Rig {
    machine: CommitProtocol,
    now: u64,
}

impl Rig {
    fn new(workers: usize) -> Self {
        Self { machine: CommitProtocol::new(workers, TRIGGERS, 0), now: 0 }
    }

    fn on(&mut self, input: Input) -> Vec<Command> {
        let mut out = Vec::new();
        self.machine.on(input, self.now, &mut out).unwrap();
        out
    }

    fn at(&mut self, now: u64) -> Vec<Command> {
        self.now = now;
        self.on(Input::Tick)
    }

    fn rows(&mut self, rows: u64) -> Vec<Command> {
        self.on(Input::Activity { rows, bytes: 0 })
    }

    fn worker(&mut self, worker: usize, id: CommitId) -> Vec<Command> {
        self.on(Input::WorkerCommit { worker, id, something: true, finished: false })
    }
}

fn commit(id: CommitId) -> Command {
    Command::Commit { id, last: false }
}

#[test]
fn a_commit_waits_for_every_worker_and_is_applied_when_the_log_has_it() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.rows(1), []);
    assert_eq!(rig.machine.due_ms(), Some(50));
    assert_eq!(rig.at(49), []);
    assert_eq!(rig.at(50), [Command::Barrier(ONE)]);
    assert_eq!(rig.worker(1, ONE), []);
    assert_eq!(rig.worker(0, ONE), [commit(ONE)]);
    assert_eq!(rig.on(Input::Committed(ONE)), [Command::Apply(ONE)]);
    assert_eq!(rig.machine.state(), &State::Idle);
}

#[test]
fn nothing_happened_means_no_barrier_and_no_commit() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.at(10_000), []);
    assert_eq!(rig.machine.due_ms(), None);
    // Something was reported, but the workers have nothing to commit.
    assert_eq!(rig.rows(1), [Command::Barrier(ONE)]);
    let nothing = Input::WorkerCommit { worker: 0, id: ONE, something: false, finished: false };
    assert_eq!(rig.on(nothing), [Command::Skip(ONE)]);
    assert_eq!(rig.machine.state(), &State::Idle);
}

#[test]
fn rows_and_bytes_make_a_barrier_due_before_its_time() {
    assert_eq!(Rig::new(1).rows(100), [Command::Barrier(ONE)]);
    assert_eq!(Rig::new(1).on(Input::Activity { rows: 0, bytes: 1000 }), [Command::Barrier(ONE)]);
    assert_eq!(Rig::new(1).on(Input::Activity { rows: 99, bytes: 999 }), []);
}

#[test]
fn the_next_interval_collects_but_does_not_commit_while_an_outcome_is_unknown() {
    let mut rig = Rig::new(1);
    rig.rows(100);
    assert_eq!(rig.worker(0, ONE), [commit(ONE)]);
    assert_eq!(rig.rows(100), [Command::Barrier(TWO)]);
    assert_eq!(rig.worker(0, TWO), [], "waits");
    assert_eq!(rig.rows(100), [], "no third interval");
    assert_eq!(rig.on(Input::Committed(ONE)), [Command::Apply(ONE), commit(TWO), Command::Barrier(CommitId(3))]);
}

#[test]
fn a_barrier_on_its_way_goes_on_when_the_outcome_is_known() {
    let mut rig = Rig::new(1);
    rig.rows(100);
    rig.worker(0, ONE);
    rig.rows(100);
    assert_eq!(rig.on(Input::Committed(ONE)), [Command::Apply(ONE)]);
    assert_eq!(rig.worker(0, TWO), [commit(TWO)]);
}

#[test]
fn the_end_of_the_input_is_committed_even_if_no_row_came() {
    let mut rig = Rig::new(2);
    rig.on(Input::Ended);
    assert_eq!(rig.at(50), [Command::Barrier(ONE)]);
    let end = |worker| Input::WorkerCommit { worker, id: ONE, something: false, finished: true };
    assert_eq!(rig.on(end(0)), []);
    assert_eq!(rig.on(end(1)), [Command::Commit { id: ONE, last: true }]);
    assert_eq!(rig.rows(1000), [], "nothing follows the last commit");
    assert_eq!(rig.on(Input::Committed(ONE)), [Command::Apply(ONE), Command::Finish { at_end: true }]);
    assert_eq!(rig.machine.state(), &State::Done);
}

#[test]
fn a_stop_commits_what_there_is_and_ends() {
    let mut rig = Rig::new(1);
    assert_eq!(Rig::new(1).on(Input::Stop), [Command::Finish { at_end: false }], "nothing to commit");
    rig.rows(1);
    assert_eq!(rig.on(Input::Stop), [Command::Barrier(ONE)]);
    assert_eq!(rig.rows(500), [], "what comes after the last barrier is not committed");
    assert_eq!(rig.worker(0, ONE), [commit(ONE)]);
    assert_eq!(rig.on(Input::Committed(ONE)), [Command::Apply(ONE), Command::Finish { at_end: false }]);
}

#[test]
fn a_stop_during_a_barrier_takes_one_more() {
    let mut rig = Rig::new(1);
    rig.rows(100);
    rig.rows(1);
    assert_eq!(rig.on(Input::Stop), []);
    assert_eq!(rig.worker(0, ONE), [commit(ONE), Command::Barrier(TWO)]);
    assert_eq!(rig.on(Input::Committed(ONE)), [Command::Apply(ONE)]);
    assert_eq!(rig.worker(0, TWO), [commit(TWO)]);
    assert_eq!(rig.on(Input::Committed(TWO)), [Command::Apply(TWO), Command::Finish { at_end: false }]);
}

#[test]
fn a_bad_outcome_ends_the_machine() {
    let mut rig = Rig::new(1);
    rig.rows(100);
    rig.worker(0, ONE);
    assert_eq!(rig.on(Input::Failed(ONE)), []);
    assert_eq!(rig.machine.state(), &State::Failed);
    assert_eq!(rig.rows(1000), []);
}

#[test]
fn inputs_that_do_not_fit_change_nothing() {
    let mut rig = Rig::new(1);
    rig.rows(100);
    let before = rig.machine.state().clone();
    let mut out = Vec::new();
    for input in [
        Input::Committed(ONE),
        Input::WorkerCommit { worker: 0, id: TWO, something: true, finished: false },
        Input::WorkerCommit { worker: 9, id: ONE, something: true, finished: false },
    ] {
        assert!(rig.machine.on(input, 0, &mut out).is_err());
        assert_eq!((rig.machine.state(), out.len()), (&before, 0));
    }
}

/// What a driver may do next, picked at random.
#[derive(Clone, Copy, Debug)]
enum Move {
    Rows(u64),
    Wait(u64),
    Worker(usize, bool),
    Outcome,
    Stop,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        4 => (0u64..150).prop_map(Move::Rows),
        3 => (0u64..80).prop_map(Move::Wait),
        8 => (0usize..3, any::<bool>()).prop_map(|(worker, something)| Move::Worker(worker, something)),
        4 => Just(Move::Outcome),
        1 => Just(Move::Stop),
    ];
    proptest::collection::vec(step, 0..200)
}

/// The world around the machine: workers that hold barriers, a log with at most one commit under way.
#[derive(Default)]
struct World {
    barriers: Vec<(CommitId, Vec<usize>, bool)>,
    unknown: Option<CommitId>,
    resolved: u64,
    finished: bool,
}

impl World {
    fn obey(&mut self, commands: &[Command]) {
        for command in commands {
            assert!(!self.finished, "nothing follows Finish");
            match *command {
                Command::Barrier(id) => {
                    assert!(self.barriers.iter().all(|(_, arrived, _)| arrived.len() == 3), "one barrier at a time");
                    assert!(self.barriers.len() < 2);
                    self.barriers.push((id, Vec::new(), false));
                }
                Command::Commit { id, .. } => {
                    let (first, arrived, something) = self.barriers.remove(0);
                    assert_eq!((first, arrived.len(), something), (id, 3, true), "whole, in order, and not empty");
                    assert_eq!(self.unknown, None, "one unknown outcome");
                    assert_eq!(id.0, self.resolved + 1);
                    self.unknown = Some(id);
                }
                Command::Skip(id) => {
                    let (skipped, arrived, something) = self.barriers.pop().unwrap();
                    assert_eq!((skipped, arrived.len(), something), (id, 3, false));
                    // Skipped while the one before it is unknown: numbers go on behind both.
                    self.resolved += 1;
                }
                Command::Apply(id) => assert_eq!(self.unknown.take(), Some(id)),
                Command::Finish { .. } => {
                    assert_eq!((self.unknown, self.barriers.len()), (None, 0));
                    self.finished = true;
                }
            }
            self.resolved = self.resolved.max(self.unknown.map_or(0, |id| id.0));
        }
    }

    fn take_move(&mut self, rig: &mut Rig, step: Move) {
        let input = match step {
            Move::Rows(rows) => Input::Activity { rows, bytes: rows },
            Move::Wait(ms) => {
                rig.now += ms;
                Input::Tick
            }
            Move::Worker(worker, something) => {
                let Some((id, arrived, any)) =
                    self.barriers.iter_mut().find(|(_, arrived, _)| !arrived.contains(&worker))
                else {
                    return;
                };
                arrived.push(worker);
                *any |= something;
                Input::WorkerCommit { worker, id: *id, something, finished: false }
            }
            Move::Outcome => match self.unknown {
                Some(id) => Input::Committed(id),
                None => return,
            },
            Move::Stop => Input::Stop,
        };
        let commands = rig.on(input);
        self.obey(&commands);
    }
}

proptest! {
    #[test]
    fn in_any_order_of_events_commits_are_whole_in_order_and_one_at_a_time(moves in moves()) {
        let (mut rig, mut world) = (Rig::new(3), World::default());
        for step in moves {
            world.take_move(&mut rig, step);
        }
        // However it stands: a stop ends it as soon as the workers and the log answer.
        world.take_move(&mut rig, Move::Stop);
        for _ in 0..3 {
            (0..3).for_each(|worker| world.take_move(&mut rig, Move::Worker(worker, true)));
            world.take_move(&mut rig, Move::Outcome);
        }
        prop_assert!(world.finished, "{:?}", rig.machine);
    }
}
