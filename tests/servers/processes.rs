//! Several processes, some of them killed, one store.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use buttress::idempotency::{Idempotency, InFlight, Scope};
use buttress::store::{Fingerprint, State, Store};
use tokio::time::sleep;

const CHILD: &str = "BUTTRESS_TEST_EXECUTES";
const KEYS: usize = 120;

/// What a test that is also a child process was told by its parent.
pub fn told() -> Option<String> {
    std::env::var(CHILD).ok()
}

fn gate<S: Store>(store: S) -> Idempotency<S> {
    Idempotency::builder("orders", store)
        .scope(Scope::tenant("tenant-7"))
        // What a killed process had is given up after that.
        .lease(Duration::from_secs(2))
        .in_flight(InFlight::Wait(Duration::from_secs(20)))
        .build()
        .unwrap()
}

fn say(what: &str, key: usize) {
    // One write, so that a kill does not leave half of it.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{what} {key}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Executes all keys, several at a time, and tells of each effect and of each answer.
pub async fn execute(store: impl Store) {
    let gate = &gate(store);
    let one = |key: usize| async move {
        let ran = gate.run(format!("order-{key}"), Fingerprint::of(b"10 EUR"), || async {
            say("effect", key);
            sleep(Duration::from_millis(5)).await;
            Ok::<_, std::io::Error>(key as u64)
        });
        // What a killed process had begun stays unknown.
        if let Ok(ran) = ran.await {
            assert_eq!(ran.value, key as u64);
            say("answered", key);
        }
    };
    let mut keys: Vec<_> = (0..KEYS).collect();
    // All meet, but not all the time.
    keys.rotate_left(std::process::id() as usize * 28 % KEYS);
    for some in keys.chunks(4) {
        futures_util::future::join_all(some.iter().map(|key| one(*key))).await;
    }
}

fn spawn(test: &str, what: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, what)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Hears a child, and kills it after so many effects. Whether it had ended before.
fn hear(mut child: Child, kill_after: Option<usize>) -> (Vec<(String, usize)>, bool) {
    let mut said = vec![];
    let mut effects = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let Some((what, key)) = line.strip_prefix('@').and_then(|said| said.split_once(' ')) else {
            continue;
        };
        effects += usize::from(what == "effect");
        said.push((what.to_owned(), key.parse().unwrap()));
        if kill_after.is_some_and(|most| effects == most) {
            let _ = child.kill();
        }
    }
    (said, child.wait().unwrap().success())
}

/// Runs `test` of this program in several processes at the same time, each told `what`; kills some of them
/// while they execute; and looks at what all of them did.
pub async fn share_keys(test: &str, what: &str, store: impl Store) {
    let children: Vec<_> = [Some(1), Some(3), None, Some(5), Some(2), None]
        .into_iter()
        .map(|kill_after| {
            let child = spawn(test, what);
            tokio::task::spawn_blocking(move || (hear(child, kill_after), kill_after))
        })
        .collect();
    let mut effects: HashMap<usize, usize> = HashMap::new();
    let mut answered = HashSet::new();
    let mut killed = 0;
    for child in children {
        let ((said, success), kill_after) = child.await.unwrap();
        assert!(success || kill_after.is_some(), "it failed");
        killed += u32::from(!success);
        for (what, key) in said {
            match &*what {
                "effect" => *effects.entry(key).or_default() += 1,
                _ => drop(answered.insert(key)),
            }
        }
    }
    println!("{killed} killed, {} effects, {} answered", effects.len(), answered.len());
    assert!(killed > 0, "nobody was killed while it executed");
    assert!(effects.values().all(|times| *times == 1), "twice: {effects:?}");
    // Of each killed one, what it had under way: four at a time.
    assert!(effects.len() >= KEYS - 4 * killed as usize, "{} effects", effects.len());
    assert!(answered.len() >= KEYS - 4 * killed as usize, "{} answered", answered.len());
    let gate = gate(store);
    for key in answered {
        let record = gate.record(format!("order-{key}")).await.unwrap().unwrap();
        assert!(matches!(record.state, State::Completed(_)), "{key}: {record:?}");
        assert_eq!(record.runs, 1);
    }
}
