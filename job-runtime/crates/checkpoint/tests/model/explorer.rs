//! An explicit-state model checker: every state that a [`Model`] can reach, breadth first, on two threads.
//!
//! Owns the search, the shortest way to a violation, and the proof that from every state every fair schedule comes to a good end. It knows
//! nothing of what is modelled. A run is the same whatever the machine does: each thread owns the states whose fingerprint falls to it.
//!
//! States are told apart by 128 bits of xxh3 over their encoding; among 10^7 states two share them with a probability below 10^-24.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_128;

const THREADS: usize = 2;
/// States that a thread expands before what it found is handed over.
const CHUNK: usize = 32_768;

/// What is explored.
pub(crate) trait Model: Sync {
    /// One state of the world.
    type State: Clone + Send + Sync;
    /// The name of a step.
    type Action: Display;
    /// What a thread keeps to be faster; it must not change what `steps` says.
    type Scratch: Default + Send;

    /// Where everything begins.
    fn initial(&self) -> Self::State;
    /// Bytes that are equal exactly if two states are.
    fn encode(&self, state: &Self::State, out: &mut Vec<u8>);
    /// Everything that may happen next, in a fixed order.
    fn steps(&self, state: &Self::State, scratch: &mut Self::Scratch, out: &mut Vec<Step<Self>>);
    /// What is wrong with a state.
    fn violation(&self, state: &Self::State) -> Option<String>;
    /// True where everything that was asked for is done.
    fn is_goal(&self, state: &Self::State) -> bool;
    /// The fair schedules under which the goal must be reached: name, and the bit of [`Step::fair`] that marks their steps.
    fn schedules(&self) -> &[(&'static str, u8)];
}

/// One step.
pub(crate) struct Step<M: Model + ?Sized> {
    /// Its name.
    pub(crate) action: M::Action,
    /// Where it leads.
    pub(crate) next: M::State,
    /// The fair schedules that it belongs to.
    pub(crate) fair: u8,
    /// What the step itself does wrong.
    pub(crate) violation: Option<String>,
}

/// What a search found.
#[derive(Debug)]
pub(crate) struct Report {
    /// Everything was explored that there is before the first violation.
    pub(crate) whole: bool,
    /// Distinct states.
    pub(crate) states: usize,
    /// Steps between them.
    pub(crate) transitions: u64,
    /// Length of the longest shortest way.
    pub(crate) depth: usize,
    /// States that are a good end.
    pub(crate) goals: usize,
    /// The shortest way to a violation.
    pub(crate) violation: Option<Counterexample>,
    /// Per schedule that need not come to a good end: the nearest state from which it need not.
    pub(crate) stuck: Vec<Counterexample>,
}

/// A way to something bad.
#[derive(Debug)]
pub(crate) struct Counterexample {
    /// What is wrong.
    pub(crate) what: String,
    /// The steps from the start.
    pub(crate) steps: Vec<String>,
}

impl Display for Counterexample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} after {} steps:", self.what, self.steps.len())?;
        self.steps.iter().enumerate().try_for_each(|(number, step)| write!(f, "\n  {:2} {step}", number + 1))
    }
}

type Fingerprint = (u64, u64);

/// A fingerprint is its own hash.
#[derive(Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// The states whose fingerprints belong to one thread. A state's id is its place here times [`THREADS`] plus the thread.
struct Part<M: Model> {
    known: HashMap<Fingerprint, u32, BuildHasherDefault<Taken>>,
    /// Id of the state before, and which of its steps led here.
    parents: Vec<(u32, u16)>,
    goals: Vec<bool>,
    next: Vec<(u32, M::State)>,
}

/// A state that nobody knew when it was found.
struct Found<M: Model> {
    fingerprint: Fingerprint,
    state: M::State,
    parent: u32,
    step: u16,
    fair: u8,
}

/// What one thread brings home from a chunk.
struct Haul<M: Model> {
    found: Vec<Vec<Found<M>>>,
    edges: Vec<(u32, u32, u8)>,
    transitions: u64,
    violation: Option<(u32, u16, String)>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    parts: Vec<Part<M>>,
    /// Steps of fair schedules: from, to, schedules.
    edges: Vec<(u32, u32, u8)>,
    report: Report,
}

