//! Files, and the places where they are looked for.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use ::config_rs::{Map, Value};

use super::parse::{self, Format};
use super::problem::{Problem, ProblemKind};

/// No settings are larger.
const MAX_MIB: u64 = 4;

/// The current directory, `~`, `~/.config`, and `buttress` and `kstlib` in `XDG_CONFIG_DIRS` (`/etc/xdg`).
pub(super) fn usual_places(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from(".")];
    if let Some(home) = env.get("HOME").filter(|home| !home.is_empty()) {
        places.push(PathBuf::from(home));
        places.push(Path::new(home).join(".config"));
    }
    let system = env.get("XDG_CONFIG_DIRS").filter(|dirs| !dirs.is_empty());
    for directory in system.map_or("/etc/xdg", String::as_str).split(':') {
        places.push(Path::new(directory).join("buttress"));
        places.push(Path::new(directory).join("kstlib"));
    }
    places
}

/// The strongest directory is the first, the strongest source the last. A directory that is named twice is read once.
pub(super) fn searched(
    directories: &[PathBuf],
    sources: &mut Vec<Map<String, Value>>,
    problems: &mut Vec<Problem>,
) {
    let mut seen = HashSet::new();
    let new = |directory: &&PathBuf| match fs::canonicalize(directory) {
        Ok(directory) => seen.insert(directory),
        Err(_) => true,
    };
    let places: Vec<_> = directories.iter().filter(new).collect();
    for directory in places.into_iter().rev() {
        place(directory, sources, problems);
    }
}

/// The seed's file, of which only `resilience` is read.
pub(super) const SEED_FILE: &str = "kstlib.conf.yml";
/// Ours beside it.
pub(super) const NAMES: [&str; 4] =
    ["buttress.yml", "buttress.yaml", "buttress.toml", "buttress.json"];

fn place(directory: &Path, sources: &mut Vec<Map<String, Value>>, problems: &mut Vec<Problem>) {
    let seed = directory.join(SEED_FILE);
    if present(&seed) {
        let mut table = read_file(&seed, problems).unwrap_or_default();
        table.retain(|key, _| key == "resilience");
        sources.push(table);
    }
    let found: Vec<_> =
        NAMES.iter().map(|name| directory.join(name)).filter(|path| present(path)).collect();
    if let [first, second, ..] = found.as_slice() {
        problems.push(Problem::new(
            ProblemKind::Contradiction,
            "",
            format!("beside {}", first.display()),
            second.display().to_string(),
            "one of them in a directory",
        ));
    }
    for path in found {
        sources.extend(read_file(&path, problems));
    }
}

/// Whether something has this name. What cannot be looked at may be there, and is no reason for silence.
fn present(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

pub(super) fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Option<Map<String, Value>> {
    let name = path.display().to_string();
    let name = name.strip_prefix("./").unwrap_or(&name);
    let mut unreadable = |origin: String, value: String, expected: &str| {
        problems.push(Problem::new(ProblemKind::Unreadable, "", value, origin, expected));
        None
    };
    let Some(format) = Format::of(path) else {
        let expected = "a name that ends in .yml, .yaml, .toml or .json";
        return unreadable(name.to_owned(), "unknown format".to_owned(), expected);
    };
    let bytes = match content(path) {
        Ok(bytes) => bytes,
        Err(why) => return unreadable(name.to_owned(), format!("cannot be read: {why}"), ""),
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => Some(parse::parse(name, format, text, problems)),
        Err(error) => {
            let before = bytes.iter().take(error.valid_up_to());
            let line = before.filter(|byte| **byte == b'\n').count() + 1;
            unreadable(format!("{name}:{line}"), "not UTF-8".to_owned(), "a text")
        }
    }
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    // Before it is opened: a pipe would wait for a writer.
    if !fs::metadata(path).map_err(text)?.is_file() {
        return Err("not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let most = MAX_MIB << 20;
    fs::File::open(path).map_err(text)?.take(most + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > most {
        return Err(format!("larger than {MAX_MIB} MiB"));
    }
    Ok(bytes)
}
