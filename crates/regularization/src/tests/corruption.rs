//! Ambient diffusion.

use crate::{Ambient, AmbientConfig, MaskedInput};
use heldout_core::{Backbone, Batch, BatchSource, Clock, Cond, Input, Probe, Result};
use heldout_testkit::{check_backbone, check_batch_source, close};
use tch::{Device, Kind, Tensor};

const CONFIG: AmbientConfig = AmbientConfig { missing: 0.4, further: 0.25, seed: 3 };

/// Images `rows` of the set of number `set`, of 2 channels and 16 x 12 pixels.
#[derive(Debug)]
struct Images(Vec<i64>, i64);
impl BatchSource for Images {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        tch::manual_seed(self.1);
        let all = Tensor::randn([500, 2, 16, 12], (Kind::Float, Device::Cpu));
        let index = (Tensor::from_slice(&self.0) + clock.step as i64).remainder(500);
        Ok(Batch {
            index: Some(index.shallow_clone()),
            ..Batch::new(all.index_select(0, &index), Cond::default())
        })
    }
}

fn at(rows: &[i64], step: u64, set: i64, config: AmbientConfig) -> Batch {
    let rows = rows.iter().map(|r| r - step as i64).collect();
    Ambient::new(Images(rows, set), config).unwrap().batch(Clock { step, total: 10 }).unwrap()
}

fn share(x: &Tensor) -> f64 {
    x.mean(Kind::Double).double_value(&[])
}

#[test]
fn masks_belong_to_examples_and_further_masks_to_steps() {
    check_batch_source(|| Box::new(Ambient::new(Images(vec![1, 2, 3], 0), CONFIG).unwrap()));
    let (first, later) = (at(&[5, 6, 7], 0, 0, CONFIG), at(&[9, 7, 400, 5], 4, 0, CONFIG));
    let known = |b: &Batch| b.known.as_ref().map(|k| (k.loss.copy(), k.input.copy())).unwrap();
    let ((loss, input), (other_loss, other_input)) = (known(&first), known(&later));
    assert_eq!(loss.size(), [3, 1, 16, 12]);
    assert!(loss.get(0).equal(&other_loss.get(3)) && loss.get(2).equal(&other_loss.get(1)));
    assert!(!input.get(0).equal(&other_input.get(3)), "the further mask is drawn afresh");
    assert!(!loss.get(0).equal(&loss.get(1)), "examples have masks of their own");
    assert!(input.le_tensor(&loss).all().int64_value(&[]) == 1, "what is seen is known");
    assert!(first.cond.mask.as_ref().unwrap().equal(&input));
    close(&(&first.x_start * (1.0f64 - &loss)), &first.x_start.zeros_like(), 0.0);
    let other_seed = at(&[5], 0, 0, AmbientConfig { seed: 4, ..CONFIG });
    assert!(!known(&other_seed).0.get(0).equal(&loss.get(0)));
}

/// Of 96,000 pixels: standard errors of 0.16 %; and each pixel of the grid, of 500 examples, within 2.2 % each.
#[test]
fn shares_are_those_asked_for() {
    let all: Vec<i64> = (0..500).collect();
    let known = at(&all, 0, 0, CONFIG).known.unwrap();
    assert!((share(&known.loss) - 0.6).abs() < 0.007);
    assert!((share(&known.input) - 0.45).abs() < 0.007);
    let by_pixel = known.loss.mean_dim(0i64, false, Kind::Double);
    let worst = (by_pixel - 0.6).abs().max().double_value(&[]);
    assert!(worst < 0.022 * 4.5, "{worst}");
    let next = known.loss.narrow(3, 1, 11) * known.loss.narrow(3, 0, 11);
    assert!((share(&next) - 0.36).abs() < 0.01, "neighbours are independent");
}

