//! One run of EfficientNet-Lite0 on images of 224 pixels; `features.py` runs it beside timm.
//!
//! `features WEIGHTS ROWS REPEATS` prints median milliseconds and peak memory in MiB.
#![allow(unsafe_code, reason = "jemalloc reads its settings from a symbol")]

use heldout_benches::{F32, peak_mib, timed};
use heldout_core::FeatureExtractor;
use heldout_features::EfficientNetLite0;
use std::path::Path;
use tch::Tensor;

heldout_benches::allocator!();

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [weights, rows, repeats] = &args[..] else { panic!("WEIGHTS ROWS REPEATS") };
    let number = |text: &str| text.parse::<i64>().expect("a number");
    let network = EfficientNetLite0::open(Path::new(weights)).expect("weights of EfficientNet-Lite0");
    let images = Tensor::rand([number(rows), 3, 224, 224], F32);
    let extract = || drop(network.extract(&images).expect("features"));
    let ms = tch::no_grad(|| timed(number(repeats) as usize, extract));
    println!("{ms} {}", peak_mib());
}
