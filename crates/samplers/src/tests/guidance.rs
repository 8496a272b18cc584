//! Guidance against closed forms.

use super::run;
use crate::{
    And, Autoguidance, Clamped, ClassifierFree, ClassifierGuidance, Ddim, EmbeddingDistance, EmbeddingScore,
    GuidedChannels, LimitedInterval, LogProbability, Or, RandomAffine, Rescale, ScoreGuidance, TimeGrid,
    Weighted, XStartScore,
};
use heldout_core::{
    Backbone, Cond, Denoiser, Error, FeatureExtractor, FeatureOutput, Input, NoiseSchedule, Preconditioned,
    Probe, Result, like,
};
use heldout_metrics::MixtureDenoiser;
use heldout_schedules::{Flow, Prediction, Trigonometric};
use heldout_testkit::{Golden, check_denoiser, close, gaussian_denoiser};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);
const MEANS: [f64; 3] = [-0.6, 0.9, 0.0];
const STDS: [f64; 3] = [0.4, 0.3, 1.2];

fn labels(ids: &[i64]) -> Cond {
    Cond::of_labels(Tensor::from_slice(ids))
}

/// The exact denoiser of one Gaussian for each class; class 2 stands for none.
#[derive(Debug)]
struct Classes;

impl Classes {
    /// Mean and variance of `x_t`, and of the data, each `[B, 1, 1, 1]`.
    fn at(x_t: &Tensor, t: &Tensor, cond: &Cond) -> [Tensor; 4] {
        let m = Trigonometric.marginal(t);
        let of = |table: &[f64]| Tensor::from_slice(table).index_select(0, cond.label.as_ref().unwrap());
        let (mean, variance) = (of(&MEANS), of(&STDS).square());
        let noisy = m.alpha.square() * &variance + m.sigma.square();
        [&m.alpha * &mean, noisy, mean, variance * &m.alpha].map(|c| like(&c, x_t))
    }
}

impl Denoiser for Classes {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        let [noisy_mean, noisy, mean, covariance] = Self::at(x_t, t, cond);
        mean + covariance / noisy * (x_t - noisy_mean)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &Trigonometric
    }
}

/// `log p(c | x_t)` of the first two classes, equally frequent.
#[derive(Debug)]
struct Bayes;

impl LogProbability for Bayes {
    fn log_probability(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        let density = |class: i64| {
            let rows = labels(&vec![class; x_t.size()[0] as usize]);
            let [mean, variance, ..] = Classes::at(x_t, t, &rows);
            let each = ((x_t - mean).square() / &variance + variance.log()) * -0.5;
            each.flatten(1, -1).sum_dim_intlist(1i64, false, Kind::Double)
        };
        let both = Tensor::stack(&[density(0), density(1)], 1).log_softmax(1, Kind::Double);
        both.gather(1, &cond.label.as_ref().unwrap().unsqueeze(1), false).squeeze_dim(1)
    }
}

fn points() -> (Tensor, Tensor) {
    tch::manual_seed(2);
    (Tensor::randn([6, 2, 2, 2], F64), Tensor::linspace(0.05, 0.95, 6, F64))
}

fn all(class: i64) -> Cond {
    labels(&[class; 6])
}

