//! Low-rank parts beside layers.

use super::{F32, made, randomise};
use crate::{
    Attention, AttentionInput, AttentionShape, Conv2d, Linear, LowRankSites, adaptable, count,
    without_storage,
};
use heldout_testkit::close;
use std::cell::Cell;
use std::rc::Rc;
use tch::{Device, Kind, Tensor, nn};

/// Parts of this rank and scale beside every layer of `sites`, in a store of their own.
fn add(sites: &LowRankSites, rank: i64, scale: f64) -> (nn::VarStore, Rc<Cell<f64>>) {
    let (vars, gain) = (nn::VarStore::new(Device::Cpu), Rc::new(Cell::new(1.0)));
    for (name, site) in sites {
        let path = name.split('.').fold(vars.root(), |path, part| path / part);
        let _ = site.add(&path, rank, scale, &gain);
    }
    (vars, gain)
}

/// By their formula on every kind of layer, as two steps and as one weight.
#[test]
fn parts_are_added_and_merge() {
    for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
        let ((base, conv), sites) =
            adaptable(|| made(|vs| Conv2d::new(&(vs / "block" / "conv"), 5, 7, kernel, stride)));
        let x = Tensor::randn([2, 5, 9, 8], F32);
        let before = conv.forward(&x);
        let (low, gain) = add(&sites, 3, 0.5);
        assert!(conv.forward(&x).equal(&before), "a new part changes something");
        randomise(&low);
        let get = |name: &str| low.variables()[&format!("block.conv.lora_{name}.weight")].detach();
        let product = get("B").flatten(1, -1).matmul(&get("A").flatten(1, -1));
        assert_eq!(get("A").size(), [3, 5, kernel, kernel]);
        let weight = &base.variables()["block.conv.weight"];
        let original = weight.detach().copy();
        for strength in [1.0, -0.7] {
            gain.set(strength);
            let whole = &original + product.view_as(&original) * 0.5 * strength;
            let (stride, padding) = ([stride; 2], [kernel / 2; 2]);
            let bias = &base.variables()["block.conv.bias"];
            let wanted = x.conv2d(&whole, Some(bias), stride, padding, [1, 1], 1);
            close(&conv.forward(&x), &wanted, 1e-5);
            sites["block.conv"].merge();
            assert!(!weight.equal(&original));
            close(&conv.forward(&x), &wanted, 1e-5);
            sites["block.conv"].unmerge();
            assert!(weight.equal(&original), "the weight is not what it was");
        }
        sites["block.conv"].remove(&gain);
        assert!(conv.forward(&x).equal(&before));
    }
}

/// Queries, keys and values by one product heed the parts of each.
#[test]
fn joined_layers_heed_their_parts() {
    let ((_base, attention), sites) =
        adaptable(|| made(|vs| Attention::new(vs, AttentionShape::new(8, 2, 4, true), Linear::with_bias)));
    assert_eq!(sites.keys().collect::<Vec<_>>(), ["to_k", "to_out.0", "to_q", "to_v"]);
    let x = Tensor::randn([2, 6, 8], F32);
    let forward = || attention.forward(&x, AttentionInput::default());
    let before = forward();
    let (low, _gain) = add(&sites, 2, 1.5);
    assert!(forward().equal(&before));
    randomise(&low);
    let unmerged = forward();
    assert!((&unmerged - &before).abs().max().double_value(&[]) > 1e-3);
    sites.values().for_each(|site| site.merge());
    close(&forward(), &unmerged, 1e-5);
    sites.values().for_each(|site| site.unmerge());
    assert!(forward().equal(&unmerged));
}

/// Two parts at once are the sum of what each adds, and those alone that train have gradients.
#[test]
fn parts_add_up_and_train_alone() {
    let ((mut base, linear), sites) = adaptable(|| made(|vs| Linear::new(vs, 6, 4)));
    base.freeze();
    let x = Tensor::randn([3, 6], F32);
    let plain = linear.forward(&x);
    let parts = [add(&sites, 2, 1.0), add(&sites, 3, 2.0)];
    parts.iter().for_each(|(vars, _)| randomise(vars));
    let alone = [0, 1].map(|i| {
        parts[1 - i].1.set(0.0);
        let out = linear.forward(&x) - &plain;
        parts[1 - i].1.set(1.0);
        out
    });
    let both = linear.forward(&x);
    close(&both, &(&plain + &alone[0] + &alone[1]), 1e-6);
    both.square().sum(Kind::Float).backward();
    assert!(base.variables().values().all(|t| !t.grad().defined()));
    for (vars, _) in &parts {
        assert!(vars.variables().values().all(|t| t.grad().abs().max().double_value(&[]) > 0.0));
    }
}

/// What parts cost is counted, merged it is nothing, and a network of shapes alone can be described with them.
#[test]
fn the_cost_of_parts_is_counted() {
    without_storage(|| {
        let ((_base, conv), sites) = adaptable(|| made(|vs| Conv2d::new(vs, 4, 6, 3, 1)));
        let x = crate::meta(&[2, 4, 5, 5], Kind::Float);
        let cost = || count(|| conv.forward(&x)).1.multiply_adds;
        let plain = cost();
        let _parts = add(&sites, 2, 1.0);
        assert_eq!(cost() - plain, 2 * 25 * (9 * 4 * 2 + 2 * 6));
    });
    let ((_base, linear), sites) = adaptable(|| made(|vs| Linear::new(vs, 4, 6)));
    let x = Tensor::randn([2, 4], F32);
    let cost = || count(|| linear.forward(&x)).1.multiply_adds;
    let _parts = add(&sites, 2, 1.0);
    assert_eq!(cost(), 2 * (4 * 6 + 2 * (4 + 6)));
    sites.values().for_each(|site| site.merge());
    assert_eq!(cost(), 2 * 4 * 6);
}

/// Parts in f32 beside a base in half precision, and layers without a place.
#[test]
fn kinds_may_differ_and_places_are_wanted_ones() {
    let ((mut base, linear), sites) = adaptable(|| made(|vs| Linear::new(&(vs / "l"), 4, 6)));
    base.bfloat16();
    let (low, _gain) = add(&sites, 2, 1.0);
    let x = Tensor::randn([2, 4], F32).to_kind(Kind::BFloat16);
    let before = linear.forward(&x);
    randomise(&low);
    let after = linear.forward(&x);
    assert_eq!(after.kind(), Kind::BFloat16);
    let [a, b] = ["l.lora_A.weight", "l.lora_B.weight"].map(|n| low.variables()[n].detach());
    let wanted = before.to_kind(Kind::Float) + x.to_kind(Kind::Float).linear(&b.matmul(&a), None::<Tensor>);
    close(&after.to_kind(Kind::Float), &wanted, 2e-2);
    let ((), none) = adaptable(|| ());
    assert!(none.is_empty());
    let (_vars, _linear) = made(|vs| Linear::new(vs, 4, 6));
    let ((), none) = adaptable(|| ());
    assert!(none.is_empty(), "a layer outside of the scope was noted");
}
