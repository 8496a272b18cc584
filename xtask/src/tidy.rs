//! House rules.

use crate::process;
use crate::root::root;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates a crate may depend on, besides `heldout-core`, and `heldout-testkit` for its tests.
const EDGES: [(&str, &[&str]); 22] = [
    ("heldout-core", &[]),
    ("heldout-testkit", &[]),
    ("heldout-torch-ext", &[]),
    ("heldout-nn", &["heldout-torch-ext"]),
    ("heldout-schedules", &[]),
    ("heldout-samplers", &["heldout-schedules"]),
    ("heldout-unet", &["heldout-nn"]),
    ("heldout-unetpp", &["heldout-nn", "heldout-unet"]),
    ("heldout-dit", &["heldout-nn"]),
    ("heldout-regularization", &["heldout-nn", "heldout-torch-ext"]),
    ("heldout-metrics", &["heldout-statistics"]),
    ("heldout-data", &[]),
    ("heldout-features", &["heldout-nn", "heldout-weights"]),
    ("heldout-diagnosis", &[]),
    ("heldout-statistics", &[]),
    ("heldout-train", &["heldout-statistics", "heldout-torch-ext"]),
    ("heldout-vae", &["heldout-nn", "heldout-torch-ext"]),
    ("heldout-adapters", &["heldout-nn", "heldout-unet", "heldout-dit"]),
    (
        "heldout-weights",
        &["heldout-adapters", "heldout-nn", "heldout-unet", "heldout-unetpp", "heldout-dit", "heldout-vae"],
    ),
    (
        "heldout-lab",
        &[
            "heldout-adapters",
            "heldout-data",
            "heldout-features",
            "heldout-diagnosis",
            "heldout-dit",
            "heldout-metrics",
            "heldout-nn",
            "heldout-regularization",
            "heldout-samplers",
            "heldout-schedules",
            "heldout-statistics",
            "heldout-torch-ext",
            "heldout-train",
            "heldout-unet",
            "heldout-vae",
            "heldout-weights",
        ],
    ),
    (
        "heldout-benches",
        &[
            "heldout-features",
            "heldout-nn",
            "heldout-samplers",
            "heldout-schedules",
            "heldout-torch-ext",
            "heldout-train",
            "heldout-vae",
            "heldout-weights",
        ],
    ),
    ("xtask", &[]),
];
const LONGEST_FILE: usize = 500;
const LONGEST_RECIPE: usize = 80;

/// Prints each violation; an error if there is one.
pub(crate) fn run() -> Result<()> {
    let root = root();
    let mut found = Vec::new();
    for path in files(&root)? {
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        found.extend(check_text(&name, &text));
    }
    let metadata = process::cargo().args(["metadata", "--format-version", "1"]).output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    found.extend(check_edges(&metadata));
    found.extend(check_crates(&root, &metadata));
    found.iter().for_each(|f| println!("{f}"));
    if !found.is_empty() {
        bail!("{} house rules are broken", found.len());
    }
    Ok(())
}

/// The files that git tracks or would track, of the kinds that have rules.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git does not start")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ruled =
        |p: &PathBuf| p.extension().is_some_and(|e| ["rs", "toml", "md", "py"].iter().any(|k| e == *k));
    Ok(listed.lines().map(|l| root.join(l)).filter(ruled).filter(|p| p.is_file()).collect())
}

