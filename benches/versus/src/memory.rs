//! Live bytes of a keyed limiter, by key.

use crate::counted;

/// Live bytes that `make` leaves behind.
pub(crate) fn live<T>(make: impl FnOnce() -> T) -> i64 {
    let before = counted::tally().live;
    let made = make();
    let after = counted::tally().live;
    drop(made);
    after - before
}

/// Prints `name, keys, bytes` lines. Only `versus-count` has the allocator for it.
pub fn print() {
    for keys in [1, 10_000, 1_000_000] {
        let bytes =
            live(|| crate::peers::limit::governor_keyed(keys, std::hash::RandomState::new()));
        println!("governor\t{keys}\t{bytes}");
        println!("us\t{keys}\t{}", crate::us::live_bytes(keys));
    }
}

pub struct Line {
    pub name: String,
    pub keys: u64,
    pub bytes: i64,
}

pub fn run() -> Vec<Line> {
    let Some(text) = counted::ask("memory", &[]) else { return Vec::new() };
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            Some(Line {
                name: fields.next()?.to_owned(),
                keys: fields.next()?.parse().ok()?,
                bytes: fields.next()?.parse().ok()?,
            })
        })
        .collect()
}
