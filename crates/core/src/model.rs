//! Schedules, parameterisations, networks and what they make together: a denoiser.

use crate::{Cond, Marginal, Result, Scalings, combine, like};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// `alpha` and `sigma` as functions of time: 0 is data, 1 is noise.
///
/// Law: `time_of(log_snr(t)) = t`; `log_snr` falls; `d_alpha`, `d_sigma` are the derivatives.
pub trait NoiseSchedule: Debug {
    /// `t` `[B]`, f64.
    fn marginal(&self, t: &Tensor) -> Marginal;
    /// Inverse of `log_snr`, `[B] -> [B]`.
    fn time_of(&self, log_snr: &Tensor) -> Tensor;
    /// `ln(alpha^2 / sigma^2)`, `[B] -> [B]`.
    fn log_snr(&self, t: &Tensor) -> Tensor {
        self.marginal(t).log_snr()
    }
}

impl<S: NoiseSchedule + ?Sized> NoiseSchedule for Box<S> {
    fn marginal(&self, t: &Tensor) -> Marginal {
        (**self).marginal(t)
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (**self).time_of(log_snr)
    }
}

impl<S: NoiseSchedule + ?Sized> NoiseSchedule for Rc<S> {
    fn marginal(&self, t: &Tensor) -> Marginal {
        (**self).marginal(t)
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (**self).time_of(log_snr)
    }
}

/// What the network predicts, as four scalars.
///
/// Law: with the target of [`Scalings::target`] for an output, `x_start_hat` is `x_start`.
pub trait Parameterization: Debug {
    /// Each `[B]`.
    fn scalings(&self, marginal: &Marginal) -> Scalings;
}

/// A named place in a backbone whose activations can be seen and replaced.
///
/// In recipes: `"mid"`, or `{ up = 2 }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// What the first layer makes of the images: what the first block sees.
    Stem,
    /// The state of an encoder at the end of its `i`th resolution, on the way down: what follows sees it. The middle is one
    /// after the last.
    Level(usize),
    /// The `i`th skip connection of an encoder, in the order in which it is made.
    Down(usize),
    /// The output of the middle block.
    Mid,
    /// The output of the `i`th block of a decoder.
    Up(usize),
    /// The output of the `i`th block of a transformer.
    Block(usize),
    /// The output of the `i`th of several heads, of the shape of the network's own output.
    Head(usize),
}

/// Sees, and may replace, the activations at named sites of one forward pass. `()` looks away.
pub trait Probe {
    /// `h` is what the network made at `site`; the answer is what it goes on with, of the same shape.
    fn at(&mut self, site: Site, h: Tensor) -> Tensor;
}

impl Probe for () {
    fn at(&mut self, _: Site, h: Tensor) -> Tensor {
        h
    }
}

impl<A: Probe + ?Sized, B: Probe + ?Sized> Probe for (&mut A, &mut B) {
    fn at(&mut self, site: Site, h: Tensor) -> Tensor {
        let h = self.0.at(site, h);
        self.1.at(site, h)
    }
}

/// Keeps the activations of the wanted sites.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The sites to keep.
    pub wanted: Vec<Site>,
    /// What was seen there, with its graph.
    pub seen: Vec<(Site, Tensor)>,
}

impl Probe for Recorder {
    fn at(&mut self, site: Site, h: Tensor) -> Tensor {
        if self.wanted.contains(&site) {
            self.seen.push((site, h.shallow_clone()));
        }
        h
    }
}

/// What a network is given.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// `[B, C, H, W]`, already multiplied by `c_in`.
    pub x: &'a Tensor,
    /// `c_noise`, `[B]`.
    pub noise_level: &'a Tensor,
    /// Conditions.
    pub cond: &'a Cond,
    /// Whether dropout and its like are on.
    pub train: bool,
}