#[test]
fn guided_denoisers_are_denoisers() {
    let (x, _) = points();
    let null = || labels(&[2]);
    let cfg = |scale| ClassifierFree {
        inner: &Classes,
        null: null(),
        scale,
        rescale: None,
        channels: GuidedChannels::All,
    };
    let terms =
        || vec![Weighted { cond: labels(&[0]), weight: 1.0 }, Weighted { cond: labels(&[1]), weight: 0.5 }];
    let affine =
        RandomAffine { copies: 3, degrees: 10.0, translate: 0.1, scale: [0.9, 1.1], flip: true, seed: 1 };
    let score = EmbeddingScore {
        encoder: Means,
        target: Tensor::from_slice(&[1.0, 0.5, 0.2]).unsqueeze(0),
        distance: EmbeddingDistance::Cosine,
        augment: Some(affine),
    };
    let rescale = Some(Rescale { phi: 0.7, prediction: Box::new(Prediction::V) });
    let guided: [&dyn Denoiser; 8] = [
        &cfg(3.0),
        &ClassifierFree { rescale, ..cfg(3.0) },
        &Autoguidance { inner: &Classes, weak: cfg(0.5), scale: 2.0 },
        &LimitedInterval { guided: cfg(3.0), plain: &Classes, sigma_min: 0.3, sigma_max: 3.0 },
        &ClassifierGuidance { inner: &Classes, classifier: Bayes, scale: 2.0 },
        &And { inner: &Classes, terms: terms() },
        &Or { inner: &Classes, terms: terms(), classifier: Bayes },
        &Clamped { inner: cfg(2.0), limit: 1.0 },
    ];
    for d in guided {
        check_denoiser(d, &x, &labels(&[0, 1, 0, 1, 1, 0]));
    }
    // The same around a network, which can be made ready for its times.
    let model = || Preconditioned {
        backbone: Box::new(Label),
        parameterization: Box::new(Prediction::V),
        schedule: Box::new(Trigonometric),
    };
    let cfg = |scale| ClassifierFree {
        inner: model(),
        null: null(),
        scale,
        rescale: None,
        channels: GuidedChannels::All,
    };
    let rescale = Some(Rescale { phi: 0.7, prediction: Box::new(Prediction::Epsilon) });
    let guided: [&dyn Denoiser; 7] = [
        &cfg(1.0),
        &cfg(3.0),
        &ClassifierFree { rescale, ..cfg(3.0) },
        &Autoguidance { inner: model(), weak: cfg(0.5), scale: 2.0 },
        &LimitedInterval { guided: cfg(3.0), plain: model(), sigma_min: 0.3, sigma_max: 3.0 },
        &And { inner: model(), terms: terms() },
        &Clamped { inner: cfg(2.0), limit: 1.0 },
    ];
    for d in guided {
        assert!(d.prepare(&Tensor::from_slice(&[0.5]), Kind::Double).is_some(), "{d:?}");
        check_denoiser(d, &x, &labels(&[0, 1, 0, 1, 1, 0]));
    }
    // The augmentations depend on the time of the first row: with one time for all, rows do not see each other.
    let d = ScoreGuidance { inner: &Classes, score, scale: 3.0 };
    let (x, t) = (Tensor::randn([6, 3, 4, 4], F64), Tensor::full([6], 0.4, F64));
    let whole = d.denoise(&x, &t, &all(1));
    let part = d.denoise(&x.narrow(0, 2, 3), &t.narrow(0, 2, 3), &labels(&[1; 3]));
    close(&part, &whole.narrow(0, 2, 3), 1e-6);
    assert!(!whole.equal(&Classes.denoise(&x, &t, &all(1))), "the score changes nothing");
}

/// A network that sees its label and the time.
#[derive(Debug)]
struct Label;

impl Backbone for Label {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        let label = like(input.cond.label.as_ref().unwrap(), input.x);
        (input.x * (label * 0.4 + 0.3)).tanh() + like(&(input.noise_level / 500.0).cos(), input.x)
    }
}

#[test]
fn classifier_free_guidance_extrapolates() {
    let (x, t) = points();
    let (with, without) = (Classes.denoise(&x, &t, &all(0)), Classes.denoise(&x, &t, &all(2)));
    for scale in [0.0, 1.0, 4.0] {
        let d = ClassifierFree {
            inner: &Classes,
            null: labels(&[2]),
            scale,
            rescale: None,
            channels: GuidedChannels::All,
        };
        close(&d.denoise(&x, &t, &all(0)), &(&without + (&with - &without) * scale), 1e-12);
    }
    let weak = gaussian_denoiser(Trigonometric, 1.0);
    let d = Autoguidance { inner: &Classes, weak: &weak, scale: 2.5 };
    let wanted = weak.denoise(&x, &t, &all(0)) * -1.5 + &with * 2.5;
    close(&d.denoise(&x, &t, &all(0)), &wanted, 1e-12);
}

/// A network that answers with what it is given as a condition.
#[derive(Debug)]
struct Echo(Tensor, Tensor);

