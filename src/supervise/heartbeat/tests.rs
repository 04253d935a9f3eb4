use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use crate::clock::{self, Tick};
use crate::supervise::{Progress, Pulse};

use super::core::{Core, Round, Told};
use super::file::{self, Durability};
use super::reader::Lookup;
use super::*;

const LONG: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MAX_AGE: Duration = Duration::from_secs(30);

/// A directory that is removed in the end.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-beat-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("beat.json")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// ---- the core ------------------------------------------------------------------------------------

fn at(seconds: f64) -> Tick {
    Tick(1 << 50).after(Duration::from_secs_f64(seconds))
}

fn ten_seconds() -> Core {
    Core::new(at(0.0), Duration::from_secs(10), Duration::from_secs(5))
}

#[test]
fn the_schedule_is_fixed_and_what_was_missed_is_not_made_up_for() {
    let mut core = ten_seconds();
    assert_eq!(core.begin(at(0.0), vec![]), Round::Beat);
    assert_eq!(core.end::<()>(at(0.2), Ok(())), [Told::Beat]);
    assert_eq!(
        core.wait(at(0.2)),
        Duration::from_secs_f64(9.8),
        "from the start, not from the end"
    );
    core.begin(at(10.0), vec![]);
    let told = core.end::<()>(at(37.0), Ok(()));
    assert_eq!(told, [Told::Beat, Told::Late(Duration::from_secs(27))]);
    assert_eq!(
        core.wait(at(37.0)),
        Duration::from_secs(3),
        "at 40, and those at 20 and 30 are gone"
    );
    core.begin(at(40.0), vec![]);
    assert_eq!(core.end::<()>(at(40.0), Ok(())), [Told::Beat, Told::Resumed]);
}

#[test]
fn a_write_that_hangs_is_late_once_whoever_sees_it() {
    let mut core = ten_seconds();
    core.begin(at(0.0), vec![]);
    assert_eq!(core.overdue(at(5.0)), None, "late is more than 5 s");
    assert_eq!(core.overdue(at(6.0)), Some(Duration::from_secs(6)));
    assert_eq!(core.overdue(at(7.0)), None);
    assert_eq!(core.end::<()>(at(8.0), Ok(())), [Told::Beat], "told already");
    core.begin(at(10.0), vec![]);
    assert_eq!(core.end::<()>(at(10.0), Ok(())), [Told::Beat, Told::Resumed]);
    assert_eq!(core.overdue(at(26.0)), Some(Duration::from_secs(6)), "again after it was on time");
}

/// A round at `time`, which takes no time.
fn round(core: &mut Core, time: f64, counts: &[u64]) -> Round {
    let round = core.begin(at(time), counts.to_vec());
    core.end::<()>(
        at(time),
        match round {
            Round::Beat => Ok(()),
            Round::Withheld(source) => Err(Told::NoProgress(source)),
        },
    );
    round
}

#[test]
fn every_source_must_have_made_progress() {
    let mut core = ten_seconds();
    assert_eq!(core.begin(at(0.0), vec![0, 0]), Round::Beat, "the first is free");
    core.end::<()>(at(0.0), Ok(()));
    assert_eq!(core.begin(at(10.0), vec![1, 0]), Round::Withheld(1));
    assert_eq!(core.end::<()>(at(10.0), Err(Told::NoProgress(1))), [Told::NoProgress(1)]);
    assert_eq!(core.begin(at(20.0), vec![2, 0]), Round::Withheld(1));
    assert_eq!(core.end::<()>(at(20.0), Err(Told::NoProgress(1))), [], "told once");
    assert_eq!(core.begin(at(30.0), vec![3, 9]), Round::Beat);
    assert_eq!(core.end::<()>(at(30.0), Ok(())), [Told::Beat, Told::Resumed]);
}

