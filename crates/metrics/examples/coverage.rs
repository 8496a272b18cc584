//! Precision, recall, density and coverage of features in two `.npy` files of f32 `[N, D]`, without libtorch:
//!
//! `cargo run -p heldout-metrics --no-default-features --example coverage -- generated.npy held_out.npy`

use heldout_metrics::{Evaluation, FeatureMetric, Options};
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [generated, held_out] = &paths[..] else { return Err("two .npy files are needed".into()) };
    let generated: Array2<f32> = ndarray_npy::read_npy(generated)?;
    let held_out: Array2<f32> = ndarray_npy::read_npy(held_out)?;
    let evaluation = Evaluation::new(held_out.view(), None, Options::default())?;
    use FeatureMetric::{Coverage, Density, Precision, Recall};
    for (metric, found) in evaluation.measure(generated.view(), &[Precision, Recall, Density, Coverage])? {
        println!("{metric} {}", found?.value.value);
    }
    Ok(())
}