impl Backbone for Echo {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        let pick = input.cond.label.as_ref().unwrap();
        let rows = Tensor::arange(pick.size()[0], (Kind::Int64, Device::Cpu)).remainder(self.0.size()[0]);
        let first = like(&pick.eq(0), &self.0).to_kind(Kind::Bool);
        self.0.index_select(0, &rows).where_self(&first, &self.1.index_select(0, &rows))
    }
}

#[test]
fn rescaling_is_that_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "guidance");
    let echo = Echo(golden.get("conditional"), golden.get("null"));
    let inner = Preconditioned {
        backbone: Box::new(echo),
        parameterization: Box::new(Prediction::Epsilon),
        schedule: Box::new(Trigonometric),
    };
    let rescale = Some(Rescale { phi: 0.7, prediction: Box::new(Prediction::Epsilon) });
    let d = ClassifierFree {
        inner: &inner,
        null: labels(&[1]),
        scale: 5.0,
        rescale,
        channels: GuidedChannels::All,
    };
    let (x, t) = (Tensor::randn([3, 2, 4, 4], F64), Tensor::from_slice(&[0.2, 0.5, 0.8]));
    let m = Trigonometric.marginal(&t);
    let hat = d.denoise(&x, &t, &labels(&[0; 3]));
    let noise = (&x - like(&m.alpha, &x) * hat) / like(&m.sigma, &x);
    close(&noise, &golden.get("rescaled"), 1e-9);
}

#[test]
fn an_interval_guides_where_it_should() {
    let (x, t) = points();
    let guided = ClassifierFree {
        inner: &Classes,
        null: labels(&[2]),
        scale: 3.0,
        rescale: None,
        channels: GuidedChannels::All,
    };
    let d = LimitedInterval { guided: &guided, plain: &Classes, sigma_min: 0.5, sigma_max: 2.0 };
    let (mixed, with, without) =
        (d.denoise(&x, &t, &all(0)), guided.denoise(&x, &t, &all(0)), Classes.denoise(&x, &t, &all(0)));
    let m = Trigonometric.marginal(&t);
    for i in 0..6 {
        let ratio = (&m.sigma / &m.alpha).double_value(&[i]);
        let wanted = if (0.5..=2.0).contains(&ratio) { &with } else { &without };
        assert!(mixed.get(i).equal(&wanted.get(i)), "{ratio}");
        let (x, t) = (x.narrow(0, i, 1), t.narrow(0, i, 1));
        close(&d.denoise(&x, &t, &labels(&[0])), &wanted.narrow(0, i, 1), 1e-12);
    }
}

/// Bayes' rule: the denoiser of everything, guided by the exact classifier, is that of the class.
#[test]
fn an_exact_classifier_gives_the_conditional() {
    let (x, t) = points();
    let means = Tensor::cat(&[Tensor::full([1, 8], MEANS[0], F64), Tensor::full([1, 8], MEANS[1], F64)], 0);
    let everything = MixtureDenoiser::new(
        &Tensor::from_slice(&[0.5, 0.5]),
        &means,
        &Tensor::from_slice(&STDS[..2]),
        Rc::new(Trigonometric),
    );
    for class in [0, 1] {
        let d = ClassifierGuidance { inner: &everything, classifier: Bayes, scale: 1.0 };
        close(&d.denoise(&x, &t, &all(class)), &Classes.denoise(&x, &t, &all(class)), 1e-5);
    }
    let terms =
        vec![Weighted { cond: labels(&[0]), weight: 0.5 }, Weighted { cond: labels(&[1]), weight: 0.5 }];
    let or = Or { inner: &Classes, terms, classifier: Bayes };
    close(&or.denoise(&x, &t, &Cond::default()), &everything.denoise(&x, &t, &Cond::default()), 1e-9);
}

/// Product of powers of Gaussians: precisions add up.
fn product(factors: &[(f64, f64, f64)]) -> (f64, f64) {
    let precision: f64 = factors.iter().map(|(_, variance, power)| power / variance).sum();
    let mean: f64 = factors.iter().map(|(mean, variance, power)| power * mean / variance).sum();
    (mean / precision, 1.0 / precision)
}

