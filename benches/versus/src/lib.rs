//! buttress and its peers in one process. See `README.md`.

pub mod case;
pub mod counted;
pub mod floor;
pub mod goals;
pub mod http;
pub mod idem;
pub mod instructions;
pub mod load;
pub mod memory;
pub mod peers;
pub mod report;
pub mod scaling;
pub mod smoke;
pub mod stores;
pub mod timing;
pub mod us;

pub use case::{Case, Expect};

/// Every case, peers next to us.
pub fn cases() -> Vec<Case> {
    let mut all = floor::cases();
    all.extend(idem::cases());
    all.extend(us::cases());
    all.extend(peers::breaker::cases());
    all.extend(peers::limit::cases());
    all.extend(peers::retry::cases());
    all.extend(peers::fault::cases());
    all.extend(peers::stack::cases());
    all.extend(peers::throttle::cases());
    all.extend(http::cases());
    all.extend(peers::idem::cases());
    // Neighbours in the table: by area, then by what is done, in the order in which that first came up.
    let key = |case: &Case| {
        let what = case.name.split('/').nth(1).unwrap_or_default();
        (case.area().to_owned(), what.to_owned())
    };
    let mut order = Vec::new();
    for case in &all {
        let key = key(case);
        if !order.contains(&key) {
            order.push(key);
        }
    }
    let areas = [
        "floor", "breaker", "limit", "keyed", "throttle", "retry", "budget", "fault", "stack",
        "http", "idem",
    ];
    all.sort_by_key(|case| {
        let key = key(case);
        let area = areas.iter().position(|area| *area == key.0);
        (area, order.iter().position(|seen| *seen == key))
    });
    all
}

/// The cases whose name contains one of the words; without words, all but the slow ones.
pub fn filtered(words: &[String]) -> Vec<Case> {
    cases()
        .into_iter()
        .filter(|case| {
            words.is_empty() && !case.slow
                || words.iter().any(|word| case.name.contains(word.as_str()))
        })
        .collect()
}

/// A runtime for one thread, as all single-thread passes use it.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Keeps the calling thread on one core; `false` where the system refuses or has no such call.
pub fn pin(core: usize) -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: `set` is a plain bit set, zero is its empty value, and the call only reads it.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = core;
        false
    }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// NaN if one of the values is.
pub fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
