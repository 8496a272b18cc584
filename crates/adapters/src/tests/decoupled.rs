//! Parts that add up, adapters that each move their own, and measures of what they do.

use super::fixtures::{F32, base, input, moved, net_config};
use crate::{
    Change, Condition, ControlNet, Decoupled, Factor, LowPass, Split, Weight, condition_sensitivity,
    interference,
};
use heldout_core::{Adapter, Backbone, Cond, Denoiser, Input, NoiseSchedule, Probe, Residuals, Site};
use heldout_testkit::{TrigSchedule, close, gaussian_denoiser};
use tch::{Kind, Tensor, nn};

/// Of images, of sides that no share divides, and of clips.
#[test]
fn parts_add_up_to_the_image() {
    tch::manual_seed(0);
    let split = Split::colour_structure_texture();
    assert_eq!(split.names().collect::<Vec<_>>(), ["colour", "structure", "texture"]);
    for size in [vec![2, 3, 16, 16], vec![1, 1, 13, 6], vec![1, 3, 4, 8, 8]] {
        let x = Tensor::randn(size.as_slice(), F32);
        let parts = split.parts(&x);
        let sum: Tensor = parts.iter().sum();
        close(&sum, &x, 2e-6);
        for (i, part) in parts.iter().enumerate() {
            assert!(part.abs().max().double_value(&[]) > 0.01);
            close(part, &split.part(i, &x), 0.0);
        }
    }
}

/// Parts are linear, keep what is theirs and nothing of the others': the mean of an image is colour, a chessboard is texture.
#[test]
fn parts_are_orthogonal_projections() {
    tch::manual_seed(0);
    let split = Split::colour_structure_texture();
    let (x, y) = (Tensor::randn([2, 3, 16, 16], F32), Tensor::randn([2, 3, 16, 16], F32));
    for i in 0..3 {
        let (of_x, of_y) = (split.part(i, &x), split.part(i, &y));
        close(&split.part(i, &(2.0 * &x - &y)), &(2.0 * &of_x - &of_y), 1e-5);
        for j in 0..3 {
            let expected = if i == j { of_x.shallow_clone() } else { of_x.zeros_like() };
            close(&split.part(j, &of_x), &expected, 1e-5);
        }
    }
    let flat = Tensor::full([1, 1, 16, 16], 0.7, F32);
    close(&split.part(0, &flat), &flat, 1e-6);
    let signs = Tensor::arange(16, F32).remainder(2.0) * 2.0 - 1.0;
    let chess = (signs.unsqueeze(1) * &signs).view([1, 1, 16, 16]);
    assert!(split.part(2, &chess).square().mean(Kind::Float).double_value(&[]) > 0.9);
    assert!(LowPass::new("colour", 0.0).is_err());
    let twice = vec![Box::new(LowPass::new("texture", 0.5).unwrap()) as Box<dyn Factor>];
    assert!(Split::new(twice, "texture").unwrap_err().to_string().starts_with("texture: names two parts"));
}

/// What does not move in a clip `[B, C, T, H, W]`: the rest is motion.
#[derive(Debug)]
struct Still;

impl Factor for Still {
    fn name(&self) -> &str {
        "still"
    }

    fn part(&self, x: &Tensor) -> Tensor {
        x.mean_dim(2i64, true, x.kind()).expand_as(x)
    }
}

#[test]
fn motion_is_a_factor_like_the_others() {
    tch::manual_seed(0);
    let split = Split::new(vec![Box::new(Still)], "motion").unwrap();
    let x = Tensor::randn([1, 3, 4, 8, 8], F32);
    let parts = split.parts(&x);
    close(&(&parts[0] + &parts[1]), &x, 1e-6);
    close(&parts[1].mean_dim(2i64, false, Kind::Float), &Tensor::zeros([1, 3, 8, 8], F32), 1e-6);
}

fn nets(vars: &nn::VarStore, names: &[&str]) -> Vec<(String, Box<dyn Adapter>, Weight)> {
    let net = |name: &&str| {
        let net = ControlNet::new(&(vars.root() / *name), &net_config()).unwrap();
        ((*name).to_owned(), Box::new(net) as Box<dyn Adapter>, Weight::Fixed(1.0))
    };
    names.iter().map(net).collect()
}

