//! The one place that reads a clock. Cores take a [`Tick`]; only glue calls [`now`].

use std::cell::Cell;
use std::time::Duration;

/// Nanoseconds on the process's monotonic clock. Zero lies in the past of every tick ever read, so 0
/// can stand for "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Tick(pub(crate) u64);

/// Saturates at 584 years, longer than any process runs.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Tick {
    /// Time since `earlier`; zero if `earlier` is later (threads may read the clock out of order).
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// Nanoseconds since 36 years before tick 0, for what may be older than the process.
    pub(crate) const fn with_past(self) -> u64 {
        self.0.saturating_add(1 << 60)
    }
}

// Ticks start here instead of at zero: under tokio's paused clock a runtime made before the first
// tick was read can be slightly behind it, and must not fall below zero.
const ORIGIN: u64 = 1 << 50; // 13 days

#[cfg(not(all(feature = "fast-clock", not(feature = "testing"), not(test))))]
static BASE: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();

/// Tokio's clock, so that paused-time tests see every decision. Also works outside a runtime.
///
/// Not inlined: a call costs a tenth of the read, and callers that only sometimes read a clock stay small.
#[cfg(not(all(feature = "fast-clock", not(feature = "testing"), not(test))))]
#[inline(never)]
pub(crate) fn now() -> Tick {
    #[cfg(test)]
    READS.set(READS.get() + 1);
    let now = tokio::time::Instant::now();
    let base = *BASE.get_or_init(|| now);
    match now.checked_duration_since(base) {
        Some(elapsed) => Tick(ORIGIN.saturating_add(nanos(elapsed))),
        None => Tick(ORIGIN.saturating_sub(nanos(base.duration_since(now)))),
    }
}

/// The processor's counter (about 10 ns instead of 25), where tests do not need tokio's.
#[cfg(all(feature = "fast-clock", not(feature = "testing"), not(test)))]
#[inline(never)]
pub(crate) fn now() -> Tick {
    use std::sync::OnceLock;

    // `Clock::new` asks the processor for its features, which traps in a virtual machine (17 us): once.
    static CLOCK: OnceLock<(quanta::Clock, u64)> = OnceLock::new();
    let (clock, base) = CLOCK.get_or_init(|| {
        let clock = quanta::Clock::new();
        let base = clock.raw();
        (clock, base)
    });
    Tick(ORIGIN.saturating_add(clock.delta_as_nanos(*base, clock.raw())))
}

#[cfg(test)]
thread_local!(pub(crate) static READS: Cell<u32> = const { Cell::new(0) });

thread_local!(static AT_HAND: Cell<Tick> = const { Cell::new(Tick(0)) });
thread_local!(static STANDS_FOR: Cell<u32> = const { Cell::new(1) });
thread_local!(static BEGUN: Cell<Tick> = const { Cell::new(Tick(0)) });

/// In place of a reading: what is polled has begun with this poll, and nobody has looked at the clock since.
pub(crate) const UNREAD: Tick = Tick(1);

/// What is polled until what is returned is dropped, which is to be in the same poll, begins when somebody inside looks at
/// the clock for the first time: a call that is answered at once need not look at all. It is dropped `after` so many
/// nanoseconds at the latest, of which the layers inside are told as by [`hand_end_down`].
#[inline]
pub(crate) fn begin(after: u64) -> Beginning {
    let (begun, end) = match END.get() {
        Tick(0) => (UNREAD, Tick(after.min(AFTER - 1) | AFTER)),
        _ => begin_within(after),
    };
    let outer = (BEGUN.replace(begun), AT_HAND.replace(begun), END.replace(end));
    Beginning { outer }
}

/// There is an end already.
#[cold]
fn begin_within(after: u64) -> (Tick, Tick) {
    let before = end_handed_down();
    let now = now();
    let end = absolute(now.0.saturating_add(after));
    (now, before.map_or(end, |before| before.min(end)))
}

#[must_use]
pub(crate) struct Beginning {
    outer: (Tick, Tick, Tick),
}

impl Drop for Beginning {
    #[inline]
    fn drop(&mut self) {
        let (begun, at_hand, end) = self.outer;
        BEGUN.set(begun);
        AT_HAND.set(at_hand);
        END.set(end);
    }
}

/// When what is polled began: a reading, unless somebody has made it since.
#[inline]
pub(crate) fn beginning() -> Tick {
    match BEGUN.get() {
        Tick(0) => now(),
        UNREAD => {
            let now = now();
            BEGUN.set(now);
            now
        }
        begun => begun,
    }
}

/// What is called next is not to know.
#[inline]
pub(crate) fn hand_nothing_down() {
    AT_HAND.set(Tick(0));
}

/// Whether what is polled has begun with this poll, and nobody has looked at the clock since.
#[inline]
pub(crate) fn is_unread() -> bool {
    AT_HAND.get() == UNREAD && BEGUN.get() == UNREAD
}

/// Hands a reading to the layer inside that asks first, which spares it one of its own: until what is returned
/// is dropped, which is to be in the same poll. With it goes for how many the time of this call stands, if it is answered
/// in this poll: none, if it need not be measured.
#[inline]
pub(crate) fn hand_down(now: Tick, stands_for: u32) -> HandedDown {
    AT_HAND.set(now);
    STANDS_FOR.set(stands_for);
    HandedDown(())
}

#[must_use]
pub(crate) struct HandedDown(());

