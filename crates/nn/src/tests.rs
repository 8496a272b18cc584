//! Kernels against each other, initialisation against its definition, embeddings against their formula.

use crate::{SelfAttention, attend, conv2d, linear, sinusoidal};
use heldout_testkit::close;
use tch::{Device, Kind, Tensor, nn};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

#[test]
fn both_attention_kernels_agree() {
    tch::manual_seed(0);
    let [q, k, v] = [0; 3].map(|_| Tensor::randn([2, 4, 64, 8], F32));
    let fused = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<Tensor>, 0.0, false, None, false);
    close(&attend(&q, &k, &v), &fused, 1e-5);
}

/// The largest kernel that the rule gives to the two products, and the first that it does not, give one function.
#[test]
fn the_switch_of_kernels_is_not_seen() {
    tch::manual_seed(0);
    let [q, k, v] = [0; 3].map(|_| Tensor::randn([5, 4, 1024, 8], F32)); // 5 * 4 * 2^20 > 2^24
    close(
        &attend(&q, &k, &v).narrow(0, 0, 1),
        &attend(&q.narrow(0, 0, 1), &k.narrow(0, 0, 1), &v.narrow(0, 0, 1)),
        1e-5,
    );
}

#[test]
fn attention_is_blind_to_the_order_of_places() {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let attention = SelfAttention::new(&vars.root(), 16, 8, 4, 1e-5);
    let x = Tensor::randn([2, 16, 4, 4], F32);
    close(&attention.forward(&x.flip([3])), &attention.forward(&x).flip([3]), 1e-5);
}

#[test]
fn initial_weights_lie_where_pytorch_puts_them() {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let conv = conv2d(&(vars.root() / "c"), 16, 64, 3, 1);
    let dense = linear(&(vars.root() / "l"), 64, 256);
    for (t, fan_in) in [(&conv.ws, 144.0f64), (conv.bs.as_ref().unwrap(), 144.0), (&dense.ws, 64.0)] {
        let (bound, largest) = (fan_in.powf(-0.5), t.abs().max().double_value(&[]));
        assert!(largest <= bound && largest > 0.9 * bound, "{largest} against {bound}");
        assert!((t.std(true).double_value(&[]) - bound / 3f64.sqrt()).abs() < 0.1 * bound);
    }
}

#[test]
fn sinusoids_follow_the_formula() {
    let e = sinusoidal(&Tensor::from_slice(&[0.0f32, 500.0]), 4);
    let slow = 500.0 * 10_000f64.powf(-0.5);
    let expected = [1.0, 1.0, 0.0, 0.0, 500f64.cos(), slow.cos(), 500f64.sin(), slow.sin()];
    close(&e, &Tensor::from_slice(&expected).view([2, 4]), 1e-4);
}
