//! The same numbers as diffusers for the same weights, on every block type and option: outputs, gradients, names, shapes.

use crate::piece::few;
use crate::{Model, ModelConfig};
use heldout_core::{Cond, Error, Input, Params, Result};
use heldout_testkit::Golden;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

#[derive(serde::Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    class: String,
    config: Map<String, Value>,
    parameters: BTreeMap<String, Vec<i64>>,
    inputs: Vec<String>,
    no_gradient: Vec<String>,
}

/// The weights that make_models.py gives the peer: a hash of the number of the parameter and of the place in it.
fn weight(name: &str, number: i64, shape: &[i64]) -> Tensor {
    let size: i64 = shape.iter().product();
    let value = |i: i64| {
        let mut h = (i * 2_654_435_761 + (number + 1) * 2_246_822_519) % (1 << 32);
        for _ in 0..2 {
            h = (((h >> 16) ^ h) * 73_244_475) % (1 << 32);
        }
        let u = ((h >> 16) ^ h) as f64 / 4_294_967_296.0 - 0.5;
        match shape.len() {
            0 | 1 => 0.3 * u + if name.ends_with(".weight") { 1.0 } else { 0.0 },
            _ => u * 2.0 / (size as f64 / shape[0] as f64).sqrt(),
        }
    };
    Tensor::from_slice(&(0..size).map(value).collect::<Vec<_>>()).to_kind(Kind::Float).view(shape)
}

/// The sum of a gradient, its sum with a wave, and its length: what the golden file keeps of each.
fn signature(gradient: &Tensor) -> [f64; 3] {
    let g = gradient.to_kind(Kind::Double).flatten(0, -1);
    let i = Tensor::arange(g.size()[0], (Kind::Double, Device::Cpu));
    let wave = (i * 0.1 + 0.3).cos();
    [g.sum(Kind::Double), (&g * wave).sum(Kind::Double), g.square().sum(Kind::Double).sqrt()]
        .map(|t| t.double_value(&[]))
}

fn largest(difference: &Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

/// False for what is not a number.
fn within(off: f64, tolerance: f64) -> bool {
    off.abs() < tolerance
}

fn model(case: &Case, kind: Kind) -> Result<Model> {
    let mut config = case.config.clone();
    config.insert("_class_name".to_owned(), case.class.clone().into());
    let mut model = Model::fresh(ModelConfig::from_json(&config)?, Device::Cpu)?;
    let tensors = model.tensors();
    let shapes: BTreeMap<String, Vec<i64>> = tensors.iter().map(|(n, t)| (n.clone(), t.size())).collect();
    let only = |a: &BTreeMap<String, Vec<i64>>, b: &BTreeMap<String, Vec<i64>>| {
        a.iter().filter(|(n, s)| b.get(*n) != Some(s)).map(|(n, s)| format!("{n} {s:?}")).collect::<Vec<_>>()
    };
    let (ours, theirs) = (only(&shapes, &case.parameters), only(&case.parameters, &shapes));
    if !(ours.is_empty() && theirs.is_empty()) {
        let reason = format!("ours alone {:?}, theirs alone {:?}", few(&ours), few(&theirs));
        return Err(Error::config("parameters", reason));
    }
    tch::no_grad(|| {
        for (number, (name, t)) in tensors.iter().enumerate() {
            t.shallow_clone().copy_(&weight(name, number as i64, &t.size()));
        }
    });
    model.vars.set_kind(kind);
    Ok(model)
}

/// What differs, in lines.
fn differences(case: &Case, golden: &Golden, kind: Kind, tolerance: f64) -> Vec<String> {
    let model = match model(case, kind) {
        Ok(model) => model,
        Err(e) => return vec![format!("{}: {e}", case.name)],
    };
    let get = |what: &str| golden.get(&format!("{}.{what}", case.name));
    let floats = |t: Tensor| if t.kind() == Kind::Float { t.to_kind(kind) } else { t };
    let has = |name: &str| case.inputs.iter().any(|n| n == name);
    let cond = Cond::from_fields(|name| has(name).then(|| floats(get(name))));
    let x = get("sample").to_kind(kind).set_requires_grad(true);
    let level = get("timestep");
    let level = if level.kind() == Kind::Int64 { level.to_kind(Kind::Float) } else { level };
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    let mut found = Vec::new();
    if let Err(e) = model.backbone.check(input) {
        found.push(format!("{}: {e}", case.name));
    }
    let out = model.backbone.forward(input, &mut ());
    let off = largest(&(&out - get("out")));
    if !within(off, tolerance) {
        found.push(format!("{}: output off by {off:e}", case.name));
    }
    out.square().mean(kind).backward();
    let off = largest(&(x.grad() - get("grad_sample")));
    if !within(off, tolerance) {
        found.push(format!("{}: gradient of sample off by {off:e}", case.name));
    }
    let theirs = get("grads");
    let params = Params::of(&model.vars);
    for (number, name) in case.parameters.keys().enumerate() {
        let gradient = params.named().find(|(n, _)| n == name).map(|(_, t)| t.grad()).filter(Tensor::defined);
        let Some(gradient) = gradient else {
            if !case.no_gradient.contains(name) {
                found.push(format!("{}: {name} has no gradient", case.name));
            }
            continue;
        };
        let ours = signature(&gradient);
        let scale = (gradient.numel() as f64).sqrt();
        for (i, ours) in ours.into_iter().enumerate() {
            let theirs = theirs.double_value(&[number as i64, i as i64]);
            if !within(ours - theirs, tolerance * scale) {
                found.push(format!("{}: gradient of {name}: {ours:e}, not {theirs:e}", case.name));
                break;
            }
        }
    }
    found
}

#[test]
fn every_option_gives_the_numbers_of_diffusers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models.json");
    let cases: Cases = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "models");
    let mut found = Vec::new();
    for case in &cases.cases {
        for (kind, tolerance) in [(Kind::Double, 1e-10), (Kind::Float, 2e-5)] {
            let lines = differences(case, &golden, kind, tolerance);
            found.extend(lines.into_iter().take(4).map(|l| format!("{kind:?} {l}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
