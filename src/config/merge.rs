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
    .unwrap_or_else(|| Value::new(None, ValueKind::Table(Map::new())))
}