/// Explores everything, or up to the first violation, or until there are more than `most` states: what is not whole proves nothing.
pub(crate) fn explore<M: Model>(model: &M, most: usize) -> Report {
    let part = |_| Part { known: HashMap::default(), parents: Vec::new(), goals: Vec::new(), next: Vec::new() };
    let report =
        Report { whole: true, states: 0, transitions: 0, depth: 0, goals: 0, violation: None, stuck: Vec::new() };
    let mut search = Search { model, parts: (0..THREADS).map(part).collect(), edges: Vec::new(), report };
    search.run(most);
    search.report
}

fn fingerprint<M: Model>(model: &M, state: &M::State, buffer: &mut Vec<u8>) -> Fingerprint {
    buffer.clear();
    model.encode(state, buffer);
    let hash = xxh3_128(buffer);
    (hash as u64, (hash >> 64) as u64)
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self, most: usize) {
        let state = self.model.initial();
        let fingerprint = fingerprint(self.model, &state, &mut Vec::new());
        let first = Found { fingerprint, state, parent: u32::MAX, step: 0, fair: 0 };
        let root = fingerprint.0 as usize % THREADS;
        self.parts[root].insert(self.model, root, vec![first]);
        while self.parts.iter().any(|part| !part.next.is_empty()) {
            let layer: Vec<_> = self.parts.iter_mut().map(|part| std::mem::take(&mut part.next)).collect();
            if let Some((parent, step, what)) = self.layer(&layer) {
                self.report.violation = Some(self.counterexample(what, parent, Some(step)));
                break;
            }
            self.report.depth += 1;
            let states: usize = self.parts.iter().map(|part| part.parents.len()).sum();
            if states > most {
                self.report.whole = false;
                break;
            }
        }
        self.report.states = self.parts.iter().map(|part| part.parents.len()).sum();
        self.report.goals = self.parts.iter().flat_map(|part| &part.goals).filter(|goal| **goal).count();
        if self.report.violation.is_none() && self.report.whole {
            self.parts.iter_mut().for_each(|part| part.known = HashMap::default());
            self.report.stuck =
                self.model.schedules().iter().filter_map(|(name, bit)| self.stuck(name, *bit)).collect();
        }
    }

    /// Expands one layer in chunks: first every thread looks, then every thread takes what is its own.
    fn layer(&mut self, layer: &[Vec<(u32, M::State)>]) -> Option<(u32, u16, String)> {
        let longest = layer.iter().map(Vec::len).max().unwrap_or(0);
        let mut scratches: Vec<M::Scratch> = (0..THREADS).map(|_| M::Scratch::default()).collect();
        let mut worst: Option<(u32, u16, String)> = None;
        for from in (0..longest).step_by(CHUNK) {
            let (model, parts) = (self.model, &self.parts);
            let mut hauls: Vec<Haul<M>> = std::thread::scope(|scope| {
                let work = |mine: &'_ [(u32, M::State)], scratch: &mut M::Scratch| expand(model, parts, mine, scratch);
                let handles: Vec<_> = layer
                    .iter()
                    .zip(&mut scratches)
                    .map(|(states, scratch)| {
                        let mine = &states[from.min(states.len())..(from + CHUNK).min(states.len())];
                        scope.spawn(move || work(mine, scratch))
                    })
                    .collect();
                handles.into_iter().map(|handle| handle.join().expect("the model does not panic")).collect()
            });
            for haul in &mut hauls {
                self.report.transitions += haul.transitions;
                self.edges.append(&mut haul.edges);
                if let Some(bad) = haul.violation.take() {
                    worst = Some(worst.filter(|w| (w.0, w.1) < (bad.0, bad.1)).unwrap_or(bad));
                }
            }
            let edges: Vec<_> = std::thread::scope(|scope| {
                let mut handles = Vec::new();
                for (owner, part) in self.parts.iter_mut().enumerate().rev() {
                    let found: Vec<Found<M>> =
                        hauls.iter_mut().flat_map(|haul| haul.found.swap_remove(owner)).collect();
                    handles.push(scope.spawn(move || part.insert(model, owner, found)));
                }
                handles.into_iter().map(|handle| handle.join().expect("the model does not panic")).collect()
            });
            edges.into_iter().for_each(|mut edges: Vec<_>| self.edges.append(&mut edges));
        }
        worst
    }

    /// The nearest state from which a fair schedule may go on for ever without a good end, or come to a halt.
    fn stuck(&self, name: &'static str, bit: u8) -> Option<Counterexample> {
        let places = THREADS * self.parts.iter().map(|part| part.parents.len()).max().unwrap_or(0);
        // Steps left that are not known to end well, and the steps that lead into each state, grouped.
        let mut left = vec![0u32; places];
        let mut starts = vec![0u32; places + 1];
        for (from, to, _) in self.edges.iter().filter(|edge| edge.2 & bit != 0) {
            left[*from as usize] += 1;
            starts[*to as usize + 1] += 1;
        }
        for place in 0..places {
            starts[place + 1] += starts[place];
        }
        let (mut into, mut at) = (vec![0u32; starts[places] as usize], starts.clone());
        for (from, to, _) in self.edges.iter().filter(|edge| edge.2 & bit != 0) {
            into[at[*to as usize] as usize] = *from;
            at[*to as usize] += 1;
        }
        let exists = |place: usize| place / THREADS < self.parts[place % THREADS].parents.len();
        let goal = |place: usize| self.parts[place % THREADS].goals[place / THREADS];
        let mut good: Vec<bool> = (0..places).map(|place| exists(place) && goal(place)).collect();
        let mut todo: Vec<usize> = (0..places).filter(|place| good[*place]).collect();
        while let Some(place) = todo.pop() {
            for from in &into[starts[place] as usize..starts[place + 1] as usize] {
                let from = *from as usize;
                left[from] -= 1;
                if left[from] == 0 && !good[from] {
                    good[from] = true;
                    todo.push(from);
                }
            }
        }
        let bad: Vec<usize> = (0..places).filter(|place| exists(*place) && !good[*place]).collect();
        let nearest = bad.iter().map(|place| *place as u32).min_by_key(|place| self.way(*place).len())?;
        let what = format!("I13: {} states from which no good end is sure ({name}); the nearest", bad.len());
        Some(self.counterexample(what, nearest, None))
    }

    /// Which step to take from the start on, to come to a state.
    fn way(&self, mut id: u32) -> Vec<u16> {
        let mut way = Vec::new();
        loop {
            let (parent, step) = self.parts[id as usize % THREADS].parents[id as usize / THREADS];
            if parent == u32::MAX {
                way.reverse();
                return way;
            }
            way.push(step);
            id = parent;
        }
    }

    fn counterexample(&self, what: String, id: u32, last: Option<u16>) -> Counterexample {
        let (mut state, mut scratch) = (self.model.initial(), M::Scratch::default());
        let mut names = Vec::new();
        for index in self.way(id).into_iter().chain(last) {
            let mut steps = Vec::new();
            self.model.steps(&state, &mut scratch, &mut steps);
            let step = steps.swap_remove(usize::from(index));
            names.push(step.action.to_string());
            state = step.next;
        }
        Counterexample { what, steps: names }
    }
}