/// Since the last beat, not since the last round: with two sources that take turns there would be none.
#[test]
fn progress_is_counted_since_the_last_beat_that_was_written() {
    let mut core = ten_seconds();
    let moved = |time: u64, first: u64| if time < first { 0 } else { (time - first) / 20 + 1 };
    let rounds: Vec<_> = [0, 10, 20, 30, 40, 50, 60, 70, 80]
        .map(|time: u32| {
            let counts = [3, 13].map(|first| moved(time.into(), first));
            round(&mut core, time.into(), &counts)
        })
        .into();
    let beats = rounds.iter().filter(|round| **round == Round::Beat).count();
    assert_eq!((beats, rounds[8]), (5, Round::Beat), "{rounds:?}");

    // A beat that could not be written shows nobody anything.
    let mut core = ten_seconds();
    round(&mut core, 0.0, &[0]);
    assert_eq!(core.begin(at(10.0), vec![1]), Round::Beat);
    core.end(at(10.0), Err(Told::Failed(())));
    assert_eq!(round(&mut core, 20.0, &[1]), Round::Beat);
    assert_eq!(round(&mut core, 30.0, &[1]), Round::Withheld(0));
}

/// A source that moves once a second has not moved between a round that is late and the next one.
#[test]
fn a_round_right_after_a_late_one_asks_for_no_progress() {
    let mut core = ten_seconds();
    round(&mut core, 0.0, &[0]);
    assert_eq!(round(&mut core, 19.5, &[19]), Round::Beat, "that of 10, late");
    assert_eq!(round(&mut core, 20.0, &[19]), Round::Beat);
    assert_eq!(round(&mut core, 30.0, &[19]), Round::Withheld(0), "now it should have");
}

// ---- the verdict ---------------------------------------------------------------------------------

/// A beat as ours, ten minutes after boot.
fn beat() -> HeartbeatState {
    let text = br#"{"timestamp": "2026-01-12T10:00:00+00:00", "pid": 77, "hostname": "web", "metadata": {},
        "version": 1, "state": "running", "sequence": 5, "interval": 10.0, "boot_id": "b",
        "boottime_ns": 600000000000, "started": 1234, "pid_namespace": 1, "time_namespace": 2}"#;
    HeartbeatState::parse(text).unwrap()
}

/// As the original writes it.
fn plain() -> HeartbeatState {
    let text = br#"{"timestamp": "2026-01-12T10:00:00+00:00", "pid": 77, "hostname": "web", "metadata": {}}"#;
    HeartbeatState::parse(text).unwrap()
}

/// Seven seconds later, on the same machine.
fn reader() -> HeartbeatReader {
    HeartbeatReader::here()
        .hostname("web")
        .boot_id("b")
        .boottime(Duration::from_secs(607))
        .wall_clock(beat().time().unwrap() + Duration::from_secs(7))
        .namespaces(Some(1), Some(2))
        .processes(|_| Lookup::Running { started: 1234 })
}

fn wall(forward: bool, by: Duration) -> SystemTime {
    let now = beat().time().unwrap() + Duration::from_secs(7);
    if forward { now + by } else { now - by }
}

#[test]
fn a_step_of_the_wall_clock_changes_no_verdict() {
    let seven = Duration::from_secs(7);
    for by in [HOUR, YEAR] {
        for forward in [true, false] {
            let stepped = reader().wall_clock(wall(forward, by));
            assert_eq!(stepped.judge(&beat(), MAX_AGE), HeartbeatVerdict::Alive { age: seven });
            assert_eq!(stepped.judge(&beat(), seven), HeartbeatVerdict::Alive { age: seven });
            let too_old = Duration::from_secs(6);
            assert_eq!(stepped.judge(&beat(), too_old), HeartbeatVerdict::Stale { age: seven });
            // The original has nothing but the wall clock. It is wrong, but it is not alive for a year.
            let verdict = stepped.judge(&plain(), MAX_AGE);
            let expected = if forward {
                HeartbeatVerdict::Stale { age: by + seven }
            } else {
                HeartbeatVerdict::ClockSkew { ahead: by - seven }
            };
            assert_eq!(verdict, expected);
            // Nor is another time namespace taken for this one.
            let elsewhere = stepped.namespaces(Some(1), Some(3));
            assert_eq!(elsewhere.judge(&beat(), MAX_AGE), expected);
        }
    }
}

