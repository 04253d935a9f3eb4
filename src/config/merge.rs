//! The cascade: `config`'s, fed with tables whose values know their origin.

use ::config_rs::{ConfigError, Map, Source, Value, ValueKind};

/// One key for the whole tree: `config` takes top-level keys for paths, and a key of a file is none.
const ROOT: &str = "root";

#[derive(Clone, Debug)]
struct Tree(Map<String, Value>);

impl Source for Tree {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let root = Value::new(None, ValueKind::Table(self.0.clone()));
        Ok(Map::from_iter([(ROOT.to_owned(), root)]))
    }
}

/// Later ones are stronger.
pub(super) fn merge(sources: &[Map<String, Value>]) -> Value {
    let mut builder = ::config_rs::Config::builder();
    for source in sources {
        builder = builder.add_source(Tree(source.clone()));
    }
    let merged = builder.build().ok().map(|config| config.cache.kind);
    match merged {
        Some(ValueKind::Table(mut table)) => table.remove(ROOT),
        _ => None,
    }
    .map(|merged| {
        let roots: Vec<_> = sources.iter().collect();
        adopt(merged, None, &roots)
    })
    .unwrap_or_else(|| Value::new(None, ValueKind::Table(Map::new())))
}

/// Gives tables the origin that `config` keeps for leaves only: that of the strongest source that has the table.
fn adopt(value: Value, origin: Option<&String>, sources: &[&Map<String, Value>]) -> Value {
    let ValueKind::Table(table) = value.kind else { return value };
    let adopted = table.into_iter().map(|(key, value)| {
        let found: Vec<&Value> = sources.iter().filter_map(|source| source.get(&key)).collect();
        let origin = found.iter().rev().find_map(|value| value.origin()).map(str::to_owned);
        let tables: Vec<_> = found
            .iter()
            .filter_map(|value| match &value.kind {
                ValueKind::Table(table) => Some(table),
                _ => None,
            })
            .collect();
        (key, adopt(value, origin.as_ref(), &tables))
    });
    Value::new(origin, ValueKind::Table(adopted.collect()))
}
