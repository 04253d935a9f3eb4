//! Signals. The handlers set a flag, write to a pipe or leave the process; all else is done by a thread
//! that waits at the other end of the pipe, however blocked the runtime is.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::{SigId, flag, low_level};

use crate::sync::lock;

use super::listener::Listener;
use super::shared::{Shared, start_thread};
use super::signals::{OnSignal, Signal};

/// The handlers of one shutdown. Dropping it takes them away.
pub(super) struct Installed {
    actions: Vec<SigId>,
    signals: Vec<Signal>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        // First, so that a signal in between is not lost.
        for signal in &self.signals {
            give_back(*signal);
        }
        for action in &self.actions {
            low_level::unregister(*action);
        }
        // The pipes have gone with the actions, and with them the thread.
    }
}

/// One signal on its way from the handler to the thread.
struct Wire {
    signal: Signal,
    does: OnSignal,
    count: u32,
    /// Whether the next one ends the process from within the handler.
    last_resort: Arc<AtomicBool>,
    pipe: UnixStream,
}

pub(super) fn install(shared: &Arc<Shared>) -> io::Result<Installed> {
    let (mut wires, mut ends) = (Vec::new(), Vec::new());
    for (signal, does) in shared.signals.iter() {
        let (pipe, end) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let last_resort = Arc::new(AtomicBool::new(does.armed_after(0)));
        ends.push((signal, Arc::clone(&last_resort), end));
        wires.push(Wire { signal, does, count: 0, last_resort, pipe });
    }
    let theirs = Arc::clone(shared);
    // If what follows fails, the pipes are closed and the thread ends.
    start_thread("buttress-signals", move || listen(Listener::new(theirs), wires))?;
    let mut installed = Installed { actions: Vec::new(), signals: Vec::new() };
    for (signal, last_resort, end) in ends {
        let number = signal.number();
        take_over(signal)?;
        installed.signals.push(signal);
        let code = i32::from(signal.exit_code());
        let mut added = |action: io::Result<SigId>| action.map(|id| installed.actions.push(id));
        // Before the pipe: actions run in this order.
        added(flag::register_conditional_shutdown(number, code, last_resort))?;
        added(low_level::pipe::register(number, end))?;
        handled(signal);
    }
    Ok(installed)
}

fn listen(mut listener: Listener, mut wires: Vec<Wire>) {
    while !wires.is_empty() {
        let left = listener.left();
        if left == Some(Duration::ZERO) {
            listener.end();
        }
        wait(&wires, left);
        wires.retain_mut(|wire| match drain(&mut wire.pipe) {
            Some(news) => {
                (0..news).for_each(|_| {
                    wire.count = wire.count.saturating_add(1);
                    // Before anything that could take time.
                    let armed = wire.does.armed_after(wire.count);
                    wire.last_resort.store(armed, Ordering::SeqCst);
                    listener.came(wire.signal, wire.does, wire.count);
                });
                true
            }
            None => false,
        });
    }
}

/// Until a signal comes, `limit` has passed, or for no reason.
fn wait(wires: &[Wire], limit: Option<Duration>) {
    let mut pipes: Vec<_> =
        wires.iter().map(|wire| PollFd::new(&wire.pipe, PollFlags::IN)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let _ = poll(&mut pipes, limit.as_ref());
}

/// How often the handler has run, or `None` when it has been taken away.
fn drain(pipe: &mut UnixStream) -> Option<usize> {
    let (mut news, mut some) = (0, [0; 64]);
    loop {
        match pipe.read(&mut some) {
            Ok(0) => return if news == 0 { None } else { Some(news) },
            Ok(count) => news += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Some(news),
        }
    }
}

/// What a signal did before we handled it, for when we no longer do. The library that shares signals
/// between their handlers never takes its own away: without this a process would survive SIGTERM then.
struct Before {
    signal: Signal,
    /// How many shutdowns handle it.
    held: usize,
    /// If it did what it does by default: whether the handler is to do that now.
    default: Option<Arc<AtomicBool>>,
}

static BEFORE: Mutex<Vec<Before>> = Mutex::new(Vec::new());

fn take_over(signal: Signal) -> io::Result<()> {
    let mut all = lock(&BEFORE);
    if let Some(before) = all.iter_mut().find(|before| before.signal == signal) {
        before.held += 1;
        return Ok(());
    }
    let known = low_level::signal_name(signal.number()).is_some();
    let default = if known && does_the_default(signal) {
        // As before until somebody handles it: a signal that comes in between must not be lost.
        let flag = Arc::new(AtomicBool::new(true));
        flag::register_conditional_default(signal.number(), Arc::clone(&flag))?;
        Some(flag)
    } else {
        None
    };
    all.push(Before { signal, held: 1, default });
    Ok(())
}

/// From now on it does what we want and nothing else.
fn handled(signal: Signal) {
    let all = lock(&BEFORE);
    let default = all.iter().find(|before| before.signal == signal);
    if let Some(default) = default.and_then(|before| before.default.as_ref()) {
        default.store(false, Ordering::SeqCst);
    }
}

fn give_back(signal: Signal) {
    let mut all = lock(&BEFORE);
    if let Some(before) = all.iter_mut().find(|before| before.signal == signal) {
        before.held -= 1;
        if before.held == 0
            && let Some(default) = &before.default
        {
            default.store(true, Ordering::SeqCst);
        }
    }
}

/// Whether nobody has caught the signal or has it ignored. Only Linux tells; elsewhere it is assumed.
fn does_the_default(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bit = 1_u64 << (signal.number() - 1);
    !["SigCgt:", "SigIgn:"].into_iter().any(|which| {
        let mask = status.lines().find_map(|line| line.strip_prefix(which));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & bit != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the two, nobody hears of it.
    #[test]
    fn a_signal_keeps_its_default_until_it_is_handled() {
        let signal = Signal::new(libc::SIGALRM);
        let defaults = || {
            let all = lock(&BEFORE);
            let before = all.iter().find(|before| before.signal == signal).unwrap();
            before.default.as_ref().unwrap().load(Ordering::SeqCst)
        };
        for _ in 0..2 {
            take_over(signal).unwrap();
            assert!(defaults());
            handled(signal);
            assert!(!defaults());
            give_back(signal);
            assert!(defaults());
        }
    }
}