#[test]
fn another_boot_another_machine_and_a_suspend() {
    let seven = Duration::from_secs(7);
    let rebooted = reader().boot_id("c").boottime(Duration::from_secs(3));
    assert_eq!(rebooted.judge(&beat(), MAX_AGE), HeartbeatVerdict::OtherBoot);
    let elsewhere = HeartbeatVerdict::OtherHost { age: Some(seven) };
    assert_eq!(reader().boot_id("c").hostname("db").judge(&beat(), MAX_AGE), elsewhere);
    assert_eq!(reader().hostname("db").judge(&plain(), MAX_AGE), elsewhere);
    let alive = HeartbeatVerdict::Alive { age: seven };
    assert_eq!(reader().hostname("db").judge(&beat(), MAX_AGE), alive, "a container's name");
    // Eight hours asleep: the clock since boot goes on, so it is stale until it beats again.
    let woken = reader().boottime(Duration::from_secs(607) + 8 * HOUR);
    let age = seven + 8 * HOUR;
    assert_eq!(woken.judge(&beat(), MAX_AGE), HeartbeatVerdict::Stale { age });
    // A forged time since boot.
    let early = reader().boottime(Duration::from_secs(60));
    let ahead = Duration::from_secs(540);
    assert_eq!(early.judge(&beat(), MAX_AGE), HeartbeatVerdict::ClockSkew { ahead });
    let slightly = reader().boottime(Duration::from_secs(599));
    let now = HeartbeatVerdict::Alive { age: Duration::ZERO };
    assert_eq!(slightly.judge(&beat(), MAX_AGE), now);
}

#[test]
fn the_process_is_looked_up_by_number_and_start() {
    let dead = reader().processes(|_| Lookup::Dead);
    assert_eq!(dead.judge(&beat(), MAX_AGE), HeartbeatVerdict::DeadPid);
    assert_eq!(dead.judge(&plain(), MAX_AGE), HeartbeatVerdict::DeadPid);
    let reused = reader().processes(|_| Lookup::Running { started: 99_999 });
    assert_eq!(reused.judge(&beat(), MAX_AGE), HeartbeatVerdict::PidReused);
    assert!(
        reused.judge(&plain(), MAX_AGE).is_alive(),
        "the original does not say when it started"
    );
    let unseen = HeartbeatVerdict::Unverified { age: Duration::from_secs(7) };
    let foreign = dead.namespaces(Some(9), Some(2));
    assert_eq!(foreign.judge(&beat(), MAX_AGE), unseen, "77 is somebody else here");
    let hidden = reader().processes(|_| Lookup::Hidden);
    assert_eq!(hidden.judge(&beat(), MAX_AGE), unseen);
    let stopped = HeartbeatState { state: BeatState::Stopped, ..beat() };
    assert_eq!(reader().judge(&stopped, MAX_AGE), HeartbeatVerdict::Stopped);
}

#[test]
fn every_cut_of_a_file_and_many_broken_ones_are_corrupt() {
    let scratch = Scratch::new();
    let path = scratch.file();
    let text = beat().to_json();
    for end in 1..text.len() {
        assert!(HeartbeatState::parse(&text.as_bytes()[..end]).is_err(), "cut after {end} bytes");
    }
    let deep = "[".repeat(50_000);
    let unknown = text.replace("running", "dancing");
    let large = format!("{}{}", text, " ".repeat(64 * 1024));
    for broken in ["", "[]", "{", "\"", "null", "\\", "{\"a\\", &deep, &unknown, &large] {
        fs::write(&path, broken).unwrap();
        let verdict = Heartbeat::verdict(&path, MAX_AGE);
        assert!(matches!(verdict, HeartbeatVerdict::Corrupt(_)), "{verdict:?}");
        assert!(!Heartbeat::is_alive(&path, MAX_AGE));
        assert_eq!(Heartbeat::read_state(&path), None);
    }
    let directory = Heartbeat::verdict(&scratch.0, MAX_AGE);
    assert!(!directory.is_alive() && directory != HeartbeatVerdict::Missing, "{directory:?}");
    let below = Heartbeat::verdict(path.join("below"), MAX_AGE);
    assert_eq!(below, HeartbeatVerdict::Missing);
}