/// The base at the start, bit for bit; then each adapter moves its own part, and the parts add.
#[test]
fn every_adapter_moves_its_own_part() {
    let (_base_vars, backbone) = base();
    let (x, level, cond) = input(6);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
    let alone = backbone.forward(input, &mut ());
    tch::manual_seed(0);
    let vars = nn::VarStore::new(tch::Device::Cpu);
    let split = Split::colour_structure_texture;
    let both = Decoupled::new(backbone, split(), nets(&vars, &["texture", "colour"])).unwrap();
    both.check(input).unwrap();
    assert!(both.forward(input, &mut ()).equal(&alone));
    moved(&vars, 0.1);
    let change = both.forward(input, &mut ()) - &alone;
    let parts = both.split().parts(&change);
    assert!(parts[0].abs().max().double_value(&[]) > 1e-4 && parts[2].abs().max().double_value(&[]) > 1e-4);
    close(&parts[1], &parts[1].zeros_like(), 1e-5);
    assert!(both.check(Input { x: &x.narrow(1, 0, 1), ..input }).is_err());
    let (_base_vars, backbone) = base();
    let wrong = Decoupled::new(backbone, split(), nets(&vars, &["depth"])).unwrap_err().to_string();
    assert!(wrong.starts_with("depth: is not a part"), "{wrong}");
}

/// Answers with the mean of the hint's first channel; the second is not looked at.
#[derive(Debug)]
struct Follows<D>(D);

impl<D: Denoiser> Denoiser for Follows<D> {
    fn denoise(&self, x_t: &Tensor, _: &Tensor, cond: &Cond) -> Tensor {
        let level = cond
            .hint
            .as_ref()
            .map(|h| h.narrow(1, 0, 1).mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float));
        x_t.ones_like() * level.unwrap_or_else(|| Tensor::from(0f32))
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.0.schedule()
    }
}

/// Conditions that are used have the sensitivity that can be worked out, and the others none.
#[test]
fn sensitivity_is_that_of_a_known_model() {
    let model = Follows(gaussian_denoiser(TrigSchedule, 1.0));
    let hint = Tensor::from_slice(&[1f32, 2.0, 1.0, 2.0]).view([4, 1, 1, 1]).expand([4, 2, 4, 4], false);
    let cond = Cond { hint: Some(hint), ..Cond::default() };
    let x = Tensor::zeros([4, 1, 4, 4], F32);
    let measure = |channels, change| {
        let condition = Condition { field: "hint".to_owned(), channels };
        condition_sensitivity(&model, &x, &cond, (&condition, change), &[0.2, 0.8], 3).unwrap()
    };
    for channels in [None, Some(0..1)] {
        let dropped = measure(channels, Change::Dropped);
        assert!(
            dropped.iter().all(|s| (s.relative.value - 1.0).abs() < 1e-6 && s.relative.standard_error < 1e-6)
        );
    }
    assert!(measure(Some(1..2), Change::Dropped).iter().all(|s| s.relative.value == 0.0));
    let swapped = measure(None, Change::Swapped);
    // By 1 or 3 places rows of 1 and 2 change places: |2 - 1| / 1 and |1 - 2| / 2; by 2 none does.
    assert!(swapped.iter().all(|s| [0.0, 0.75].contains(&s.relative.value)));
    assert_eq!(swapped, measure(None, Change::Swapped));
    let missing = Condition { field: "text_embeds".to_owned(), channels: None };
    let error = condition_sensitivity(&model, &x, &cond, (&missing, Change::Dropped), &[0.5], 3).unwrap_err();
    assert!(error.to_string().starts_with("text_embeds: is not among"));
}

/// Adds its hint's mean to a site.
#[derive(Debug)]
struct Adds(Site);

impl Adapter for Adds {
    fn residuals(&self, input: Input<'_>) -> Residuals {
        let hint = input.cond.hint.as_ref().map(|h| h.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float));
        Residuals(hint.into_iter().map(|h| (self.0, h)).collect())
    }

    fn sites(&self) -> Vec<Site> {
        vec![self.0]
    }

    fn hint_channels(&self) -> i64 {
        1
    }
}

/// `up0(0) * up1(0)` and `up0(0) + up2(0)`: a pair whose effects multiply and a pair whose effects add.
#[derive(Debug)]
struct Sites;

impl Backbone for Sites {
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let mut at = |i| probe.at(Site::Up(i), input.x.zeros_like());
        let (a, b, c) = (at(0), at(1), at(2));
        &a * (b + 1.0) + c
    }
}

#[test]
fn interference_is_that_of_a_known_backbone() {
    let hint = Tensor::ones([3, 2, 4, 4], F32);
    let cond = Cond { hint: Some(hint), ..Cond::default() };
    let (x, level) = (Tensor::zeros([3, 1, 4, 4], F32), Tensor::zeros([3], F32));
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    let of = |a, b| interference(&Sites, [&Adds(Site::Up(a)), &Adds(Site::Up(b))], input).unwrap();
    assert_eq!(of(0, 2).value, 0.0);
    assert_eq!(of(0, 1).value, 1.0); // Together 2, the first alone 1, the second alone 0.
    assert_eq!(of(0, 1).standard_error, 0.0);
    let none = Cond::default();
    let without = Input { cond: &none, ..input };
    assert!(interference(&Sites, [&Adds(Site::Up(0)), &Adds(Site::Up(1))], without).is_err());
}