fn check_text(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |line: usize, rule: &str| found.push(format!("{name}:{line}: {rule}"));
    for (i, line) in text.lines().enumerate() {
        if line.ends_with([' ', '\t']) {
            say(i + 1, "trailing space");
        }
        if line.contains('\t') {
            say(i + 1, "tab");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        say(text.lines().count(), "no newline at the end");
    }
    let lines = text.lines().count();
    if name.ends_with(".rs") {
        if !text.starts_with("//!") && !text.starts_with("#![doc") {
            say(1, "a module starts with a `//!` line that says what it is");
        }
        if lines > LONGEST_FILE {
            say(lines, "a file of more than 500 lines is two files");
        }
        // Put together from parts, so that this file does not break its own rule.
        for banned in [
            concat!("todo", "!("),
            concat!("unimplemented", "!("),
            concat!("dbg", "!("),
            concat!("#[ign", "ore"),
        ] {
            if let Some(i) = text.lines().position(|l| l.contains(banned)) {
                say(i + 1, &format!("`{banned}` does not land"));
            }
        }
    }
    if name.starts_with("recipes/with/") && !text.starts_with("# ") {
        say(1, "a fragment starts with a comment: what it is, and its paper");
    } else if name.starts_with("recipes/") && !name.starts_with("recipes/with/") {
        let header: String = text.lines().take_while(|l| l.starts_with('#')).collect();
        if !header.contains('?') || !header.contains("cargo xtask") {
            say(1, "a recipe starts with a comment: its question and its command");
        }
        if lines > LONGEST_RECIPE {
            say(lines, "a recipe of more than 80 lines");
        }
    }
    found
}

/// Our crates see only whom they may, and xtask has no path to libtorch.
fn check_edges(metadata: &Value) -> Vec<String> {
    let allowed: HashMap<&str, &[&str]> = EDGES.into_iter().collect();
    let members: BTreeSet<&str> = array(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let mut found = Vec::new();
    for package in
        array(&metadata["packages"]).filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id)))
    {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = allowed.get(name) else {
            found.push(format!("{name}: is not in tidy's table of edges"));
            continue;
        };
        for dependency in array(&package["dependencies"]).filter(|d| d["path"].is_string()) {
            let to = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"] == "dev";
            let core = to == "heldout-core" && name != "xtask";
            if !(is_dev || core || may.contains(&to)) {
                found.push(format!("{name}: may not depend on {to}"));
            }
        }
    }
    if let Some(path) = path_to(metadata, "xtask", "torch-sys") {
        found.push(format!("xtask: reaches torch-sys by {path}"));
    }
    found
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A chain of normal or build dependencies from one package to another.
fn path_to(metadata: &Value, from: &str, to: &str) -> Option<String> {
    let name_of: BTreeMap<&str, &str> =
        array(&metadata["packages"]).filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?))).collect();
    let nodes: BTreeMap<&str, &Value> =
        array(&metadata["resolve"]["nodes"]).filter_map(|n| Some((n["id"].as_str()?, n))).collect();
    let start = name_of.iter().find(|(_, n)| **n == from).map(|(id, _)| *id)?;
    let mut queue = vec![vec![start]];
    let mut seen = BTreeSet::from([start]);
    while let Some(path) = queue.pop() {
        let last = path[path.len() - 1];
        if name_of.get(last) == Some(&to) {
            return Some(
                path.iter().filter_map(|id| name_of.get(id).copied()).collect::<Vec<_>>().join(" -> "),
            );
        }
        for dep in nodes.get(last).into_iter().flat_map(|n| array(&n["deps"])) {
            let is_dev = array(&dep["dep_kinds"]).all(|k| k["kind"] == "dev");
            if let Some(id) = dep["pkg"].as_str().filter(|id| !is_dev && seen.insert(id)) {
                queue.push([path.clone(), vec![id]].concat());
            }
        }
    }
    None
}

/// Every crate has a README and a description.
fn check_crates(root: &Path, metadata: &Value) -> Vec<String> {
    let ours = array(&metadata["packages"]).filter(|p| p["source"].is_null());
    let mut found = Vec::new();
    for package in ours {
        let name = package["name"].as_str().unwrap_or_default();
        let folder =
            Path::new(package["manifest_path"].as_str().unwrap_or_default()).parent().unwrap_or(root);
        if !folder.join("README.md").is_file() {
            found.push(format!("{name}: has no README.md"));
        }
        if package["description"].is_null() {
            found.push(format!("{name}: has no description"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(name: &str, text: &str, expected: &str) {
        let found = check_text(name, text);
        assert!(found.iter().any(|f| f.contains(expected)), "{found:?}");
    }

    #[test]
    fn every_rule_can_be_broken() {
        assert!(check_text("a.rs", "//! Fine.\n").is_empty());
        check("a.rs", "//! Fine.\nlet x = 1; \n", "a.rs:2: trailing space");
        check("a.rs", "//! Fine.\n\tlet x = 1;\n", "tab");
        check("a.md", "text", "no newline");
        check("a.rs", "fn main() {}\n", "starts with");
        check("a.rs", &("//! Long.\n".repeat(501)), "500 lines");
        check("a.rs", concat!("//! A.\nto", "do!();\n"), "does not land");
        check("recipes/a.toml", "name = 1\n", "question");
        assert!(check_text("recipes/a.toml", "# Why?\n# cargo xtask experiment a\n").is_empty());
    }

    fn metadata(dependency: &str, kind: Option<&str>) -> Value {
        json!({
            "workspace_members": ["u", "x"],
            "packages": [
                {"id": "u", "name": "heldout-unet", "dependencies": [{"name": dependency, "path": "p", "kind": kind}]},
                {"id": "x", "name": "xtask", "dependencies": []},
                {"id": "z", "name": "zip", "dependencies": []},
                {"id": "t", "name": "torch-sys", "dependencies": []},
            ],
            "resolve": {"nodes": [
                {"id": "x", "deps": [{"pkg": "z", "dep_kinds": [{"kind": null}]}]},
                {"id": "z", "deps": [{"pkg": "t", "dep_kinds": [{"kind": kind}]}]},
            ]},
        })
    }

    #[test]
    fn edges_are_checked() {
        let found = check_edges(&metadata("heldout-schedules", None));
        assert_eq!(
            found,
            [
                "heldout-unet: may not depend on heldout-schedules",
                "xtask: reaches torch-sys by xtask -> zip -> torch-sys",
            ]
        );
        assert!(check_edges(&metadata("heldout-schedules", Some("dev"))).is_empty());
        assert_eq!(check_edges(&metadata("heldout-nn", None)).len(), 1);
    }
}