#[test]
fn and_is_the_gaussian_of_the_product() {
    let x = Tensor::linspace(-2.0, 2.0, 6, F64).view([6, 1, 1, 1]);
    // AND of both classes; the first AND NOT the second, a little.
    for (first, second) in [(1.0, 1.0), (1.0, -0.2)] {
        let terms = vec![
            Weighted { cond: labels(&[0]), weight: first },
            Weighted { cond: labels(&[1]), weight: second },
        ];
        let d = And { inner: &Classes, terms };
        let powers = [(0usize, first), (1, second), (2, 1.0 - first - second)];
        for time in [0.001, 0.3, 0.7] {
            let t = Tensor::full([6], time, F64);
            let m = Trigonometric.marginal(&t);
            let (alpha, sigma) = (m.alpha.double_value(&[0]), m.sigma.double_value(&[0]));
            let noisy = powers.map(|(k, w)| (alpha * MEANS[k], (alpha * STDS[k]).powi(2) + sigma * sigma, w));
            let (mean, variance) = product(&noisy);
            // Tweedie's formula for that Gaussian.
            let wanted = (&x + (&x - mean) * (-sigma * sigma / variance)) / alpha;
            let found = d.denoise(&x, &t, &all(2));
            close(&found, &wanted, 1e-9);
            if time < 0.01 {
                // Without noise its score is that of the product of the conditions themselves.
                let (mean, variance) = product(&powers.map(|(k, w)| (MEANS[k], STDS[k].powi(2), w)));
                let score = (found * alpha - &x) / (sigma * sigma);
                close(&score, &((&x - mean) / -variance), 1e-3);
            }
        }
    }
}

/// Closeness to a point.
#[derive(Debug)]
struct Near(f64);

impl XStartScore for Near {
    fn score(&self, x_start_hat: &Tensor, _: &Tensor, _: &Cond) -> Tensor {
        (x_start_hat - self.0).square().flatten(1, -1).sum_dim_intlist(1i64, false, Kind::Double) * -0.5
    }
}

#[test]
fn a_score_moves_the_estimate_by_its_gradient() {
    let (x, t) = points();
    let inner = gaussian_denoiser(Trigonometric, 0.7);
    let m = Trigonometric.marginal(&t);
    let hat = inner.denoise(&x, &t, &Cond::default());
    let slope = &m.alpha * 0.49 / (m.alpha.square() * 0.49 + m.sigma.square());
    let factor = like(&(m.sigma.square() / &m.alpha * slope), &x);
    let wanted = &hat - factor * (&hat - 0.3) * 2.0;
    let d = ScoreGuidance { inner: &inner, score: Near(0.3), scale: 2.0 };
    let found = tch::no_grad(|| d.denoise(&x, &t, &Cond::default()));
    close(&found, &wanted, 1e-9);
    assert!(!found.requires_grad());
    // From pure noise to data, nearer to the point than without.
    let flow = gaussian_denoiser(Flow, 0.7);
    let start = super::start(16).to_kind(Kind::Double);
    let times = TimeGrid::default().times(&Flow, 20).unwrap();
    let guided = ScoreGuidance { inner: &flow, score: Near(0.3), scale: 0.2 };
    let away =
        |d: &dyn Denoiser| (run(&Ddim { eta: 0.0 }, d, &start, &times) - 0.3).square().mean(Kind::Double);
    assert!(away(&guided).double_value(&[]) < 0.9 * away(&flow).double_value(&[]));
}

/// Mean of each channel: the smallest encoder.
#[derive(Debug)]
struct Means;

impl FeatureExtractor for Means {
    fn name(&self) -> &str {
        "means"
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        if images.size()[1] != 3 {
            return Err(Error::config("images", format!("{:?}: three channels are needed", images.size())));
        }
        let weights = Tensor::from_slice(&[1.0, 0.6, 0.2]).to_kind(images.kind()).view([1, 3, 1, 1]);
        Ok((images * weights).flatten(2, -1).mean_dim(2i64, false, images.kind()).into())
    }
}