/// Another data set that agrees where pixels are known is the same batch, to the last bit.
#[test]
fn unknown_pixels_change_nothing() {
    #[derive(Debug)]
    struct Disturbed(Images, Tensor);
    impl BatchSource for Disturbed {
        fn batch(&mut self, clock: Clock) -> Result<Batch> {
            let mut batch = self.0.batch(clock)?;
            batch.x_start = &batch.x_start + (1.0f64 - &self.1) * 100.0;
            Ok(batch)
        }
    }
    let clean = at(&[1, 2, 3], 0, 0, CONFIG);
    let loss = clean.known.as_ref().unwrap().loss.copy();
    let mut other = Ambient::new(Disturbed(Images(vec![1, 2, 3], 0), loss), CONFIG).unwrap();
    let other = other.batch(Clock { step: 0, total: 10 }).unwrap();
    let bits = |b: &Batch| b.x_start.view_dtype(Kind::Int);
    assert!(bits(&clean).equal(&bits(&other)));
    assert!(share(&clean.x_start.ne(0.0)) > 0.5, "and the known pixels are there");
}

#[test]
fn without_shares_the_batch_is_as_it_was_and_without_places_there_is_none() {
    let clock = Clock { step: 2, total: 10 };
    let absent = AmbientConfig { missing: 0.0, further: 0.0, seed: 0 };
    let batch = Ambient::new(Images(vec![1, 2], 0), absent).unwrap().batch(clock).unwrap();
    assert!(batch.x_start.equal(&Images(vec![1, 2], 0).batch(clock).unwrap().x_start));
    assert!(batch.known.is_none() && batch.cond.mask.is_none());
    let error =
        Ambient::new(heldout_testkit::Blobs { n: 4, seed: 0 }, CONFIG).unwrap().batch(clock).unwrap_err();
    assert!(error.to_string().starts_with("batch.index: is missing"), "{error}");
    for (missing, further, field) in [(1.0, 0.1, "missing"), (0.1, -0.1, "further")] {
        let error = AmbientConfig { missing, further, seed: 0 }.check().unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

/// Takes a channel more than it gives.
#[derive(Debug)]
struct Blur;
impl Backbone for Blur {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        assert!(input.cond.mask.is_none(), "the mask is in the channel");
        let x = input.x.avg_pool2d([3, 3], [1, 1], [1, 1], false, true, None::<i64>);
        let c = x.size()[1] - 1;
        let level = (input.noise_level * 1e-3).view([-1, 1, 1, 1]);
        x.narrow(1, 0, c) * (x.narrow(1, c, 1) + 1.0) + level
    }
}

/// Whatever is put where the mask is 0, the answer is the same: with the mask of a batch, and with the fixed one of
/// sampling.
#[test]
fn a_network_never_sees_masked_pixels() {
    let net = MaskedInput::new(Blur, &CONFIG, [16, 12], Device::Cpu).unwrap();
    let batch = at(&[1, 2, 3], 0, 0, CONFIG);
    let x = Images(vec![1, 2, 3], 0).batch(Clock { step: 0, total: 1 }).unwrap().x_start;
    check_backbone(&net, &x, &batch.cond);
    check_backbone(&net, &x, &Cond::default());
    let level = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
    let answer = |x: &Tensor, cond: &Cond| {
        let input = Input { x, noise_level: &level, cond, train: false };
        net.check(input).unwrap();
        net.forward(input, &mut ())
    };
    for cond in [&batch.cond, &Cond::default()] {
        let mask = cond.mask.as_ref().unwrap_or(net.fixed_mask());
        let elsewhere = x.masked_fill(&mask.eq(0.0), f64::INFINITY);
        assert!(answer(&x, cond).equal(&answer(&elsewhere, cond)));
        assert!(!answer(&x, cond).equal(&answer(&(&x + mask), cond)));
    }
    let again = MaskedInput::new(Blur, &CONFIG, [16, 12], Device::Cpu).unwrap();
    assert!(net.fixed_mask().equal(again.fixed_mask()));
    let wide = MaskedInput::new(Blur, &CONFIG, [200, 200], Device::Cpu).unwrap();
    assert!((share(wide.fixed_mask()) - 0.45).abs() < 0.01);
    let input = Input { x: &x, noise_level: &level, cond: &Cond::default(), train: false };
    assert!(wide.check(input).unwrap_err().to_string().contains("[1, 1, 200, 200]"));
}
