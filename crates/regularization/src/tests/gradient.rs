use super::{Plain, batch, model};
use crate::Clip;
use heldout_testkit::{check_gradient, close, same};
use tch::Tensor;

fn norm(grads: &[Tensor]) -> f64 {
    Tensor::stack(&grads.iter().map(|g| g.norm()).collect::<Vec<_>>(), 0).norm().double_value(&[])
}

#[test]
fn clipping_shortens_and_never_turns() {
    let (params, mut objective) = model();
    let batch = batch();
    let plain = check_gradient(&mut Plain, &mut objective, &params, &batch);
    let free = check_gradient(&mut Clip::new(Plain, 1e9).unwrap(), &mut objective, &params, &batch);
    assert!(same(&plain, &free), "a long leash changes nothing");
    let clipped = check_gradient(&mut Clip::new(Plain, 1e-3).unwrap(), &mut objective, &params, &batch);
    let ratio = 1e-3 / norm(&plain);
    assert!(ratio < 1.0 && (norm(&clipped) - 1e-3).abs() < 1e-6);
    clipped.iter().zip(&plain).for_each(|(c, p)| close(c, &(p * ratio), 1e-6));
    assert!(Clip::new(Plain, 0.0).is_err());
}