/// Who can read a file can lock it, and keep us from starting.
#[cfg(unix)]
#[test]
fn nobody_else_can_take_the_lock() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let lock = scratch.0.join("beat.json.lock");
    let mode = || fs::metadata(&lock).unwrap().permissions().mode() & 0o777;
    for before in [None, Some(0o644)] {
        if let Some(before) = before {
            fs::set_permissions(&lock, fs::Permissions::from_mode(before)).unwrap();
        }
        let heart = Heartbeat::builder("test").file(scratch.file()).build().unwrap();
        heart.start().unwrap();
        assert_eq!(mode(), 0o600, "{before:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_the_file_keeps_nobody_waiting() {
    let scratch = Scratch::new();
    let made = std::process::Command::new("mkfifo").arg(scratch.file()).status().unwrap();
    assert!(made.success());
    assert!(matches!(Heartbeat::verdict(scratch.file(), MAX_AGE), HeartbeatVerdict::Corrupt(_)));
}

#[cfg(unix)]
#[test]
fn devices_and_links_that_lead_nowhere_are_no_beats() {
    for device in ["/dev/zero", "/dev/null", "/dev/tty"] {
        assert!(!Heartbeat::is_alive(device, MAX_AGE), "{device}");
    }
    let scratch = Scratch::new();
    std::os::unix::fs::symlink(scratch.file(), scratch.file()).unwrap();
    let verdict = Heartbeat::verdict(scratch.file(), MAX_AGE);
    assert!(matches!(verdict, HeartbeatVerdict::Unreadable(_)), "{verdict:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_decoy_with_this_process_number_is_found_out() {
    let scratch = Scratch::new();
    let heart = Heartbeat::builder("decoy").file(scratch.file()).build().unwrap();
    heart.beat().unwrap();
    assert!(Heartbeat::is_alive(scratch.file(), MAX_AGE));
    let mut state = Heartbeat::read_state(scratch.file()).unwrap();
    state.started = state.started.map(|ticks| ticks - 1);
    fs::write(scratch.file(), state.to_json()).unwrap();
    assert_eq!(Heartbeat::verdict(scratch.file(), MAX_AGE), HeartbeatVerdict::PidReused);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    let zombie = || crate::supervise::ProcessStatus::of(pid).is_some_and(|status| status.is_dead());
    while !zombie() {
        clock::park(Duration::from_millis(1));
    }
    state.pid = pid;
    state.started = crate::supervise::ProcessStatus::of(pid).map(|status| status.started);
    fs::write(scratch.file(), state.to_json()).unwrap();
    assert_eq!(Heartbeat::verdict(scratch.file(), MAX_AGE), HeartbeatVerdict::DeadPid, "a zombie");
    child.wait().unwrap();
    assert_eq!(Heartbeat::verdict(scratch.file(), MAX_AGE), HeartbeatVerdict::DeadPid, "nobody");
}

// ---- the file ------------------------------------------------------------------------------------

#[test]
fn a_reader_never_sees_a_part_of_a_beat() {
    let scratch = Scratch::new();
    let path = scratch.file();
    let heart = Heartbeat::builder("torn").file(&path).build().unwrap();
    heart.beat().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut last) = (0_u32, 0);
            while !over.load(Ordering::Relaxed) || reads == 0 {
                let state = HeartbeatState::read(&path).unwrap().unwrap().unwrap();
                let sequence = state.sequence.unwrap();
                assert!(sequence >= last, "{sequence} after {last}");
                last = sequence;
                reads += 1;
            }
            reads
        });
        // Of different lengths, so that a write in place would show.
        let writes = std::env::var("BUTTRESS_BEATS").map_or(3_000, |text| text.parse().unwrap());
        for n in 0_usize..writes {
            heart.set_metadata(&"x".repeat(n * 7 % 3000)).unwrap();
            heart.beat().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 100);
    });
    assert_eq!(scratch.names(), ["beat.json"]);
}