/// Takes every step from each of these states.
fn expand<M: Model>(model: &M, parts: &[Part<M>], states: &[(u32, M::State)], scratch: &mut M::Scratch) -> Haul<M> {
    let found = (0..THREADS).map(|_| Vec::new()).collect();
    let mut haul = Haul { found, edges: Vec::new(), transitions: 0, violation: None };
    let (mut steps, mut buffer) = (Vec::new(), Vec::new());
    for (parent, state) in states {
        model.steps(state, scratch, &mut steps);
        haul.transitions += steps.len() as u64;
        for (index, Step { next, fair, violation, .. }) in steps.drain(..).enumerate() {
            let (parent, step) = (*parent, index as u16);
            if let Some(what) = violation {
                haul.violation.get_or_insert((parent, step, what));
            }
            let fingerprint = fingerprint(model, &next, &mut buffer);
            let owner = fingerprint.0 as usize % THREADS;
            if let Some(known) = parts[owner].known.get(&fingerprint) {
                if fair != 0 {
                    haul.edges.push((parent, *known, fair));
                }
                continue;
            }
            if let Some(what) = model.violation(&next) {
                haul.violation.get_or_insert((parent, step, what));
            }
            haul.found[owner].push(Found { fingerprint, state: next, parent, step, fair });
        }
    }
    haul
}

impl<M: Model> Part<M> {
    /// Takes what is new of `found`; returns the fair steps that led to any of it.
    fn insert(&mut self, model: &M, owner: usize, found: Vec<Found<M>>) -> Vec<(u32, u32, u8)> {
        let mut edges = Vec::new();
        for Found { fingerprint, state, parent, step, fair } in found {
            let id = (self.parents.len() * THREADS + owner) as u32;
            let known = *self.known.entry(fingerprint).or_insert(id);
            if known == id {
                self.parents.push((parent, step));
                self.goals.push(model.is_goal(&state));
                self.next.push((id, state));
            }
            if fair != 0 {
                edges.push((parent, known, fair));
            }
        }
        edges
    }
}
