//! Every public function shows how it is used, in an example that runs.

use std::fs;
use std::path::{Path, PathBuf};

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

fn is_public_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("pub")
        && words.find(|word| !["async", "const", "unsafe"].contains(word)) == Some("fn")
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
            text.push_str(line);
        } else {
            break;
        }
    }
    // What has none is no part of the interface: the compiler asks for one.
    text.contains("///").then_some(text)
}

#[test]
fn every_public_function_has_an_example() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (mut seen, mut bare) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
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
