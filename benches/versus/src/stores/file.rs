//! The file store, beside the disk's own `fdatasync`.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use buttress::store::FileStore;

use super::{CALLERS, Line, Rounds, Seen, Table, phases, runtime};

const SHORTER: usize = 5;
const SYNC: &str = "bare fdatasync of 4 KiB";

/// A folder that goes when it is done with.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn within(parent: &Path) -> std::io::Result<Self> {
        let path = parent.join(format!("versus-stores-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Overwrites pages of a file that is there already, each synced: no length and no block changes.
struct Disk(File);

impl Disk {
    const PAGES: u64 = 1024;
    const PAGE: [u8; 4096] = [7; 4096];

    fn new(folder: &Path) -> std::io::Result<Self> {
        let mut file = File::create(folder.join("raw"))?;
        for _ in 0..Self::PAGES {
            file.write_all(&Self::PAGE)?;
        }
        file.sync_all()?;
        Ok(Self(file))
    }

    fn run(&mut self, time: Duration) -> std::io::Result<Seen> {
        let mut took = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < time {
            let page = took.len() as u64 % Self::PAGES;
            let since = Instant::now();
            self.0.seek(SeekFrom::Start(page * Self::PAGE.len() as u64))?;
            self.0.write_all(&Self::PAGE)?;
            self.0.sync_data()?;
            took.push(since.elapsed().as_secs_f64() * 1e6);
        }
        let per_second = took.len() as f64 / begin.elapsed().as_secs_f64();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[(took.len() as f64 * share) as usize];
        let calls = took.len() as u64;
        Ok(Seen { per_second, p50_us: at(0.5), p99_us: at(0.99), calls, failed: 0 })
    }
}

pub(super) fn run(rounds: Rounds, folder: &Path) -> Vec<Line> {
    measure(rounds, folder).unwrap_or_else(|error| {
        eprintln!("  the file store: {error}; its rows stay empty");
        vec![Line { store: "file".to_owned(), operation: "not measured", ..Line::default() }]
    })
}

fn measure(rounds: Rounds, parent: &Path) -> Result<Vec<Line>, Box<dyn std::error::Error>> {
    let folder = Folder::within(parent)?;
    let mut disk = Disk::new(&folder.0)?;
    let store = FileStore::open(folder.0.join("records.redb"))?;
    let runtime = runtime();
    let mut table = Table::new("file");
    let mut first = 0;
    // A disk has its moods, and others use it, too: short rounds, each beside the disk itself.
    for round in 0..rounds.rounds * SHORTER {
        for callers in CALLERS {
            table.add(SYNC, callers, disk.run(rounds.time / SHORTER as u32)?);
            let time = rounds.time / SHORTER as u32;
            runtime.block_on(phases(&mut table, &store, callers, &mut first, time));
        }
        if round % SHORTER == SHORTER - 1 {
            eprintln!("  round {} of {}", round / SHORTER + 1, rounds.rounds);
        }
    }
    let mut lines = table.lines(|callers| (SYNC, callers));
    // It has one caller, whoever comes after it.
    for line in lines.iter_mut().filter(|line| line.operation == SYNC) {
        line.operation = if line.callers == 1 { SYNC } else { "the same, before the 64" };
        line.callers = 1;
    }
    drop(store);
    Ok(lines)
}
