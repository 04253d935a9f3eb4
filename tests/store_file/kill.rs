//! SIGKILL at every step of an execution: never two executions, and what was answered is there.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use buttress::store::{Begun, FileStore, OnInterrupted, Store};

use super::child::{Process, effects};
use super::{Scratch, claim, id, outcome};

const KILLS: usize = 20;

/// What the next process finds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// Nobody has begun: it is run now, for the first time.
    Nothing,
    Interrupted,
    Done,
}

async fn find(store: &FileStore, key: usize) -> Found {
    match store.begin(&id(key), &claim()).await.unwrap() {
        Begun::Run { runs: 1, .. } => Found::Nothing,
        Begun::Interrupted(record) => {
            assert_eq!(record.runs, 1);
            Found::Interrupted
        }
        Begun::Done(record) => {
            assert_eq!(record.state.outcome(), Some(&outcome(key)));
            Found::Done
        }
        other => panic!("{other:?}"),
    }
}

/// Kills a process that stands at a step, and asks another one.
async fn killed_at(step: &str, said: &str, found: Found, with_effects: usize) {
    let scratch = Scratch::new();
    for key in 0..KILLS {
        let mut process = Process::start(step, scratch.as_ref(), key);
        process.wait_for(said);
        process.kill();
        let store = FileStore::open(scratch.store()).unwrap();
        assert_eq!(find(&store, key).await, found, "{step}, kill {key}");
        assert_eq!(effects(scratch.as_ref(), key), with_effects, "{step}, kill {key}");
        // And of all the earlier ones.
        for earlier in 0..key {
            let again = find(&store, earlier).await;
            let expected = if found == Found::Nothing { Found::Interrupted } else { found };
            assert_eq!(again, expected, "{step}, {earlier} after kill {key}");
        }
    }
}

/// Kills a process that does something over and over, at any moment of it.
async fn killed_while(step: &str, said: &str, found: &[Found], with_effects: usize) {
    let scratch = Scratch::new();
    for key in 0..KILLS {
        let mut process = Process::start(step, scratch.as_ref(), key);
        process.wait_for(said);
        // From at once to some commits later.
        let moment = Duration::from_micros((key * key * 40) as u64);
        tokio::time::sleep(moment).await;
        process.kill();
        let store = FileStore::open(scratch.store()).unwrap();
        let what = find(&store, key).await;
        assert!(found.contains(&what), "{step}, kill {key}: {what:?}");
        assert_eq!(effects(scratch.as_ref(), key), with_effects, "{step}, kill {key}");
    }
}

#[tokio::test]
async fn killed_before_it_begins_it_can_run() {
    killed_at("begin", "before begin", Found::Nothing, 0).await;
}

#[tokio::test]
async fn killed_while_it_begins_it_has_begun_or_not() {
    let either = [Found::Nothing, Found::Interrupted, Found::Done];
    let scratch = Scratch::new();
    for key in 0..KILLS {
        let mut process = Process::start("beginning", scratch.as_ref(), key);
        process.wait_for("beginning");
        tokio::time::sleep(Duration::from_micros((key * 100) as u64)).await;
        process.kill();
        let store = FileStore::open(scratch.store()).unwrap();
        let what = find(&store, key).await;
        assert!(either.contains(&what));
        let effects = effects(scratch.as_ref(), key);
        assert!(effects <= usize::from(what != Found::Nothing), "{what:?} with {effects} effects");
    }
}

#[tokio::test]
async fn killed_after_it_has_begun_it_is_interrupted() {
    killed_at("begun", "begun", Found::Interrupted, 0).await;
}

#[tokio::test]
async fn killed_while_it_renews_it_is_interrupted() {
    killed_while("renew", "renewing", &[Found::Interrupted], 0).await;
}

#[tokio::test]
async fn killed_after_the_effect_it_is_interrupted() {
    killed_at("effect", "effect", Found::Interrupted, 1).await;
}