#[test]
fn every_durability_leaves_the_file_and_nothing_else() {
    let scratch = Scratch::new();
    for durability in [Durability::Rename, Durability::File, Durability::FileAndDir] {
        file::replace(&scratch.file(), b"{}", 0o644, durability).unwrap();
        assert_eq!(scratch.names(), ["beat.json"]);
    }
}

#[cfg(unix)]
#[test]
fn links_are_replaced_and_never_followed_when_writing() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let scratch = Scratch::new();
    let victim = scratch.0.join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, scratch.file()).unwrap();
    symlink(&victim, scratch.0.join("beat.json.lock")).unwrap();
    let heart = Heartbeat::builder("links").file(scratch.file()).private().build().unwrap();
    heart.beat().unwrap();
    assert!(matches!(heart.start(), Err(HeartbeatError::Lock { .. })));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let metadata = fs::symlink_metadata(scratch.file()).unwrap();
    assert!(metadata.is_file());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

// ---- the object ----------------------------------------------------------------------------------

#[cfg(unix)]
#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let scratch = Scratch::new();
    let build = || Heartbeat::builder("twice").file(scratch.file()).build().unwrap();
    let (first, second) = (build(), build());
    first.start().unwrap();
    assert!(matches!(first.start(), Err(HeartbeatError::AlreadyRunning)));
    let refused = second.start().unwrap_err();
    let pid = format!("process {}", std::process::id());
    assert!(
        matches!(&refused, HeartbeatError::Held { holder, .. } if holder.starts_with(&pid)),
        "{refused}"
    );
    assert!(!second.is_running());
    first.stop();
    second.start().unwrap();
    assert!(Heartbeat::is_alive(scratch.file(), MAX_AGE));
}

#[test]
fn it_beats_at_once_then_on_schedule_and_says_when_it_stops() {
    let scratch = Scratch::new();
    let (told, heard) = mpsc::channel();
    let heart = Heartbeat::builder("beats")
        .file(scratch.0.join("deep/er/beat.json"))
        .interval(Duration::from_secs(1))
        .on_beat_async(move |beat| {
            let told = told.clone();
            async move { told.send(beat.sequence.unwrap()).unwrap() }
        })
        .build()
        .unwrap();
    heart.start().unwrap();
    let path = scratch.0.join("deep/er/beat.json");
    assert!(Heartbeat::is_alive(&path, MAX_AGE), "right after the start");
    for expected in 1..=3 {
        assert_eq!(heard.recv_timeout(LONG).unwrap(), expected);
    }
    heart.stop();
    heart.stop();
    assert_eq!(Heartbeat::verdict(&path, MAX_AGE), HeartbeatVerdict::Stopped);
    let last = Heartbeat::read_state(&path).unwrap().sequence;
    heart.start().unwrap();
    assert!(
        Heartbeat::read_state(&path).unwrap().sequence > last,
        "a sequence is never used twice"
    );
    let clone = heart.clone();
    drop(heart);
    assert!(Heartbeat::is_alive(&path, MAX_AGE));
    drop(clone);
    assert_eq!(Heartbeat::verdict(&path, MAX_AGE), HeartbeatVerdict::Stopped);
}

#[test]
fn without_a_file_callbacks_get_the_beats_and_a_panic_changes_nothing() {
    let (told, heard) = mpsc::channel();
    let heart = Heartbeat::builder("no file")
        .interval(Duration::from_secs(1))
        .on_beat(move |beat| {
            told.send(beat.sequence.unwrap()).unwrap();
            panic!("expected in this test");
        })
        .build()
        .unwrap();
    heart.start().unwrap();
    assert_eq!(heard.recv_timeout(LONG).unwrap(), 1);
    assert_eq!(heard.recv_timeout(LONG).unwrap(), 2);
}

