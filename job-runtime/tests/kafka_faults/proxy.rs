//! A proxy that breaks things, between a job and a Kafka broker: it knows where requests begin and end, and what they ask for.
//!
//! It changes no byte. A connection is cut when a request comes, or when its answer would be given; or nothing passes in either direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is done with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everything passes.
    Pass,
    /// Nothing passes, nothing is cut.
    Stall,
    /// Whoever comes is cut off.
    Dark,
    /// At the next request of this kind the connection is cut, before the broker sees it or when it has answered; then the other rule holds.
    Cut { kind: i16, seen: bool, dark: bool },
}

/// Kinds of requests, by their number in Kafka's protocol.
pub(crate) mod kind {
    pub(crate) const PRODUCE: i16 = 0;
    pub(crate) const INIT_PRODUCER_ID: i16 = 22;
    pub(crate) const ADD_PARTITIONS: i16 = 24;
    pub(crate) const ADD_OFFSETS: i16 = 25;
    pub(crate) const END_TRANSACTION: i16 = 26;
    pub(crate) const COMMIT_OFFSETS: i16 = 28;
}

struct State {
    /// The port that it stands before.
    target: Option<u16>,
    rule: Rule,
    /// How often something was cut.
    cuts: usize,
    /// Both ends of every connection.
    open: Vec<TcpStream>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// See the module's documentation.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens; nobody gets through before it is known where to.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { target: None, rule: Rule::Pass, cuts: 0, open: Vec::new(), ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let listening = Arc::clone(&shared);
        let thread = std::thread::spawn(move || listening.accept(&listener));
        Self { port, shared, thread: Some(thread) }
    }

    /// What comes goes to this port.
    pub(crate) fn stand_before(&self, port: u16) {
        self.shared.state.lock().unwrap().target = Some(port);
    }

    /// From now on this rule holds. Becoming dark cuts what is open.
    pub(crate) fn set(&self, rule: Rule) {
        self.shared.set(rule);
    }

    /// True when the rule has cut something, and holds no longer.
    pub(crate) fn has_cut(&self) -> bool {
        !matches!(self.shared.state.lock().unwrap().rule, Rule::Cut { .. })
    }

    pub(crate) fn cuts(&self) -> usize {
        self.shared.state.lock().unwrap().cuts
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().ended = true;
        self.shared.set(Rule::Dark);
        // Wakes the listener.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the proxy failed");
        }
    }
}

/// What a rule says of one request.
enum Verdict {
    Pass,
    /// Let it through, and cut when the answer to this number comes.
    PassAndCut,
    Cut,
}

impl Shared {
    fn set(&self, rule: Rule) {
        let mut state = self.state.lock().unwrap();
        state.rule = rule;
        if rule == Rule::Dark {
            state.cut();
        }
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads = Vec::new();
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let mut state = self.state.lock().unwrap();
            if state.ended {
                break;
            }
            let (Rule::Pass | Rule::Stall | Rule::Cut { .. }, Some(port)) = (state.rule, state.target) else {
                continue;
            };
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            for end in [&client, &server] {
                end.set_nodelay(true).unwrap();
                state.open.push(end.try_clone().unwrap());
            }
            drop(state);
            // Numbers of requests whose answers are to be lost.
            let lost = Arc::new(Mutex::new(Vec::new()));
            let up = (Arc::clone(self), client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&lost));
            threads.push(std::thread::spawn(move || up.0.up(up.1, up.2, &up.3)));
            let down = (Arc::clone(self), server, client, lost);
            threads.push(std::thread::spawn(move || down.0.down(down.1, down.2, &down.3)));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Requests.
    fn up(&self, mut from: TcpStream, mut to: TcpStream, lost: &Mutex<Vec<[u8; 4]>>) {
        while let Some(frame) = frame(&mut from).filter(|frame| frame.len() >= 12) {
            let (kind, number) = (i16::from_be_bytes([frame[4], frame[5]]), [frame[8], frame[9], frame[10], frame[11]]);
            match self.judge(kind) {
                Verdict::Pass => {}
                Verdict::PassAndCut => lost.lock().unwrap().push(number),
                Verdict::Cut => break,
            }
            if to.write_all(&frame).is_err() {
                break;
            }
        }
        close(&from, &to);
    }

    /// Answers.
    fn down(&self, mut from: TcpStream, mut to: TcpStream, lost: &Mutex<Vec<[u8; 4]>>) {
        while let Some(frame) = frame(&mut from) {
            self.pass_stall();
            if lost.lock().unwrap().contains(&[frame[4], frame[5], frame[6], frame[7]]) {
                self.fulfil();
                break;
            }
            if to.write_all(&frame).is_err() {
                break;
            }
        }
        close(&from, &to);
    }

    fn judge(&self, kind: i16) -> Verdict {
        self.pass_stall();
        let rule = self.state.lock().unwrap().rule;
        match rule {
            Rule::Cut { kind: wanted, seen, .. } if wanted == kind => {
                if seen {
                    return Verdict::PassAndCut;
                }
                self.fulfil();
                Verdict::Cut
            }
            Rule::Pass | Rule::Stall | Rule::Cut { .. } => Verdict::Pass,
            Rule::Dark => Verdict::Cut,
        }
    }

    /// The rule to cut is fulfilled: what follows it holds.
    fn fulfil(&self) {
        let mut state = self.state.lock().unwrap();
        if let Rule::Cut { dark, .. } = state.rule {
            state.cuts += 1;
            state.rule = if dark { Rule::Dark } else { Rule::Pass };
            if dark {
                state.cut();
            }
            self.changed.notify_all();
        }
    }

    /// Waits until nothing is held back.
    fn pass_stall(&self) {
        let state = self.state.lock().unwrap();
        let held = |state: &mut State| state.rule == Rule::Stall;
        drop(self.changed.wait_timeout_while(state, Duration::from_secs(60), held).unwrap());
    }
}

impl State {
    fn cut(&mut self) {
        self.open.drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }
}

/// One request or answer with its length; `None` when the connection ends.
fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut frame = length.to_vec();
    frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
    from.read_exact(&mut frame[4..]).ok()?;
    (frame.len() >= 8).then_some(frame)
}

fn close(one: &TcpStream, other: &TcpStream) {
    // Closed by the other thread already, perhaps.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
