//! A gate before an S3 server: open, slow, answering with an error, silent, or cutting off whoever comes.
//!
//! It knows of HTTP only where a head ends; what passes it does not change.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// A few kilobytes in a second.
    Slow,
    /// Every request is answered with this status.
    Answers(u16),
    /// Connections are taken, and nothing is ever said.
    Silent,
    /// Connections are cut.
    Cuts,
}

struct State {
    mode: Mode,
    open: Vec<TcpStream>,
    came: usize,
    ended: bool,
}

/// See the module's documentation.
pub(crate) struct Gate {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Gate {
    /// Before a server, `host:port`.
    pub(crate) fn new(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { mode: Mode::Open, open: Vec::new(), came: 0, ended: false };
        let (state, server) = (Arc::new(Mutex::new(state)), server.to_owned());
        let listening = Arc::clone(&state);
        let thread = std::thread::spawn(move || accept(&listening, &listener, &server));
        Self { port, state, thread: Some(thread) }
    }

    /// From now on; what is open is cut, so that nobody goes by the old rule.
    pub(crate) fn set(&self, mode: Mode) {
        let mut state = self.state.lock().unwrap();
        (state.mode, state.came) = (mode, 0);
        state.open.drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    /// How many connections came since the last change.
    pub(crate) fn came(&self) -> usize {
        self.state.lock().unwrap().came
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.lock().unwrap().ended = true;
        self.set(Mode::Cuts);
        // Wakes the listener.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the gate failed");
        }
    }
}

fn accept(state: &Arc<Mutex<State>>, listener: &TcpListener, server: &str) {
    let mut threads = Vec::new();
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let mut held = state.lock().unwrap();
        if held.ended {
            break;
        }
        held.came += 1;
        match held.mode {
            Mode::Cuts => continue,
            // Kept until the mode changes.
            Mode::Silent => held.open.push(client),
            Mode::Answers(status) => {
                held.open.push(client.try_clone().unwrap());
                threads.push(std::thread::spawn(move || answer(client, status)));
            }
            Mode::Open | Mode::Slow => {
                let Ok(server) = TcpStream::connect(server) else { continue };
                held.open.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let slow = held.mode == Mode::Slow;
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                threads.push(std::thread::spawn(move || pass(from, to, slow)));
                threads.push(std::thread::spawn(move || pass(server, client, slow)));
            }
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn answer(mut client: TcpStream, status: u16) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
        head.extend_from_slice(&byte);
    }
    let text = format!("HTTP/1.1 {status} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // Whoever has gone needs no answer.
    let _ = client.write_all(text.as_bytes());
    let _ = client.shutdown(Shutdown::Both);
}

fn pass(mut from: TcpStream, mut to: TcpStream, slow: bool) {
    let mut bytes = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if slow {
            std::thread::sleep(Duration::from_millis(50));
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    // Closed by the other thread already, perhaps.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
