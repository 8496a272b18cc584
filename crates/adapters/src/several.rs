//! Adapters around adapters: several with weights, and one with a scale for each place.

use crate::ControlNet;
use heldout_core::{Adapter, Cond, Error, Input, Residuals, Result, Site};
use heldout_nn::variable;
use tch::{Tensor, nn};

/// How much of an adapter is added.
#[derive(Debug)]
pub enum Weight {
    /// A number; at 0 the adapter is not asked.
    Fixed(f64),
    /// A number that is trained, `[]`.
    Learned(Tensor),
}

impl Weight {
    /// A number that is trained, called `name` under `vs`, from this start.
    pub fn learned(vs: &nn::Path<'_>, name: &str, start: f64) -> Self {
        Self::Learned(variable(vs, name, &[], nn::Init::Const(start)))
    }

    pub(crate) fn is_zero(&self) -> bool {
        matches!(self, Self::Fixed(weight) if *weight == 0.0)
    }

    pub(crate) fn times(&self, x: Tensor) -> Tensor {
        match self {
            Self::Fixed(weight) if *weight == 1.0 => x,
            Self::Fixed(weight) => x * *weight,
            Self::Learned(weight) => x * weight,
        }
    }
}

/// Several adapters at once: the weighted sum of their residuals. Each sees its own channels of the hint, in the order of the
/// list.
///
/// Law: the others' residuals are what they are, whatever an adapter of weight 0 would add.
#[derive(Debug)]
pub struct Several(pub Vec<(Box<dyn Adapter>, Weight)>);

/// The conditions with each adapter's channels of the hint.
pub(crate) fn own_hints<'a>(
    adapters: impl Iterator<Item = &'a dyn Adapter>,
    cond: &Cond,
) -> impl Iterator<Item = Cond> {
    let mut first = 0;
    adapters.map(move |adapter| {
        let (start, channels) = (first, adapter.hint_channels());
        first += channels;
        Cond { hint: cond.hint.as_ref().map(|hint| hint.narrow(1, start, channels)), ..cond.shallow_clone() }
    })
}

/// Whether a hint has the channels of all of these, and each can take its own.
pub(crate) fn check_each<'a>(
    adapters: impl Iterator<Item = &'a dyn Adapter> + Clone,
    input: Input<'_>,
) -> Result<()> {
    let channels: i64 = adapters.clone().map(Adapter::hint_channels).sum();
    if let Some(size) = input.cond.hint.as_ref().map(Tensor::size)
        && (size.len() != 4 || size[1] != channels)
    {
        let reason = format!("is of shape {size:?}: all adapters together need [B, {channels}, H, W]");
        return Err(Error::config("hint", reason));
    }
    let conds: Vec<_> = own_hints(adapters.clone(), input.cond).collect();
    adapters.zip(&conds).try_for_each(|(adapter, cond)| adapter.check(Input { cond, ..input }))
}

impl Several {
    fn adapters(&self) -> impl Iterator<Item = &dyn Adapter> + Clone {
        self.0.iter().map(|(adapter, _)| adapter.as_ref())
    }
}

impl Adapter for Several {
    fn residuals(&self, input: Input<'_>) -> Residuals {
        let mut all: Vec<(Site, Tensor)> = Vec::new();
        for ((adapter, weight), cond) in self.0.iter().zip(own_hints(self.adapters(), input.cond)) {
            if weight.is_zero() {
                continue;
            }
            for (site, residual) in adapter.residuals(Input { cond: &cond, ..input }).0 {
                let residual = weight.times(residual);
                match all.iter_mut().find(|(there, _)| *there == site) {
                    Some((_, sum)) => *sum = &*sum + residual,
                    None => all.push((site, residual)),
                }
            }
        }
        Residuals(all)
    }

    fn sites(&self) -> Vec<Site> {
        let mut sites = Vec::new();
        for site in self.0.iter().filter(|(_, weight)| !weight.is_zero()).flat_map(|(a, _)| a.sites()) {
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
        sites
    }

    fn hint_channels(&self) -> i64 {
        self.adapters().map(Adapter::hint_channels).sum()
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        check_each(self.adapters(), input)
    }
}

/// An adapter with a scale for each of its sites.
#[derive(Debug)]
pub struct ScaledSites<A> {
    adapter: A,
    scales: Vec<f64>,
}

impl<A: Adapter> ScaledSites<A> {
    /// `scales` in the order of [`Adapter::sites`].
    ///
    /// # Errors
    /// `scales` of another number than there are sites, or not finite.
    pub fn new(adapter: A, scales: Vec<f64>) -> Result<Self> {
        let sites = adapter.sites().len();
        if scales.len() != sites {
            let reason = format!("{} scales for an adapter of {sites} sites", scales.len());
            return Err(Error::config("scales", reason));
        }
        match scales.iter().find(|scale| !scale.is_finite()) {
            Some(scale) => Err(Error::config("scales", format!("{scale} is not a finite number"))),
            None => Ok(Self { adapter, scales }),
        }
    }
}

impl ScaledSites<ControlNet> {
    /// Guess mode: see [`ControlNet::guess_scales`]. The other half of it, as in diffusers, is guidance whose unconditional half
    /// has no hint: an adapter adds nothing there.
    pub fn guess(net: ControlNet) -> Self {
        let scales = net.guess_scales();
        Self { adapter: net, scales }
    }
}

impl<A: Adapter> Adapter for ScaledSites<A> {
    fn residuals(&self, input: Input<'_>) -> Residuals {
        let all = self.adapter.residuals(input).0.into_iter().zip(&self.scales);
        Residuals(all.map(|((site, residual), scale)| (site, residual * *scale)).collect())
    }

    fn sites(&self) -> Vec<Site> {
        self.adapter.sites()
    }

    fn hint_channels(&self) -> i64 {
        self.adapter.hint_channels()
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        self.adapter.check(input)
    }
}
