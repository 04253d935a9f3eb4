//! A disk in memory that can lose power, run full, or hang.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use rand::{RngExt, SeedableRng};
use redb::StorageBackend;

use super::super::error::Failure;
use super::super::medium::Medium;
use crate::sync::lock;

const SECTOR: usize = 512;

pub(super) type Random = rand::rngs::SmallRng;

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Debug)]
struct State {
    /// What a power cut cannot take.
    durable: Vec<u8>,
    /// What is read.
    current: Vec<u8>,
    pending: Vec<Change>,
    /// Writes, syncs and changes of length until something happens.
    countdown: Option<(usize, Then)>,
    off: bool,
    /// Says that it has synced.
    lies: bool,
    hung: bool,
    locked: bool,
    syncs: usize,
    random: Random,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    PowerCut,
    /// Once.
    Fail(io::ErrorKind),
}

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<(Mutex<State>, Condvar)>);

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(Vec::new(), seed)
    }

    pub(super) fn with(bytes: Vec<u8>, seed: u64) -> Self {
        let state = State {
            durable: bytes.clone(),
            current: bytes,
            pending: Vec::new(),
            countdown: None,
            off: false,
            lies: false,
            hung: false,
            locked: false,
            syncs: 0,
            random: Random::seed_from_u64(seed),
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    pub(super) fn after(&self, operations: usize, then: Then) {
        lock(&self.0.0).countdown = Some((operations, then));
    }

    pub(super) fn lie(&self) {
        lock(&self.0.0).lies = true;
    }

    /// Syncs take until it goes on. Writes, as far as the program sees, go to memory.
    pub(super) fn hang(&self, hung: bool) {
        lock(&self.0.0).hung = hung;
        self.0.1.notify_all();
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        lock(&self.0.0).current.clone()
    }

    pub(super) fn put_back(&self, bytes: Vec<u8>) {
        let mut state = lock(&self.0.0);
        (state.durable, state.current) = (bytes.clone(), bytes);
        state.pending.clear();
    }

    pub(super) fn syncs(&self) -> usize {
        lock(&self.0.0).syncs
    }

    pub(super) fn is_off(&self) -> bool {
        lock(&self.0.0).off
    }

    /// As it is when the power is back: what was not synced may be there, or not, or in part.
    pub(super) fn after_power_cut(&self) -> Self {
        let mut state = lock(&self.0.0);
        let mut bytes = state.durable.clone();
        for change in state.pending.clone() {
            let fate = state.random.random_range(0..4);
            match change {
                Change::SetLen(len) if fate > 1 => bytes.resize(len, 0),
                Change::Write(offset, data) => {
                    for (number, sector) in data.chunks(SECTOR).enumerate() {
                        let kept = match fate {
                            0 => false,
                            1 => true,
                            _ => state.random.random(),
                        };
                        if kept {
                            write(&mut bytes, offset + number * SECTOR, sector);
                        }
                    }
                }
                Change::SetLen(_) => {}
            }
        }
        let seed = state.random.random();
        drop(state);
        Self::with(bytes, seed)
    }

    fn change(&self, change: Option<Change>) -> io::Result<()> {
        let (state, condition) = &*self.0;
        let mut state = condition
            .wait_while(lock(state), |state| state.hung && change.is_none())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.off {
            return Err(io::Error::other("no power"));
        }
        match &mut state.countdown {
            Some((0, Then::PowerCut)) => {
                state.off = true;
                state.pending.extend(change);
                return Err(io::Error::other("no power"));
            }
            Some((0, Then::Fail(kind))) => {
                let kind = *kind;
                state.countdown = None;
                return Err(kind.into());
            }
            Some((operations, _)) => *operations -= 1,
            None => {}
        }
        match change {
            Some(change) => {
                match &change {
                    Change::Write(offset, data) => write(&mut state.current, *offset, data),
                    Change::SetLen(len) => state.current.resize(*len, 0),
                }
                state.pending.push(change);
            }
            None if state.lies => {}
            None => {
                state.syncs += 1;
                state.pending.clear();
                state.durable = state.current.clone();
            }
        }
        Ok(())
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Medium for Disk {
    fn open(&self, _create: bool) -> Result<Box<dyn StorageBackend>, Failure> {
        let mut state = lock(&self.0.0);
        assert!(!state.locked, "opened twice");
        state.locked = true;
        drop(state);
        Ok(Box::new(self.clone()))
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0.0).current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = lock(&self.0.0);
        if state.off {
            return Err(io::Error::other("no power"));
        }
        let offset = position(offset);
        let bytes = offset.checked_add(out.len()).and_then(|end| state.current.get(offset..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Some(Change::SetLen(position(len))))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(None)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Some(Change::Write(position(offset), data.to_vec())))
    }

    fn close(&self) -> io::Result<()> {
        lock(&self.0.0).locked = false;
        Ok(())
    }
}
