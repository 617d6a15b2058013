//! Keeps the house tidy: layers import only what is below them, files and functions stay small.

#![allow(clippy::unwrap_used, reason = "a test that can't read the sources has failed")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the bottom up, with a number each: a layer may import those with smaller numbers
/// (docs/architecture.md). Equal numbers stand beside each other and do not see each other.
const LAYERS: &[(&str, u32)] = &[
    ("types", 0),
    ("format", 1),
    ("remote", 2),
    ("local", 2),
    ("chunks", 3),
    ("tree", 4),
    ("namespace", 5),
    ("fs", 6),
    ("workspace", 7),
    ("fuse", 8),
    ("control", 8),
    ("cli", 9),
];

/// Most lines of code in a file, without blank lines, comments and tests.
const FILE_CODE_LINES_MAX: usize = 500;

/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 100;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    rust_files(&root().join("src"), &mut paths);
    paths.sort();
    assert!(paths.len() > 10, "found only {paths:?}");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The layer that a file of `src/` belongs to, or none for `lib.rs` and `main.rs`.
fn layer_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next()?.as_os_str().to_str()?;
    (inside.components().count() > 1).then(|| first.to_owned())
}

/// Names of our layers that follow `crate::` in a line of code, also inside `crate::{a, b}`.
fn imports(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or("");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or("").split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            found.push(&name[..end]);
        }
    }
    found
}

#[test]
fn a_layer_imports_only_what_is_below_it() {
    let rank: HashMap<&str, u32> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(layer) = layer_of(&path) else { continue };
        let own = *rank.get(layer.as_str()).unwrap_or_else(|| panic!("{layer} is in no layer"));
        for (number, line) in text.lines().enumerate() {
            for import in imports(line) {
                let allowed = import == layer || rank.get(import).is_some_and(|&r| r < own);
                if !allowed {
                    wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_lines_fit() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let code_lines = body.lines().filter(is_code).count();
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs");
        if code_lines > FILE_CODE_LINES_MAX && !is_test {
            wrong.push(format!("{}: {code_lines} lines of code", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX {
                wrong.push(format!("{}:{}: line too long", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_layer_says_what_it_is_for() {
    for (layer, _) in LAYERS {
        let text = fs::read_to_string(root().join("src").join(layer).join("mod.rs")).unwrap();
        assert!(text.starts_with("//! "), "src/{layer}/mod.rs has no module documentation");
    }
}

#[test]
fn each_crash_point_has_a_test_that_dies_there_and_stands_in_the_documentation() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let files = ["tests/crash/kill.rs", "tests/workspace/crash.rs", "tests/cli/replace.rs"];
    let tests: String = files.map(read).concat();
    let page = read("docs/testing.md");
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, text) in sources() {
        for call in ["crash_point(\"", "crash_point_after(\""] {
            for found in text.split(call).skip(1) {
                let name = found.split('"').next().unwrap_or("");
                count += 1;
                if !tests.contains(&format!("\"{name}\"")) {
                    wrong.push(format!("{}: no test dies at {name}", path.display()));
                }
                if !page.contains(&format!("`{name}`")) {
                    wrong.push(format!("{}: {name} is not in docs/testing.md", path.display()));
                }
            }
        }
    }
    assert!(count > 20, "{count} crash points found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_remote_is_async() {
    // Servers of the control socket are async by their library; everything else blocks.
    let allowed = ["remote", "control", "cli"];
    for (path, text) in sources() {
        let layer = layer_of(&path).unwrap_or_default();
        let is_async = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or("");
            code.contains("async fn") || code.contains(".await")
        });
        assert!(!is_async || allowed.contains(&layer.as_str()), "async in {}", path.display());
    }
}

#[test]
fn the_import_check_sees_lists_and_paths() {
    assert_eq!(imports("use crate::types::Ino;"), ["types"]);
    assert_eq!(imports("use crate::{fs::Caller, types};"), ["fs", "types"]);
    assert_eq!(imports("let x = crate::fuse::mount(); // crate::cli"), ["fuse"]);
    assert!(imports("// crate::cli").is_empty());
}
