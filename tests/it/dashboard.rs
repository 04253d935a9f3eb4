//! The dashboard in `examples/grafana` is made from the table of instruments. `BUTTRESS_UPDATE=1` writes it anew.

use buttress::observe::{INSTRUMENTS, Instrument, InstrumentKind};
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/grafana/dashboard.json");
const FILTER: &str = r#"layer=~"$layer", name=~"$name""#;

/// The query of an instrument and what its lines are called.
fn query(i: &Instrument) -> (String, String) {
    let name = i.prometheus();
    let legend: Vec<_> = i.labels.iter().map(|label| format!("{{{{{label}}}}}")).collect();
    let by = i.labels.join(", ");
    let filter = if i.labels.contains(&"layer") { FILTER } else { "" };
    let expr = match i.kind {
        InstrumentKind::Counter => {
            format!("sum by ({by}) (rate({name}{{{filter}}}[$__rate_interval]))")
        }
        InstrumentKind::Histogram => format!(
            "histogram_quantile(0.99, sum by ({by}, le) (rate({name}_bucket{{{filter}}}[$__rate_interval])))"
        ),
        _ => format!("max by ({by}) ({name}{{{filter}}})"),
    };
    (expr, legend.join(" "))
}

fn unit(i: &Instrument) -> &'static str {
    match (i.kind, i.unit) {
        (InstrumentKind::Counter, _) => "ops",
        (_, "s") => "s",
        (_, "1") => "percentunit",
        _ => "short",
    }
}

fn dashboard() -> Value {
    let source = json!({"type": "prometheus", "uid": "${source}"});
    // What says whether somebody has to look comes first; the table gives the rest.
    let first = ["buttress.object.level", "buttress.object.state"];
    let rank =
        |i: &&Instrument| first.iter().position(|name| *name == i.name).unwrap_or(first.len());
    let mut ordered: Vec<_> = INSTRUMENTS.iter().collect();
    ordered.sort_by_key(rank);
    let panels: Vec<_> = ordered
        .iter()
        .enumerate()
        .map(|(n, i)| {
            let (expr, legend) = query(i);
            let kind = if rank(i) < first.len() { "state-timeline" } else { "timeseries" };
            json!({
                "id": n + 1,
                "type": kind,
                "title": i.description,
                "description": format!("{} ({})", i.name, i.unit),
                "datasource": source,
                "gridPos": {"x": 12 * (n % 2), "y": 8 * (n / 2), "w": 12, "h": 8},
                "fieldConfig": {"defaults": {"unit": unit(i), "min": 0}, "overrides": []},
                "targets": [{"refId": "A", "datasource": source, "expr": expr, "legendFormat": legend}],
            })
        })
        .collect();
    let choice = |label: &str| {
        json!({
            "name": label, "type": "query", "datasource": source, "includeAll": true, "multi": true,
            "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "refresh": 2,
            "query": format!("label_values(buttress_object_level, {label})"),
        })
    };
    json!({
        "title": "buttress", "uid": "buttress", "schemaVersion": 39, "editable": true, "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus"}, choice("layer"), choice("name"),
        ]},
        "panels": panels,
    })
}

#[test]
fn the_dashboard_shows_every_instrument() {
    let made = format!("{:#}\n", dashboard());
    if std::env::var_os("BUTTRESS_UPDATE").is_some() {
        std::fs::write(PATH, &made).unwrap();
    }
    let kept = std::fs::read_to_string(PATH).unwrap();
    assert_eq!(kept, made, "run it again with BUTTRESS_UPDATE=1");
    for i in INSTRUMENTS {
        assert!(kept.contains(&i.prometheus()), "{}", i.name);
    }
}