/// The raw network `F`. Knows nothing of schedules, losses, adapters or samplers.
///
/// Law: the output has the shape of the input's `x` (or of the learned extra channels); no row sees another row.
pub trait Backbone: Debug {
    /// `[B, C, H, W] -> [B, C', H, W]`.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor;
    /// Which part of an input this network cannot take, and why: for input that a user gave, since [`Backbone::forward`]
    /// may panic on it.
    fn check(&self, _input: Input<'_>) -> Result<()> {
        Ok(())
    }
}

/// `E[x_start | x_t]`, whatever the network predicts: all that a sampler, a penalty or a metric sees of a model.
///
/// Law: no row sees another row.
pub trait Denoiser: Debug {
    /// `x_t` `[B, C, H, W]`, `t` `[B]` f64 to `[B, C, H, W]`.
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor;
    /// The forward process that it inverts.
    fn schedule(&self) -> &dyn NoiseSchedule;
    /// The same with the variance of the reverse step, `[B, C, H, W]`, from a model that learned it: see
    /// [`Posterior::log_variance`].
    ///
    /// [`Posterior::log_variance`]: crate::Posterior::log_variance
    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        (self.denoise(x_t, t, cond), None)
    }
    /// The same model made ready for times `t` `[N]`, f64, each shared by all rows of states of this kind: what depends on
    /// time alone is computed once. `None` where nothing is gained.
    fn prepare<'a>(&'a self, _t: &Tensor, _kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        None
    }
}

/// A denoiser that was made ready for certain times.
///
/// Law: the same as [`Denoiser::denoise_with_variance`] at that time, but for rounding.
pub trait Prepared {
    /// At the `i`th time.
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>);
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        (**self).denoise(x_t, t, cond)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        (**self).schedule()
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        (**self).denoise_with_variance(x_t, t, cond)
    }

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        (**self).prepare(t, kind)
    }
}

/// Network, parameterisation and schedule: a model.
#[derive(Debug)]
pub struct Preconditioned {
    /// `F`.
    pub backbone: Box<dyn Backbone>,
    /// What `F` predicts.
    pub parameterization: Box<dyn Parameterization>,
    /// The forward process.
    pub schedule: Box<dyn NoiseSchedule>,
}

impl Preconditioned {
    /// `F(c_in * x_t, c_noise)`, `[B, C, H, W]`.
    pub fn raw(&self, x_t: &Tensor, s: &Scalings, cond: &Cond, train: bool, probe: &mut dyn Probe) -> Tensor {
        let x = like(&s.c_in, x_t) * x_t;
        let noise_level = s.c_noise.to_kind(x_t.kind());
        self.backbone.forward(Input { x: &x, noise_level: &noise_level, cond, train }, probe)
    }

    /// The prediction, and the variance of a network that has as many channels again: [`Preconditioned::raw`] taken apart.
    pub fn parts(raw: Tensor, x_t: &Tensor) -> (Tensor, Option<Tensor>) {
        let channels = x_t.size()[1];
        if raw.size()[1] == channels {
            return (raw, None);
        }
        let variance = raw.narrow(1, channels, channels);
        (raw.narrow(1, 0, channels), Some(variance))
    }
}

impl Denoiser for Preconditioned {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let s = self.parameterization.scalings(&self.schedule.marginal(t));
        let (raw, variance) = Self::parts(self.raw(x_t, &s, cond, false, &mut ()), x_t);
        (like(&s.c_skip, x_t) * x_t + like(&s.c_out, x_t) * raw, variance)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.schedule.as_ref()
    }

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        let s = self.parameterization.scalings(&self.schedule.marginal(t));
        let host = |c: &Tensor| Vec::<f64>::try_from(c).ok();
        Some(Box::new(PreparedModel {
            backbone: self.backbone.as_ref(),
            noise_level: s.c_noise.to_kind(kind),
            c_skip: host(&s.c_skip)?,
            c_out: host(&s.c_out)?,
            c_in: host(&s.c_in)?,
        }))
    }
}

/// [`Preconditioned`] with its scalings for certain times.
struct PreparedModel<'a> {
    backbone: &'a dyn Backbone,
    /// `[N]`.
    noise_level: Tensor,
    c_skip: Vec<f64>,
    c_out: Vec<f64>,
    c_in: Vec<f64>,
}

