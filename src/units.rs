//! Times, shares and how they are printed.

/// `"1m 30s"`, `"250ms"`, `"1.5h"`; a number without unit is seconds.
pub(crate) fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Some(number) = number(text) {
        return Some(number);
    }
    // Each unit once, the largest first: everything else is a slip of the pen.
    let (mut total, mut rest, mut last) = (0.0, text, f64::INFINITY);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount = number(rest.get(..digits)?)?;
        rest = rest.get(digits..)?.trim_start();
        let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit = unit(rest.get(..end)?).filter(|unit| *unit < last)?;
        total += amount * unit;
        last = unit;
        rest = rest.get(end..)?.trim_start();
    }
    last.is_finite().then_some(total)
}

fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ns" => 1e-9,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
        "ms" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86400.0,
        _ => return None,
    })
}

/// A finite number, and none of the words Rust also reads.
pub(crate) fn number(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit());
    text.parse::<f64>().ok().filter(|n| digits && n.is_finite())
}

/// `0.05`, `"0.05"`, `"5%"`.
pub(crate) fn ratio(text: &str) -> Option<f64> {
    match text.trim().strip_suffix('%') {
        Some(percent) => number(percent.trim_end()).map(|n| n / 100.0),
        None => number(text.trim()),
    }
}

/// For messages: `250ms`, `90s`, `365d`.
#[cfg(feature = "config")]
pub(crate) fn print(seconds: f64) -> String {
    let whole = |unit: f64| {
        let count = seconds / unit;
        (count >= 1.0 && (count - count.round()).abs() < 1e-9).then(|| count.round())
    };
    for (name, unit) in [("d", 86400.0), ("h", 3600.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)] {
        if let Some(count) = whole(unit) {
            return format!("{count}{name}");
        }
    }
    format!("{:?}", std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