/// The distance is a function of the angle between the embeddings.
#[test]
fn distances_are_those_of_angles() {
    let images = Tensor::full([1, 3, 4, 4], 1.0, F64); // embedded as (1, 0.6, 0.2)
    let embedding = [1.0, 0.6, 0.2];
    let target = [0.2, 0.9, -0.4];
    let dot = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let angle = (dot(embedding, target) / (dot(embedding, embedding) * dot(target, target)).sqrt()).acos();
    let t = Tensor::zeros([1], F64);
    for (distance, wanted) in
        [(EmbeddingDistance::Cosine, 1.0 - angle.cos()), (EmbeddingDistance::Spherical, angle * angle / 2.0)]
    {
        let target = Tensor::from_slice(&target).unsqueeze(0) * 7.0; // of any length
        let score = EmbeddingScore { encoder: Means, target, distance, augment: None };
        let found = score.score(&images, &t, &Cond::default()).double_value(&[0]);
        assert!((found + wanted).abs() < 1e-6, "{distance:?}: {found} for {wanted}");
        score.check([1, 4, 4]).unwrap();
        assert!(score.check([4, 4, 4]).unwrap_err().to_string().contains("three channels"));
    }
}

#[test]
fn views_are_a_function_of_the_seed_and_the_time() {
    let images = Tensor::randn([2, 3, 8, 8], F64);
    let t = Tensor::full([2], 0.3, F64);
    let still =
        RandomAffine { copies: 2, degrees: 0.0, translate: 0.0, scale: [1.0, 1.0], flip: false, seed: 1 };
    close(&still.apply(&images, &t), &Tensor::cat(&[&images, &images], 0), 1e-9);
    let moving = RandomAffine { degrees: 20.0, translate: 0.2, scale: [0.8, 1.2], flip: true, ..still };
    let views = moving.apply(&images, &t);
    assert_eq!(views.size(), [4, 3, 8, 8]);
    assert!(views.equal(&moving.apply(&images, &t)));
    assert!(!views.equal(&moving.apply(&images, &(&t + 0.1))), "two times share their views");
    assert!(!views.narrow(0, 0, 2).equal(&views.narrow(0, 2, 2)), "two copies are one");
    // Mirrored alone, a view is the image or its mirror image.
    let mirror = RandomAffine { flip: true, copies: 16, ..still };
    let views = mirror.apply(&images, &t);
    let mirrored = images.flip([3]);
    let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-9;
    let count = (0..16).filter(|k| near(&views.narrow(0, 2 * k, 2), &mirrored)).count();
    assert!((1..16).contains(&count));
    assert!((0..16).all(|k| {
        let view = views.narrow(0, 2 * k, 2);
        near(&view, &mirrored) || near(&view, &images)
    }));
}

/// DiT's code guides three of four channels: the fourth is the conditional one.
#[test]
fn three_channels_are_guided_where_asked() {
    let wide = |x: &Tensor| Tensor::cat(&[x, x], 1).narrow(1, 0, 4);
    #[derive(Debug)]
    struct Wide;
    impl Denoiser for Wide {
        fn denoise(&self, x_t: &Tensor, _: &Tensor, cond: &Cond) -> Tensor {
            x_t * 0.0 + like(&cond.label.as_ref().expect("a class").to_kind(Kind::Double), x_t)
        }
        fn schedule(&self) -> &dyn NoiseSchedule {
            unreachable!("guidance without rescaling asks for no schedule")
        }
    }
    let x = wide(&Tensor::zeros([2, 3, 1, 1], (Kind::Double, Device::Cpu)));
    let t = Tensor::full([2], 0.5, (Kind::Double, Device::Cpu));
    let guided = |channels| {
        let d = ClassifierFree { inner: &Wide, null: labels(&[0]), scale: 3.0, rescale: None, channels };
        Vec::<f64>::try_from(d.denoise(&x, &t, &labels(&[1, 2])).flatten(0, -1)).unwrap()
    };
    assert_eq!(guided(GuidedChannels::All), [3.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0, 6.0]);
    assert_eq!(guided(GuidedChannels::FirstThree), [3.0, 3.0, 3.0, 1.0, 6.0, 6.0, 6.0, 2.0]);
}
