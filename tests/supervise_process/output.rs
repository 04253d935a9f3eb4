//! What children write.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use buttress::supervise::process::{Output, ProcessSupervisor, Restart, Stream, SupervisorEnd};

use super::{ended, shell};

/// A pipe holds 64 KiB: one that nobody reads would stop the child for ever.
#[test]
fn a_child_that_writes_a_lot_is_read_to_the_end() {
    let script = "yes 0123456789abcdef | head -n 400000; yes error | head -n 400000 >&2";
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let seen = Arc::clone(&counts);
    let child = shell("a", script).restart(Restart::Temporary).on_line(move |line| {
        let (index, expected): (usize, &[u8]) = match line.stream {
            Stream::Stdout => (0, b"0123456789abcdef"),
            _ => (1, b"error"),
        };
        assert_eq!(line.bytes, expected);
        seen[index].fetch_add(1, Ordering::Relaxed);
    });
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    assert_eq!(ended(&supervisor).end, SupervisorEnd::Finished);
    assert_eq!(counts[0].load(Ordering::Relaxed), 400_000);
    assert_eq!(counts[1].load(Ordering::Relaxed), 400_000);
}

#[test]
fn lines_come_whole_long_ones_in_pieces_and_a_panic_loses_one_line_only() {
    let script = r"printf 'a\nb'; sleep 0.2; printf 'c\n\n\377x\n'; head -c 40000 /dev/zero | tr '\0' y; \
                   printf '\nend'";
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&lines);
    let child = shell("a", script).restart(Restart::Temporary).on_line(move |line| {
        let text = line.text().into_owned();
        assert!(text != "a", "a sink that panics");
        seen.lock().unwrap().push(text);
    });
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    ended(&supervisor);
    let lines = lines.lock().unwrap();
    assert_eq!(lines[..3], ["bc", "", "\u{fffd}x"]);
    let long = &lines[3..lines.len() - 1];
    assert!(long.len() > 2 && long.iter().all(|piece| piece.len() <= 16 * 1024));
    assert_eq!(long.concat(), "y".repeat(40_000));
    assert_eq!(lines.last().unwrap(), "end");
}

#[test]
fn a_grandchild_that_keeps_the_pipe_does_not_hold_up_the_end() {
    let child = shell("a", "setsid sleep 20 & echo there").restart(Restart::Temporary);
    let lines: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let seen = Arc::clone(&lines);
    let child = child.on_line(move |line| {
        seen.lock().unwrap().insert(line.text().into_owned(), line.pid);
    });
    let app = super::unique("pipe");
    let supervisor = ProcessSupervisor::builder(app).child(child).build().unwrap();
    let start = tokio::time::Instant::now();
    supervisor.start().unwrap();
    ended(&supervisor);
    assert!(start.elapsed() < std::time::Duration::from_secs(15), "it waited for the grandchild");
    assert!(lines.lock().unwrap().contains_key("there"));
}

#[test]
fn nothing_goes_nowhere() {
    let child = shell("a", "[ ! -p /dev/stdout ] && [ ! -t 0 ] && ! read -r line")
        .restart(Restart::Temporary)
        .stdout(Output::Null);
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    ended(&supervisor);
    let exit = supervisor.status()[0].last_exit.unwrap();
    assert_eq!(exit, buttress::supervise::process::Exit::Code(0));
}

#[test]
fn a_closure_that_does_not_return_does_not_hold_up_the_end() {
    let child = shell("a", "echo there; exec sleep 1000").on_line(|_| super::child::stay());
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(super::LONG));
    super::pause(std::time::Duration::from_millis(300));
    supervisor.request_stop(None);
    let report = supervisor.wait_blocking(std::time::Duration::from_secs(30));
    assert_eq!(report.expect("it waits for the closure").end, SupervisorEnd::Stopped);
}

/// The end of a line of just that length comes alone, in the next read.
#[test]
fn a_line_of_just_the_longest_length_is_one_line() {
    let script = "head -c 16384 /dev/zero | tr '\\0' y; sleep 0.5; printf '\\n\\nend\\n'";
    let lines: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&lines);
    let child = shell("a", script).restart(Restart::Temporary).on_line(move |line| {
        seen.lock().unwrap().push(line.bytes.len());
    });
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    ended(&supervisor);
    assert_eq!(*lines.lock().unwrap(), [16_384, 0, 3]);
}
