//! What promtool checks, for tests: those here and `tests/admin`.

/// The grammar of the text format 0.0.4 and of OpenMetrics, as far as counters and gauges use it. Gives the
/// series. `open`: of OpenMetrics.
pub(crate) fn parse(text: &str, open: bool) -> Vec<String> {
    let name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
            && !name.as_bytes()[0].is_ascii_digit()
    };
    let mut families: Vec<(String, String)> = Vec::new();
    let mut series = Vec::new();
    let mut ended = false;
    assert!(text.ends_with('\n'));
    for line in text[..text.len() - 1].split('\n') {
        assert!(!ended, "after the end: {line}");
        assert!(!line.contains('\r') && !line.is_empty(), "{line:?}");
        if line == "# EOF" {
            ended = true;
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(name(help.split_once(' ').unwrap().0), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (family, kind) = kind.split_once(' ').unwrap();
            assert!(name(family) && matches!(kind, "gauge" | "counter"), "{line}");
            assert!(families.iter().all(|(other, _)| other != family), "twice: {family}");
            families.push((family.into(), kind.into()));
        } else {
            let (family, kind) = families.last().unwrap();
            let end = line.find(['{', ' ']).unwrap();
            let wanted = match (open, kind.as_str()) {
                (true, "counter") => format!("{family}_total"),
                _ => family.clone(),
            };
            assert_eq!(line[..end], wanted, "in its family");
            let mut rest = &line[end..];
            if let Some(labels) = rest.strip_prefix('{') {
                let mut names = Vec::new();
                rest = labels;
                loop {
                    let (label, after) = rest.split_once("=\"").unwrap();
                    assert!(
                        name(label) && !label.contains(':') && !names.contains(&label),
                        "{line}"
                    );
                    names.push(label);
                    let mut chars = after.char_indices();
                    let close = loop {
                        match chars.next().unwrap() {
                            (_, '\\') => assert!(
                                matches!(chars.next().unwrap().1, '\\' | '"' | 'n'),
                                "{line}"
                            ),
                            (at, '"') => break at,
                            _ => {}
                        }
                    };
                    rest = &after[close + 1..];
                    match rest.strip_prefix(',') {
                        Some(more) => rest = more,
                        None => break,
                    }
                }
                rest = rest.strip_prefix('}').unwrap();
            }
            let value = rest.strip_prefix(' ').unwrap();
            assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
            series.push(line[..line.len() - rest.len()].to_owned());
        }
    }
    assert_eq!(ended, open);
    let mut distinct = series.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), series.len(), "each series once");
    series
}
