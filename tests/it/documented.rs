//! Every public function, type and method of a trait shows how it is used, in an example that runs.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Types that cannot be named from outside, though something else of the same name can.
const UNNAMED: &[&str] = &[
    "conditioner/fault.rs Cause",
    "rate_limit/ledger.rs Level",
    "rate_limit/meter.rs Meter",
    "retry/keep.rs Keep",
];

fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !path.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("tests"))
        {
            all.push(path);
        }
    }
}

/// All sources but the tests.
fn texts() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let text = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        (file, text)
    };
    files.into_iter().map(text).collect()
}

/// All that is re-exported in them.
fn names(texts: &[(PathBuf, String)]) -> HashSet<&str> {
    texts.iter().flat_map(|(_, text)| exported(text)).collect()
}

fn is_public_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("pub")
        && words.find(|word| !["async", "const", "unsafe"].contains(word)) == Some("fn")
}

/// The name of a public type that is declared there.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let kinds = ["struct ", "enum ", "trait ", "union ", "type "];
    let rest = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The name of the method that a line of a trait declares, if the trait begins with `indent`.
fn method<'a>(line: &'a str, indent: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(indent)?.strip_prefix("    ")?;
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Whether an example calls or implements a method of that name.
fn shows(comment: &str, name: &str) -> bool {
    let mut examples = comment.split("```").skip(1).step_by(2);
    let marks = ["fn ", ".", "::"].map(|before| format!("{before}{name}("));
    let generic = format!("fn {name}<");
    examples.any(|example| marks.iter().chain([&generic]).any(|mark| example.contains(mark)))
}

/// All words in what is re-exported: a type in a private module that is not among them cannot be named.
fn exported(text: &str) -> impl Iterator<Item = &str> {
    let uses = text.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next());
    uses.flat_map(|names| names.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

/// The comment above line `at`, with attributes in between; `None` if the function is not shown.
fn comment(lines: &[&str], at: usize) -> Option<String> {
    let mut text = String::new();
    // An attribute may go over several lines: then it is read from its end.
    let mut open = 0_usize;
    for line in lines[..at].iter().rev().map(|line| line.trim()) {
        if open > 0 || (line.ends_with(']') && !line.starts_with("//")) {
            if line.contains("doc(hidden)") {
                return None;
            }
            open = (open + line.matches(']').count()).saturating_sub(line.matches('[').count());
        } else if line.starts_with("//") {
            text.insert_str(0, line);
        } else {
            break;
        }
    }
    // What has none is no part of the interface: the compiler asks for one.
    text.contains("///").then_some(text)
}

#[test]
fn every_public_function_has_an_example() {
    let (mut seen, mut bare) = (0, Vec::new());
    for (file, text) in texts() {
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_public_function(line)) {
            let Some(comment) = comment(&lines, at) else { continue };
            seen += 1;
            if !comment.contains("```") {
                bare.push(format!("{}:{}: {}", file.display(), at + 1, line.trim()));
            }
        }
    }
    assert!(seen > 1000, "only {seen} were found");
    assert!(bare.is_empty(), "without an example:\n{}", bare.join("\n"));
}

#[test]
fn every_public_type_has_an_example() {
    let texts = texts();
    let names = names(&texts);
    let (mut seen, mut bare) = (0, Vec::new());
    for (file, text) in &texts {
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(name) = public_type(line) else { continue };
            let open = file.ends_with("mod.rs") || names.contains(name);
            let Some(comment) = comment(&lines, at).filter(|_| open) else { continue };
            seen += 1;
            if !comment.contains("```") {
                let room = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src/"));
                bare.push(format!("{} {name}", room.unwrap().display()));
            }
        }
    }
    assert!(seen > 400, "only {seen} were found");
    bare.sort();
    let new: Vec<_> = bare.iter().filter(|one| !UNNAMED.contains(&one.as_str())).collect();
    assert!(new.is_empty(), "without an example:\n{new:#?}");
    let done: Vec<_> =
        UNNAMED.iter().filter(|one| !bare.iter().any(|bare| bare == **one)).collect();
    assert!(
        done.is_empty(),
        "these have one by now, or are gone: take them off the list:\n{done:#?}"
    );
}

/// The example of a trait may show them all; a method that it leaves out has its own.
#[test]
fn every_method_of_a_public_trait_has_an_example() {
    let texts = texts();
    let names = names(&texts);
    let (mut seen, mut bare) = (0, Vec::new());
    for (file, text) in &texts {
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_trait = line.trim_start().starts_with("pub trait ") && !line.ends_with("{}");
            let name = public_type(line).filter(|_| is_trait);
            let open = name.is_some_and(|name| file.ends_with("mod.rs") || names.contains(name));
            let Some(of_trait) = comment(&lines, at).filter(|_| open) else { continue };
            let indent = &line[..line.len() - line.trim_start().len()];
            let end = format!("{indent}}}");
            let body = lines.iter().enumerate().skip(at + 1).take_while(|(_, line)| **line != end);
            for (at, line) in body {
                let Some(name) = method(line, indent) else { continue };
                let Some(own) = comment(&lines, at) else { continue };
                seen += 1;
                if !own.contains("```") && !shows(&of_trait, name) {
                    bare.push(format!("{}:{}: {name}", file.display(), at + 1));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} were found");
    assert!(bare.is_empty(), "without an example:\n{}", bare.join("\n"));
}
