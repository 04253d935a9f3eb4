//! Disks that are full, read-only or gone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use buttress::supervise::{Heartbeat, HeartbeatState, MissedBeat};

use super::child::Process;
use super::{LONG, Scratch, quiet, rest};

/// A small file system in memory.
struct Disk(PathBuf);

impl Disk {
    /// `None` without the right to mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&at);
        run(&mut mount).then_some(Self(at))
    }

    fn remount(&self, how: &str) {
        assert!(run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0)));
    }
}

fn run(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        assert!(run(Command::new("umount").arg(&self.0)));
    }
}

/// What is heard of missed beats and of beats.
#[derive(Debug, PartialEq)]
enum Heard {
    Beat,
    Missed(&'static str, String),
}

fn beating(file: &Path) -> (Heartbeat, Receiver<Heard>) {
    let (told, heard) = mpsc::channel();
    let missed = told.clone();
    let heart = Heartbeat::builder("disk")
        .file(file)
        .interval(Duration::from_secs(1))
        .on_beat(move |_| told.send(Heard::Beat).unwrap())
        .on_missed_beat(move |why: MissedBeat| {
            missed.send(Heard::Missed(why.as_str(), why.to_string())).unwrap();
        })
        .build()
        .unwrap();
    heart.start().unwrap();
    (heart, heard)
}

/// The next that is not an ordinary beat, or not one late because the machine is busy.
fn next_missed(heard: &Receiver<Heard>) -> String {
    loop {
        match heard.recv_timeout(LONG).unwrap() {
            Heard::Beat | Heard::Missed("late", _) => {}
            Heard::Missed(what, why) => {
                assert_eq!(what, "write_failed");
                return why;
            }
        }
    }
}

/// Nothing is heard for some beats: neither a beat nor the same failure again.
fn is_quiet(heard: &Receiver<Heard>) {
    rest(Duration::from_millis(2500));
    let all: Vec<_> =
        heard.try_iter().filter(|heard| !matches!(heard, Heard::Missed("late", _))).collect();
    assert_eq!(all, [], "told once");
}

fn beats_again(heard: &Receiver<Heard>) {
    while heard.recv_timeout(LONG).unwrap() != Heard::Beat {}
}

fn valid(file: &Path) -> HeartbeatState {
    HeartbeatState::parse(&std::fs::read(file).unwrap()).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_full_disk_leaves_the_old_beat_is_told_once_and_recovers() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let Some(disk) = Disk::mount(scratch.0.join("disk")) else {
        eprintln!("may not mount here: shown only by the limit on file sizes, in the next test");
        return;
    };
    let file = disk.0.join("beat.json");
    let (heart, heard) = beating(&file);
    beats_again(&heard);
    // Whatever there is room for. The temporary file gets no page any more.
    let filler = disk.0.join("filler");
    let _ = std::fs::write(&filler, vec![0; 1 << 20]);
    let why = next_missed(&heard);
    assert!(why.contains("No space left"), "{why}");
    let old = valid(&file).sequence;
    is_quiet(&heard);
    assert_eq!(valid(&file).sequence, old);
    assert_eq!(names(&disk.0), ["beat.json", "beat.json.lock", "filler"], "nothing half-written");
    std::fs::remove_file(&filler).unwrap();
    beats_again(&heard);
    assert!(valid(&file).sequence > old);
    disk.remount("ro");
    let why = next_missed(&heard);
    assert!(why.contains("Read-only"), "{why}");
    is_quiet(&heard);
    disk.remount("rw");
    beats_again(&heard);
    drop(heart);
}

#[test]
fn a_limit_on_file_sizes_leaves_the_old_beat() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let heart = Heartbeat::builder("before").file(scratch.beat()).build().unwrap();
    heart.beat().unwrap();
    let before = valid(&scratch.beat());
    // The shell has the signal ignored that would end the process.
    let inner = Process::command("no room", &scratch.beat());
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]).arg(inner.get_program());
    command.args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut child = Process::of(command);
    let said = child.hear();
    assert!(said.contains("File too large"), "{said}");
    assert!(child.wait().success());
    assert_eq!(valid(&scratch.beat()), before);
    assert_eq!(names(&scratch.0), ["beat.json"]);
}

#[test]
fn a_directory_that_goes_is_told_once_and_may_come_back() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let directory = scratch.0.join("run");
    let file = directory.join("beat.json");
    let (heart, heard) = beating(&file);
    beats_again(&heard);
    let away = scratch.0.join("away");
    std::fs::rename(&directory, &away).unwrap();
    next_missed(&heard);
    is_quiet(&heard);
    assert!(heart.is_running());
    std::fs::rename(&away, &directory).unwrap();
    beats_again(&heard);
    assert!(Heartbeat::is_alive(&file, Duration::from_secs(30)));
    std::fs::remove_dir_all(&directory).unwrap();
    next_missed(&heard);
    heart.stop();
    assert!(!heart.is_running());
}
