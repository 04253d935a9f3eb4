//! Virtual time and seeded randomness for code that knows neither.
//!
//! tokio's clock can be paused, but `std::time::Instant` and the operating system's random numbers cannot, and
//! peers use both. Both end in two functions of the C library. This binary has its own of the same names; on a
//! thread that simulates they answer from tokio's paused clock and from a seed, on every other thread they pass
//! the call on to the kernel.
//!
//! tokio reads the real clock once, when a runtime is built. A simulating thread is switched over before that,
//! so that this reading is virtual as well.
#![allow(unsafe_code, unreachable_pub)]

use std::cell::Cell;
use std::time::Duration;

/// What a virtual clock shows when it starts: far enough from zero for code that subtracts.
const START: Duration = Duration::from_secs(1_000_000);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    /// Virtual, without a runtime yet (or any more).
    Still,
    Running,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Real) };
    static ORIGIN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// Runs `f` in a runtime of its own on a thread of its own, where every clock is virtual and every random
/// number comes from `seed`.
pub(crate) fn simulate<T, F>(seed: u64, f: F) -> T
where
    T: Send,
    F: AsyncFnOnce() -> T + Send,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            RANDOM.set(seed);
            MODE.set(Mode::Still);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without I/O needs nothing");
            let out = runtime.block_on(async {
                ORIGIN.set(Some(tokio::time::Instant::now()));
                MODE.set(Mode::Running);
                f().await
            });
            MODE.set(Mode::Still);
            drop(runtime);
            MODE.set(Mode::Real);
            out
        });
        match thread.join() {
            Ok(out) => out,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether std's clock is tokio's on this thread: the simulation is worth nothing otherwise.
pub(crate) async fn check() -> Result<(), String> {
    let (std, tokio) = (std::time::Instant::now(), tokio::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(7)).await;
    if std.elapsed() != tokio.elapsed() {
        return Err(format!("std's clock shows {:?} after 7 virtual seconds", std.elapsed()));
    }
    Ok(())
}

fn virtual_now() -> Option<Duration> {
    match MODE.get() {
        Mode::Real => return None,
        Mode::Still => {}
        // The runtime may ask while it is entered or left; then the last reading holds.
        Mode::Running => {
            MODE.set(Mode::Still);
            if let (Some(origin), Ok(_)) = (ORIGIN.get(), tokio::runtime::Handle::try_current()) {
                LAST.set(tokio::time::Instant::now().duration_since(origin));
            }
            MODE.set(Mode::Running);
        }
    }
    Some(START + LAST.get())
}

/// In the place of the C library's.
///
/// # Safety
/// As for `clock_gettime(2)`: `out` is null or points to a `timespec` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    id: libc::clockid_t,
    out: *mut libc::timespec,
) -> libc::c_int {
    let virtual_id = matches!(
        id,
        libc::CLOCK_MONOTONIC
            | libc::CLOCK_REALTIME
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_REALTIME_COARSE
            | libc::CLOCK_BOOTTIME
    );
    if virtual_id
        && !out.is_null()
        && let Some(now) = virtual_now()
    {
        // SAFETY: not null, and the caller promises that it may be written.
        unsafe {
            (*out).tv_sec = now.as_secs() as libc::time_t;
            (*out).tv_nsec = now.subsec_nanos().into();
        }
        return 0;
    }
    // SAFETY: the system call with the arguments of the caller, who promised what it asks for.
    unsafe { libc::syscall(libc::SYS_clock_gettime, id, out) as libc::c_int }
}

/// In the place of the C library's.
///
/// # Safety
/// As for `getrandom(2)`: `len` bytes from `buf` on may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buf: *mut libc::c_void,
    len: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if MODE.get() == Mode::Real {
        // SAFETY: the system call with the arguments of the caller, who promised what it asks for.
        return unsafe { libc::syscall(libc::SYS_getrandom, buf, len, flags) as libc::ssize_t };
    }
    let mut state = RANDOM.get();
    for i in 0..len {
        let byte = crate::rng::split_mix(&mut state) as u8;
        // SAFETY: the caller promises `len` writable bytes, and `i < len`.
        unsafe { buf.cast::<u8>().add(i).write(byte) };
    }
    RANDOM.set(state);
    len as libc::ssize_t
}
