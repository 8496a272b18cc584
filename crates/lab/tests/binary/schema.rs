//! Schemas: what is published is what the program prints, files that ship are valid, and slips are not.

use super::{Place, TINY, json};
use heldout_lab::{Study, fragments, project_root, recipes};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn file(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/schema/{kind}.schema.json"))
}

/// What the published schema of a kind of file says against each of these, if it says anything.
fn refusals<S: AsRef<str>>(kind: &str, files: &[(S, Value)]) -> Vec<String> {
    let schema = jsonschema::validator_for(&json(&file(kind))).unwrap();
    let mut said = Vec::new();
    for (name, value) in files {
        let errors = schema.validate(value).err().into_iter().flatten();
        said.extend(errors.map(|e| format!("{}: {}: {e:.400}", name.as_ref(), e.instance_path)));
    }
    said
}

/// Files of TOML as JSON.
fn read(files: Vec<(String, PathBuf)>) -> Vec<(String, Value)> {
    let parse = |path: &Path| toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    files.into_iter().map(|(name, path)| (name, parse(&path))).collect()
}

#[track_caller]
pub(crate) fn assert_is_valid_study(path: &Path) {
    let said = refusals("study", &[("study.json", json(path))]);
    assert!(said.is_empty(), "{said:#?}");
}

#[test]
fn published_schemas_are_what_the_program_prints() {
    let place = Place::new();
    for kind in ["recipe", "fragment", "autoencoder", "study"] {
        let same = fs::read_to_string(file(kind)).is_ok_and(|text| text == place.succeed(&["schema", kind]));
        let path = format!("docs/schema/{kind}.schema.json");
        assert!(same, "{path} is out of date: target/debug/heldout schema {kind} > {path}");
    }
    let known = place.run(&["schema", "arm"]);
    assert_eq!(known.status.code(), Some(2));
}

#[test]
fn what_ships_is_valid() {
    let found = read(recipes());
    assert!(found.len() > 10);
    let mut said = refusals("recipe", &found);
    said.extend(refusals("fragment", &read(fragments())));
    let autoencoder = project_root().join("recipes/autoencoders/pixel-faces.toml");
    said.extend(refusals("autoencoder", &read(vec![("pixel-faces".to_owned(), autoencoder)])));
    // As run folders have them, with all that was left out.
    for (name, path) in recipes() {
        let arms = Study::read(&path, &[]).unwrap().arms.into_iter();
        let whole: Vec<(String, Value)> = arms
            .map(|(arm, recipe)| (format!("{name}, {arm}"), toml::Table::try_from(recipe).unwrap()))
            .map(|(arm, table)| (arm, serde_json::to_value(table).unwrap()))
            .collect();
        said.extend(refusals("fragment", &whole));
    }
    assert!(said.is_empty(), "{said:#?}");
}

#[test]
fn slips_are_refused_and_partial_tables_are_not() {
    let changed = |from: &str, to: &str| {
        assert!(TINY.contains(from), "{from}");
        let recipe: Value = toml::from_str(&TINY.replace(from, to)).unwrap();
        (to.to_owned(), recipe)
    };
    let compare = "compare = { baseline = \"few\", outcomes = ";
    let slips = [
        changed("layers_per_block", "layers_per_blocks"),
        changed("n_train = 16", "n_trains = 16"),
        changed("steps = 30", "steps = \"many\""),
        changed("batch_size = 16", "batch_size = -16"),
        changed("kind = \"unet\"", "kind = \"unets\""),
        changed("kind = \"min_snr\", gamma", "kind = \"min_snr\", gammas"),
        changed(", max_norm = 1.0", ""), // a list is no change to another: what it holds is whole
        changed("seeds = [0]", "seeds = []"),
        changed("seeds = [0]", "seed = 0"),
        changed("seeds = [0]", "seeds = [0]\nanswer = true"),
        changed("arms = {", "other = {"),
        changed("arms = { few = {", "arms = { \"a/b\" = {"),
        changed("arms = { few = {", "arms = { few = { with = \"sam\", "),
        changed("seeds = [0]", &format!("seeds = [0]\n{compare}[\"c_t\"] }}")),
        changed("seeds = [0]", "seeds = [0]\ngrid.n = { key = \"data.split.n_train\", values = [] }"),
    ];
    for slip in slips {
        assert!(!refusals("recipe", std::slice::from_ref(&slip)).is_empty(), "{} is let through", slip.0);
    }
    let fine = [
        changed("arms = {", "arms = { narrow = { model = { block_out_channels = [8, 16] } },"),
        changed("arms = {", "arms = { sam = { with = [\"sam\"], train = { optimizer = { eps = 1e-6 } } },"),
        changed("arms = {", "arms = { edm = { schedule = { kind = \"edm\" } },"),
        changed(
            "arms = { few = { data = { split = { n_train = 16 } } }, many = {} }",
            "grid.n.key = \"data.split.n_train\"\ngrid.n.values = [16, 500]",
        ),
        changed("checkpoint = { every = 5, keep = 3 }", ""), // the arms may have it
        changed("seeds = [0]", &format!("seeds = [0]\n{compare}[\"gap\", \"fd_infinity\"] }}")),
        changed("max_norm = 1.0", "max_norm = 1"),
    ];
    let said = refusals("recipe", &fine);
    assert!(said.is_empty(), "{said:#?}");
}