impl Drop for HandedDown {
    #[inline]
    fn drop(&mut self) {
        AT_HAND.set(Tick(0));
        STANDS_FOR.set(1);
    }
}

thread_local!(static END: Cell<Tick> = const { Cell::new(Tick(0)) });

/// Of an end that is so many nanoseconds after the beginning.
const AFTER: u64 = 1 << 63;

/// Until what is returned is dropped, which is to be in the same poll, what is polled is dropped at this time at the
/// latest, and can go by that. `None`: what is polled has other callers, too.
#[inline]
pub(crate) fn hand_end_down(end: Option<Tick>) -> EndHandedDown {
    let before = match end {
        Some(_) => end_handed_down().unwrap_or_default(),
        None => END.get(),
    };
    let end = match end {
        Some(end) if before == Tick(0) => absolute(end.0),
        Some(end) => end.min(before),
        None => Tick(0),
    };
    END.set(end);
    EndHandedDown(before)
}

/// An end 292 years from now is as good as any later one.
#[inline]
fn absolute(end: u64) -> Tick {
    Tick(end.min(AFTER - 1))
}

#[must_use]
pub(crate) struct EndHandedDown(Tick);

impl Drop for EndHandedDown {
    #[inline]
    fn drop(&mut self) {
        END.set(self.0);
    }
}

/// When what is polled is dropped at the latest, as far as the layers outside say so.
#[inline]
pub(crate) fn end_handed_down() -> Option<Tick> {
    match END.get() {
        Tick(0) => None,
        Tick(after) if after & AFTER != 0 => {
            let end = absolute(beginning().0.saturating_add(after & !AFTER));
            END.set(end);
            Some(end)
        }
        end => Some(end),
    }
}

/// The deadline of a call, or when what is polled is dropped if that is earlier.
#[inline]
pub(crate) fn until(deadline: Option<Tick>) -> Option<Tick> {
    [deadline, end_handed_down()].into_iter().flatten().min()
}

/// What a layer outside has read a moment ago; else a reading. It stays there for the next layer.
#[inline]
pub(crate) fn at_hand() -> Tick {
    match AT_HAND.get() {
        Tick(0) => now(),
        UNREAD => beginning(),
        at_hand => at_hand,
    }
}

/// The same, or `UNREAD` if that would be the first look at it since what is polled has begun.
#[inline]
pub(crate) fn at_hand_if_read() -> Tick {
    if is_unread() { UNREAD } else { at_hand() }
}

/// As [`at_hand`] for the last layer that is to have it.
#[inline]
pub(crate) fn handed_down() -> Tick {
    match AT_HAND.replace(Tick(0)) {
        Tick(0) => now(),
        UNREAD => beginning(),
        at_hand => at_hand,
    }
}

/// For how many the time of a call stands that is sent and answered in this poll, as the layer outside has it.
#[inline]
pub(crate) fn stands_for() -> u32 {
    STANDS_FOR.get()
}

/// The instant of a tick for tokio's timers, without another look at the clock.
#[cfg(not(all(feature = "fast-clock", not(feature = "testing"), not(test))))]
pub(crate) fn instant(tick: Tick) -> Option<tokio::time::Instant> {
    let base = *BASE.get()?;
    let nanos = Duration::from_nanos(tick.0.abs_diff(ORIGIN));
    if tick.0 < ORIGIN { base.checked_sub(nanos) } else { base.checked_add(nanos) }
}

/// As above; the processor's counter is not tokio's clock, which has to be read for it.
#[cfg(all(feature = "fast-clock", not(feature = "testing"), not(test)))]
pub(crate) fn instant(tick: Tick) -> Option<tokio::time::Instant> {
    tokio::time::Instant::now().checked_add(tick.since(now()))
}

/// Ready at `end`, never without one. `sleep` is made when it is polled for the first time.
pub(crate) fn poll_end(
    mut sleep: std::pin::Pin<&mut Option<tokio::time::Sleep>>,
    end: Option<Tick>,
    cx: &mut std::task::Context<'_>,
) -> std::task::Poll<()> {
    if sleep.is_none() {
        // What the clock cannot say does not come.
        let Some(at) = end.and_then(instant) else { return std::task::Poll::Pending };
        sleep.set(Some(tokio::time::sleep_until(at)));
    }
    match sleep.as_pin_mut() {
        Some(sleep) => sleep.poll(cx),
        None => std::task::Poll::Pending,
    }
}

/// Blocks the thread.
pub(crate) fn park(delay: Duration) {
    Parked::default().wait(delay);
}

/// A thread that waits until it is woken. Not `thread::park`, whose wake-ups belong to the caller.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    woken: std::sync::Mutex<bool>,
    wakes: std::sync::Condvar,
}

impl Parked {
    /// Until it is woken, which it may have been before, or for so long.
    pub(crate) fn wait(&self, longest: Duration) {
        // Nothing that can panic runs with the lock.
        let Ok(woken) = self.woken.lock() else { return };
        if let Ok((mut woken, _)) = self.wakes.wait_timeout_while(woken, longest, |woken| !*woken) {
            *woken = false;
        }
    }
}

impl std::task::Wake for Parked {
    fn wake(self: std::sync::Arc<Self>) {
        if let Ok(mut woken) = self.woken.lock() {
            *woken = true;
        }
        self.wakes.notify_one();
    }
}
