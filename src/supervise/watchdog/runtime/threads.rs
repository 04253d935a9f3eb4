//! What the threads of this process are doing.

/// At most this many are looked at.
#[cfg(target_os = "linux")]
const MOST: usize = 256;

/// One thread, as the kernel sees it at a freeze. Linux only.
///
/// ```
/// use buttress::supervise::watchdog::ThreadState;
/// let threads = ThreadState::all();
/// # if cfg!(target_os = "linux") {
/// assert!(threads.iter().any(|thread| thread.id == std::process::id()));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadState {
    /// Its number.
    pub id: u32,
    /// Its name, at most 15 bytes of it.
    pub name: String,
    /// The kernel's letter: `R`unning or waiting for a processor, `S`leeping (in a lock, in a wait), `D`isk, …
    pub state: char,
    /// Where in the kernel it waits, if that may be seen: `futex_wait_queue`, `pipe_read`, …
    pub waits_in: Option<String>,
    /// The processor time it has used, in ticks of a hundredth of a second, as a rule.
    pub ticks: u64,
}

impl ThreadState {
    /// All threads of this process, up to 256. Empty outside Linux.
    ///
    /// ```
    /// let threads = buttress::supervise::watchdog::ThreadState::all();
    /// ```
    #[must_use]
    #[cfg(target_os = "linux")]
    pub fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
        entries.filter_map(|entry| Self::of(&entry.ok()?.path())).take(MOST).collect()
    }

    /// All threads of this process. Not to be had here.
    ///
    /// ```
    /// assert!(buttress::supervise::watchdog::ThreadState::all().is_empty());
    /// ```
    #[must_use]
    #[cfg(not(target_os = "linux"))]
    pub fn all() -> Vec<Self> {
        Vec::new()
    }

    #[cfg(target_os = "linux")]
    fn of(task: &std::path::Path) -> Option<Self> {
        let id = task.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read(task.join("stat")).ok()?;
        // The name is in parentheses and may hold any.
        let open = stat.iter().position(|byte| *byte == b'(')?;
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?; // field 3
        let user: u64 = fields.nth(10)?.parse().ok()?; // field 14
        let system: u64 = fields.next()?.parse().ok()?;
        let waits_in = std::fs::read_to_string(task.join("wchan")).ok();
        let waits_in = waits_in.filter(|place| !place.is_empty() && place != "0");
        Some(Self { id, name, state, waits_in, ticks: user + system })
    }
}