#[tokio::test]
async fn killed_while_it_completes_it_is_interrupted_or_done() {
    let either = [Found::Interrupted, Found::Done];
    killed_while("completing", "completing", &either, 1).await;
}

#[tokio::test]
async fn killed_after_it_has_completed_it_is_done() {
    killed_at("complete", "completed", Found::Done, 1).await;
}

#[tokio::test]
async fn killed_after_it_was_released_it_can_run() {
    killed_at("release", "released", Found::Nothing, 0).await;
}

#[tokio::test]
async fn killed_after_it_was_interrupted_it_is_interrupted() {
    killed_at("interrupt", "interrupted", Found::Interrupted, 0).await;
}

#[tokio::test]
async fn killed_after_it_was_abandoned_it_is_interrupted() {
    killed_at("abandon", "abandoned", Found::Interrupted, 0).await;
}

#[tokio::test]
async fn killed_while_it_purges_what_is_recorded_stays() {
    killed_while("purge", "purging", &[Found::Done], 1).await;
}

/// Also while the file is made for the first time.
#[tokio::test]
async fn killed_while_it_opens_the_file_it_can_be_opened() {
    for key in 0..3 * KILLS {
        let scratch = Scratch::new();
        for kill in 0..2 {
            let mut process = Process::start("open", scratch.as_ref(), kill);
            process.wait_for("opening");
            tokio::time::sleep(Duration::from_micros((key * 50) as u64)).await;
            process.kill();
        }
        let store = FileStore::open(scratch.store()).unwrap();
        assert_eq!(find(&store, key).await, Found::Nothing);
    }
}

/// Who asks for it gets to run again what may or may not have happened, and hears that it is the second time.
#[tokio::test]
async fn with_rerun_the_next_process_runs_it_again_at_once() {
    let scratch = Scratch::new();
    for key in 0..KILLS {
        let mut process = Process::start("effect", scratch.as_ref(), key);
        process.wait_for("effect");
        process.kill();
        let store = FileStore::open(scratch.store()).unwrap();
        let claim = claim().on_interrupted(OnInterrupted::Rerun(2));
        let begun = store.begin(&id(key), &claim).await.unwrap();
        assert!(matches!(begun, Begun::Run { runs: 2, .. }), "{begun:?}");
    }
}

/// A server under load, killed over and over. Each key runs once at most, in all processes together.
#[tokio::test]
async fn killed_under_load_nothing_runs_twice_and_nothing_that_was_done_is_lost() {
    let scratch = Scratch::new();
    let mut runs: HashMap<String, usize> = HashMap::new();
    let mut done = HashSet::new();
    for kill in 0..40 {
        let from = kill / 4 * 300;
        let mut process = Process::start("load", scratch.as_ref(), from);
        let mut said = vec![process.hear().unwrap()];
        // By what it has done and not by time: disks differ.
        while said.len() < kill % 7 * 5 && said.last().is_some_and(|what| what != "all") {
            said.push(process.hear().unwrap());
        }
        said.extend(process.kill());
        for what in said {
            match what.split_once(' ') {
                Some(("run", key)) => *runs.entry(key.to_owned()).or_default() += 1,
                Some(("done", key)) => drop(done.insert(key.parse::<usize>().unwrap())),
                _ => assert_eq!(what, "all"),
            }
        }
        let store = FileStore::open(scratch.store()).unwrap();
        for key in &done {
            assert_eq!(find(&store, *key).await, Found::Done, "{key} after kill {kill}");
        }
    }
    println!("{} runs, {} done", runs.len(), done.len());
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
    let log = std::fs::read_to_string(scratch.0.join("effects")).unwrap();
    let mut seen = HashSet::new();
    assert!(log.lines().all(|key| seen.insert(key)), "an effect twice");
    assert!(done.len() > 100 && seen.len() >= done.len(), "{} done", done.len());
}
