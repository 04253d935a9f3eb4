//! What a settings file may contain: one table, from which reading, `explain`, the JSON Schema and the docs come.

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    Flag,
    Count {
        min: u64,
        max: u64,
    },
    /// A number, or a share when `percent`.
    Number {
        min: f64,
        max: f64,
        percent: bool,
    },
    Seconds {
        min: f64,
        max: f64,
    },
    Rate,
    Text,
    Choice(&'static [&'static str]),
    /// The word that turns it off, or a value.
    Off(&'static str, &'static Self),
    Table(&'static [Field]),
    /// What that can be is short for a table with this one key.
    Short(&'static str, &'static [Field]),
    /// Names to values.
    Map(&'static Self),
    /// The name of an entry of a top-level map, or what such an entry is.
    Named(&'static str, &'static Self),
    List(&'static Self),
    /// One of these keys; its name alone if it is a `Unit`.
    Variant(&'static [Field]),
    Unit,
    /// What is read but means nothing.
    Ignored,
    /// A number of the seed's block: with `clamp` forced into its range.
    Legacy {
        min: f64,
        max: f64,
        whole: bool,
    },
    /// Described once in the JSON Schema.
    Def(&'static str, &'static Self),
}

/// One key.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    /// What holds without it; empty if nothing does.
    pub(super) default: &'static str,
    pub(super) doc: &'static str,
}

impl Kind {
    /// What was expected, for messages.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Count { min, max } if *max == u64::MAX => {
                format!("a whole number, at least {min}")
            }
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number { min, max, percent: true } => {
                format!("a share from {min} to {max}, or a text such as \"5%\"")
            }
            Self::Number { min, max, .. } => format!("a number from {min} to {max}"),
            Self::Legacy { min, max, whole: true } => format!("a whole number from {min} to {max}"),
            Self::Seconds { .. } | Self::Legacy { .. } => {
                "a time: seconds, or a text such as \"250ms\" or \"1m 30s\"".to_owned()
            }
            Self::Rate => "a rate such as \"100/s burst 20\" or \"5/10s\"".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Off(word, kind) => format!("{}, or \"{word}\"", kind.expected()),
            Self::Table(_) | Self::Map(_) => "a table of keys".to_owned(),
            Self::Short(key, fields) => {
                let short = fields.iter().find(|field| field.key == *key);
                match short.map(|field| &field.kind) {
                    None | Some(Self::Text) => {
                        format!("a text for its key {key}, or a table of keys")
                    }
                    Some(kind) => format!("{}, or a table of keys", kind.expected()),
                }
            }
            Self::Named(map, kind) => {
                let or = if matches!(kind.plain(), Self::Short(..)) { "" } else { "or " };
                format!("the name of an entry of {map}, {or}{}", kind.expected())
            }
            Self::List(_) => "a list".to_owned(),
            Self::Variant(of) => {
                let keys: Vec<_> = of.iter().map(|field| field.key).collect();
                format!("one of {}", keys.join(", "))
            }
            Self::Unit => "nothing".to_owned(),
            Self::Ignored => "anything".to_owned(),
            Self::Def(_, kind) => kind.expected(),
        }
    }

    /// Without the name in the JSON Schema.
    pub(super) fn plain(&self) -> &Self {
        match self {
            Self::Def(_, kind) => kind.plain(),
            kind => kind,
        }
    }
}

/// The known key that is nearest to a misspelt one, if any is near.
pub(super) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let key: Vec<char> = key.chars().take(64).collect();
    known
        .map(|candidate| (distance(&key, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's, in which `-` and `_` and the case do not count.
fn distance(a: &[char], b: &str) -> usize {
    let same = |a: char, b: char| {
        let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
        fold(a) == fold(b)
    };
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, b) in b.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (a, above) in a.iter().zip(row.iter_mut().skip(1)) {
            let cost = usize::from(!same(*a, b));
            let new = (corner + cost).min(left + 1).min(*above + 1);
            corner = std::mem::replace(above, new);
            left = new;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
