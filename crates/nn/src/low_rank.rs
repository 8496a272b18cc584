//! Low-rank parts beside linear layers and convolutions, LoRA: `W x + s B A x`, Hu et al. 2022, Eq. 3.
//!
//! A layer that is built inside [`adaptable`] has a place, its [`LowRankSite`], where such parts can be added at any later
//! time, also several. Other layers have none, and pay nothing.

use crate::layers::{Conv2d, Linear};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Tensor, nn};

/// The places of a network's layers, by the names that the layers have under the root of their store.
pub type LowRankSites = BTreeMap<String, Rc<LowRankSite>>;

thread_local! {
    static SITES: RefCell<Option<LowRankSites>> = const { RefCell::new(None) };
}

/// Runs `build` and gives every linear layer and convolution that it makes a place for low-rank parts. One network, in one
/// store: its layers' names are the keys.
pub fn adaptable<T>(build: impl FnOnce() -> T) -> (T, LowRankSites) {
    let before = SITES.replace(Some(LowRankSites::new()));
    let built = build();
    let sites = SITES.replace(before).unwrap_or_default();
    (built, sites)
}

/// A place beside the layer under `vs`, where one is wanted.
pub(crate) fn site(vs: &nn::Path<'_>, weight: &Tensor, conv: Option<[i64; 2]>) -> Option<Rc<LowRankSite>> {
    SITES.with_borrow_mut(|sites| {
        let site = Rc::new(LowRankSite {
            weight: weight.shallow_clone(),
            conv,
            parts: RefCell::default(),
            original: RefCell::default(),
        });
        let name = vs.components().collect::<Vec<_>>().join(".");
        sites.as_mut()?.insert(name, Rc::clone(&site));
        Some(site)
    })
}

/// Where low-rank parts are added to one linear layer or convolution.
///
/// Law: merged and unmerged, the layer gives the same up to rounding; a part that has just been added changes nothing.
#[derive(Debug)]
pub struct LowRankSite {
    /// That of the layer.
    weight: Tensor,
    /// Stride and padding of a convolution.
    conv: Option<[i64; 2]>,
    parts: RefCell<Vec<Part>>,
    /// The weight as it was before the parts were merged into it.
    original: RefCell<Option<Tensor>>,
}

/// `scale gain B(A(x))`.
#[derive(Debug)]
struct Part {
    layers: Layers,
    scale: f64,
    gain: Rc<Cell<f64>>,
}

/// `A` and `B`.
#[derive(Debug)]
enum Layers {
    Linear([Linear; 2]),
    Conv([Conv2d; 2]),
}

impl LowRankSite {
    /// The weight that the layer was built with, `[to, from]` or `[to, from, k, k]`; its storage is the layer's.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Makes `lora_A.weight` and `lora_B.weight` under `vs`, `[rank, from]` and `[to, rank]`, for a convolution `[rank, from,
    /// k, k]` and `[to, rank, 1, 1]`: `A` as PyTorch starts a layer and `B` at 0. What is added is `scale gain B(A(x))`;
    /// `gain` is shared, so that it can be changed later, and names the part. At 0 nothing is computed. Answers with `A` and
    /// `B`.
    pub fn add(&self, vs: &nn::Path<'_>, rank: i64, scale: f64, gain: &Rc<Cell<f64>>) -> [Tensor; 2] {
        let size = self.weight.size();
        let (a, b) = (vs / "lora_A", vs / "lora_B");
        let layers = match self.conv {
            None => {
                let down = Linear::with_bias(&a, size[1], rank, false);
                Layers::Linear([down, Linear::start(&b, rank, size[0], crate::ZERO, None)])
            }
            Some([stride, padding]) => {
                let down = Conv2d::with_bias(&a, [size[1], rank, size[2], stride], padding, false);
                Layers::Conv([down, Conv2d::start(&b, [rank, size[0], 1, 1], 0, crate::ZERO, None)])
            }
        };
        let part = Part { layers, scale, gain: Rc::clone(gain) };
        let made = part.weights().map(Tensor::shallow_clone);
        self.parts.borrow_mut().push(part);
        made
    }

    /// Forgets the parts that were added with this `gain`.
    pub fn remove(&self, gain: &Rc<Cell<f64>>) {
        self.parts.borrow_mut().retain(|part| !Rc::ptr_eq(&part.gain, gain));
    }

    /// Writes `W + sum of scale gain B A` into the layer's weight and keeps a copy of `W`; from now on the layer costs what it
    /// cost without parts, and its parts and their gains have no influence. Merged already, or without parts: nothing.
    pub fn merge(&self) {
        let parts = self.parts.borrow();
        if parts.is_empty() || self.is_merged() {
            return;
        }
        tch::no_grad(|| {
            let original = self.weight.detach().copy();
            let size = self.weight.size();
            let sum = parts.iter().fold(original.to_kind(parts[0].kind()), |w, part| w + part.product(&size));
            self.weight.shallow_clone().copy_(&sum);
            self.original.replace(Some(original));
        });
    }

    /// Writes `W` back, to the last bit, from the copy that [`Self::merge`] kept.
    pub fn unmerge(&self) {
        if let Some(original) = self.original.take() {
            tch::no_grad(|| self.weight.shallow_clone().copy_(&original));
        }
    }

    /// Whether the parts are in the weight.
    pub fn is_merged(&self) -> bool {
        self.original.borrow().is_some()
    }

    /// `out` with what the parts add for the input `x`.
    pub(crate) fn add_to(&self, out: Tensor, x: &Tensor) -> Tensor {
        if self.is_merged() {
            return out;
        }
        let parts = self.parts.borrow();
        parts.iter().filter(|part| part.gain.get() != 0.0).fold(out, |out, part| {
            let change = part.forward(x);
            let kind = out.kind();
            out + change.to_kind(kind)
        })
    }
}

impl Part {
    fn kind(&self) -> tch::Kind {
        self.weights()[0].kind()
    }

    fn weights(&self) -> [&Tensor; 2] {
        match &self.layers {
            Layers::Linear([a, b]) => [&a.weight, &b.weight],
            Layers::Conv([a, b]) => [&a.weight, &b.weight],
        }
    }

    /// In the kind of `A`, as peft does it: parts are trained in f32 beside a base in half precision.
    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(self.kind());
        let out = match &self.layers {
            Layers::Linear([a, b]) => b.forward(&a.forward(&x)),
            Layers::Conv([a, b]) => b.forward(&a.forward(&x)),
        };
        out * (self.scale * self.gain.get())
    }

    /// `scale gain B A`, of the shape of the weight.
    fn product(&self, size: &[i64]) -> Tensor {
        let [a, b] = self.weights();
        b.flatten(1, -1).matmul(&a.flatten(1, -1)).reshape(size) * (self.scale * self.gain.get())
    }
}
