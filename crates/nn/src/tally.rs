//! What a forward pass costs, and networks that are shapes alone.

use std::cell::{Cell, RefCell};
use tch::{Device, Kind, Tensor};

thread_local! {
    static SHAPES_ONLY: Cell<bool> = const { Cell::new(false) };
    static COST: RefCell<Option<Cost>> = const { RefCell::new(None) };
}

/// What a forward pass costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Multiply-adds of matrix products, convolutions and attention, for the whole batch; pointwise work is not counted.
    pub multiply_adds: u64,
    /// Numbers that the layers make and keep for the backward pass, for the whole batch.
    pub activations: u64,
}

/// Runs `build` with variables that have a shape and no storage: a network of any size can then be described.
pub fn without_storage<T>(build: impl FnOnce() -> T) -> T {
    let before = SHAPES_ONLY.replace(true);
    let built = build();
    SHAPES_ONLY.set(before);
    built
}

/// Runs `forward` and counts what it costs.
pub fn count<T>(forward: impl FnOnce() -> T) -> (T, Cost) {
    let before = COST.replace(Some(Cost::default()));
    let made = forward();
    let cost = COST.replace(before).unwrap_or_default();
    (made, cost)
}

/// An empty tensor of this shape, where only shapes are wanted.
pub(crate) fn shape_only(dims: &[i64], kind: Kind) -> Option<Tensor> {
    SHAPES_ONLY.get().then(|| heldout_torch_ext::meta(dims, kind))
}

/// `t` on the device of `like` and of its kind.
pub fn same_place(t: Tensor, like: &Tensor) -> Tensor {
    let t = t.to_kind(like.kind());
    if is_shape(like) { heldout_torch_ext::meta(&t.size(), t.kind()) } else { t.to_device(like.device()) }
}

/// Whether a tensor is a shape alone.
pub(crate) fn is_shape(t: &Tensor) -> bool {
    heldout_torch_ext::is_meta(t)
}

/// The output of an operation that libtorch does not run on shapes alone.
pub(crate) fn shaped(like: &Tensor, dims: &[i64]) -> Option<Tensor> {
    is_shape(like).then(|| heldout_torch_ext::meta(dims, like.kind()))
}

/// Where numbers that go with `like` are made.
pub(crate) fn device(like: &Tensor) -> Device {
    if is_shape(like) { Device::Cpu } else { like.device() }
}

/// `t` where `like` is: a shape without storage beside a shape without storage.
pub(crate) fn beside(t: Tensor, like: &Tensor) -> Tensor {
    if is_shape(like) { heldout_torch_ext::meta(&t.size(), t.kind()) } else { t }
}

fn add(multiply_adds: u64, activations: u64) {
    COST.with_borrow_mut(|cost| {
        if let Some(cost) = cost {
            cost.multiply_adds += multiply_adds;
            cost.activations += activations;
        }
    });
}

/// Counts a product that sums `inner` terms for every number of `out`.
pub(crate) fn product(out: &Tensor, inner: i64) {
    add(out.numel() as u64 * inner as u64, out.numel() as u64);
}

/// Counts attention of `[B, heads, L, D]` over `keys` places: both of its products. The scores are not kept.
pub(crate) fn attention(out: &Tensor, keys: i64) {
    add(2 * out.numel() as u64 * keys as u64, out.numel() as u64);
}

/// Counts what a layer without products makes.
pub(crate) fn kept(out: &Tensor) {
    add(0, out.numel() as u64);
}