#[test]
fn a_frozen_worker_stops_the_beats_and_a_dead_target_is_told_once() {
    let scratch = Scratch::new();
    let (told, heard) = mpsc::channel();
    let (missed, dead, alert) = (told.clone(), told.clone(), told.clone());
    let is_dead = Arc::new(AtomicBool::new(true));
    let (target, asked) = (Arc::clone(&is_dead), Pulse::new());
    let asks = asked.clone();
    let worker = Pulse::new();
    let heart = Heartbeat::builder("frozen")
        .file(scratch.file())
        .interval(Duration::from_secs(1))
        .requires("worker", worker.clone())
        .target("socket", move || {
            let dead = target.load(Ordering::Relaxed);
            asks.ping();
            dead
        })
        .on_missed_beat(move |why| missed.send(why.to_string()).unwrap())
        .on_target_dead(move |()| dead.send("dead".into()).unwrap())
        .on_alert(move |told| alert.send(told.get("target").unwrap().to_owned()).unwrap())
        .on_beat(move |beat| told.send(beat.sequence.unwrap().to_string()).unwrap())
        .build()
        .unwrap();
    heart.start().unwrap();
    let next = || heard.recv_timeout(LONG).unwrap();
    assert_eq!([next(), next(), next()], ["1", "socket", "dead"]);
    assert_eq!(next(), "worker has made no progress");
    let seen = Heartbeat::read_state(scratch.file()).unwrap().sequence;
    assert_eq!(seen, Some(1));
    worker.ping();
    assert_eq!(next(), "2", "the target was not told again");
    is_dead.store(false, Ordering::Relaxed);
    assert_eq!(next(), "worker has made no progress");
    // This round may have asked before; the next one has not.
    let before = asked.count();
    while asked.count() < before + 2 {
        clock::park(Duration::from_millis(5));
    }
    is_dead.store(true, Ordering::Relaxed);
    assert_eq!([next(), next()], ["socket", "dead"]);
    assert_eq!(heart.stats().beats, 2);
}

#[test]
fn every_bad_setting_is_refused_by_name() {
    let builder = || Heartbeat::builder("bad");
    let ms = Duration::from_millis;
    for (field, error) in [
        ("interval", builder().interval(ms(999)).build()),
        ("interval", builder().interval(ms(300_001)).build()),
        ("late_after", builder().late_after(ms(0)).build()),
        ("callback_timeout", builder().callback_timeout(ms(0)).build()),
        ("file", builder().file("/").build()),
        ("file", builder().file("a/..").build()),
        ("on_target_dead", builder().on_target_dead(|()| {}).build()),
    ] {
        assert_eq!(error.unwrap_err().field(), field);
    }
    assert!(builder().interval(ms(1000)).build().is_ok());
    assert!(builder().interval(ms(300_000)).build().is_ok());
}

// ---- what is in the way --------------------------------------------------------------------------

#[test]
fn a_write_that_hangs_does_not_hold_up_who_says_something_else() {
    let heart = Heartbeat::builder("test").build().unwrap();
    let (told, heard) = mpsc::channel();
    let _writing = heart.while_writing();
    let other = heart.clone();
    std::thread::spawn(move || told.send(other.set_metadata(&1).is_ok()));
    assert_eq!(heard.recv_timeout(Duration::from_secs(5)), Ok(true));
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_the_lock_does_not_hold_up_the_start() {
    for name in ["beat.json.lock", "beat.json"] {
        let scratch = Scratch::new();
        let made = std::process::Command::new("mkfifo").arg(scratch.0.join(name)).status().unwrap();
        assert!(made.success());
        let heart = Heartbeat::builder("test").file(scratch.file()).build().unwrap();
        let (told, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let started = heart.start().is_ok();
            told.send(started)
        });
        // That of the state is replaced, like any other file.
        assert_eq!(heard.recv_timeout(Duration::from_secs(5)), Ok(name == "beat.json"), "{name}");
    }
}