impl Prepared for PreparedModel<'_> {
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let scaled = (self.c_in[i] != 1.0).then(|| x_t * self.c_in[i]);
        let noise_level = self.noise_level.narrow(0, i as i64, 1).expand([x_t.size()[0]], false);
        let input =
            Input { x: scaled.as_ref().unwrap_or(x_t), noise_level: &noise_level, cond, train: false };
        let raw = self.backbone.forward(input, &mut ());
        let (raw, variance) = Preconditioned::parts(raw, x_t);
        (combine([(self.c_out[i], &raw), (self.c_skip[i], x_t)]), variance)
    }
}

/// ControlNet, T2I-Adapter: residuals for a frozen backbone.
///
/// Laws: all zero at initialisation; none where the conditions have no hint.
pub trait Adapter: Debug {
    /// What to add, and where: at each of [`Adapter::sites`] once, in their order.
    fn residuals(&self, input: Input<'_>) -> Residuals;
    /// Where it adds.
    fn sites(&self) -> Vec<Site>;
    /// Channels of [`Cond::hint`] that it looks at: the hints of several adapters stand side by side.
    fn hint_channels(&self) -> i64;
    /// Which part of an input it cannot take, and why: see [`Backbone::check`].
    fn check(&self, _input: Input<'_>) -> Result<()> {
        Ok(())
    }
}

/// Tensors to be added at named sites.
#[derive(Debug, Default)]
pub struct Residuals(pub Vec<(Site, Tensor)>);

impl Probe for Residuals {
    fn at(&mut self, site: Site, h: Tensor) -> Tensor {
        match self.0.iter().find(|(s, _)| *s == site) {
            Some((_, residual)) => h + residual,
            None => h,
        }
    }
}

/// An adapted backbone is a backbone.
#[derive(Debug)]
pub struct Adapted<B, A> {
    /// The frozen network.
    pub backbone: B,
    /// What is added to it.
    pub adapter: A,
}

impl<B: Backbone, A: Adapter> Backbone for Adapted<B, A> {
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let mut residuals = self.adapter.residuals(input);
        self.backbone.forward(input, &mut (&mut residuals, probe))
    }

    /// The hint is the adapter's: the backbone must do without one.
    fn check(&self, input: Input<'_>) -> Result<()> {
        self.adapter.check(input)?;
        let cond = Cond { hint: None, ..input.cond.shallow_clone() };
        self.backbone.check(Input { cond: &cond, ..input })
    }
}

/// Pixels to latents and back. Owns its latent scale and shift: nothing outside multiplies by a constant.
///
/// Law: `decode(encode(x))` has the shape of `x`.
pub trait Autoencoder: Debug {
    /// `[B, C, H, W]` in `[-1, 1]` to `[B, c, H/f, W/f]` of about unit variance.
    fn encode(&self, x: &Tensor) -> Tensor;
    /// The way back.
    fn decode(&self, z: &Tensor) -> Tensor;
}

/// What is behind a pointer does what it does.
macro_rules! forwards {
    ($pointer:ident: $of:ident { $(fn $name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)* }) => {
        impl<T: $of + ?Sized> $of for $pointer<T> {
            $(fn $name(&self, $($arg: $kind),*) -> $out {
                (**self).$name($($arg),*)
            })*
        }
    };
}

macro_rules! behind_pointers {
    ($of:ident $methods:tt) => {
        forwards!(Box: $of $methods);
        forwards!(Rc: $of $methods);
    };
}

behind_pointers!(Backbone {
    fn forward(input: Input<'_>, probe: &mut dyn Probe) -> Tensor;
    fn check(input: Input<'_>) -> Result<()>;
});
behind_pointers!(Adapter {
    fn residuals(input: Input<'_>) -> Residuals;
    fn sites() -> Vec<Site>;
    fn hint_channels() -> i64;
    fn check(input: Input<'_>) -> Result<()>;
});
behind_pointers!(Autoencoder {
    fn encode(x: &Tensor) -> Tensor;
    fn decode(z: &Tensor) -> Tensor;
});
