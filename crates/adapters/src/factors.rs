//! What an image is split into: colour, structure, texture, and others of their kind.

use heldout_core::{Error, Result};
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// A part of an image, linear in it.
///
/// Law: `part(a x + b y) = a part(x) + b part(y)`. Of noise as of images: what a network predicts is split in the same way.
pub trait Factor: Debug {
    /// As in logs.
    fn name(&self) -> &str;
    /// `[B, C, ..]` to its part, of the same shape.
    fn part(&self, x: &Tensor) -> Tensor;
}

/// The low frequencies of an image: the first of the discrete cosine transform along height and width (Ahmed et al. 1974). An
/// orthogonal projection: its part of white noise is independent of the rest.
///
/// Law: `part(part(x)) = part(x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowPass {
    name: String,
    kept: f64,
}

impl LowPass {
    /// Keeps this share of the frequencies of each side, in `(0, 1]`, and at least the mean.
    pub fn new(name: impl Into<String>, kept: f64) -> Result<Self> {
        let name = name.into();
        if kept > 0.0 && kept <= 1.0 {
            return Ok(Self { name, kept });
        }
        Err(Error::config(name, format!("{kept}: a share of the frequencies is in (0, 1]")))
    }

    /// The projection of vectors of `n` numbers, `[n, n]`.
    fn projection(&self, n: i64, like: &Tensor) -> Tensor {
        let options = (Kind::Double, like.device());
        let frequencies = ((n as f64 * self.kept).ceil() as i64).clamp(1, n);
        let places = (Tensor::arange(n, options) + 0.5) * (std::f64::consts::PI / n as f64);
        let waves = (Tensor::arange(frequencies, options).unsqueeze(1) * places).cos(); // [frequencies, n]
        let waves = &waves / waves.square().sum_dim_intlist(1i64, true, Kind::Double).sqrt();
        waves.transpose(0, 1).matmul(&waves).to_kind(like.kind())
    }
}

impl Factor for LowPass {
    fn name(&self) -> &str {
        &self.name
    }

    fn part(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let [.., height, width] = size[..] else { unreachable!("images have two sides") };
        let rows = self.projection(height, x).matmul(x);
        rows.matmul(&self.projection(width, x))
    }
}

/// An image split into parts: each factor takes its part of what those before it have left, and the last part is the rest.
///
/// Law: the parts add up to the image, but for rounding.
#[derive(Debug)]
pub struct Split {
    factors: Vec<Box<dyn Factor>>,
    rest: String,
}

impl Split {
    /// `rest` names the last part.
    ///
    /// # Errors
    /// Two parts of one name.
    pub fn new(factors: Vec<Box<dyn Factor>>, rest: impl Into<String>) -> Result<Self> {
        let split = Self { factors, rest: rest.into() };
        let names: Vec<&str> = split.names().collect();
        match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            Some((_, name)) => Err(Error::config(*name, "names two parts: each needs a name of its own")),
            None => Ok(split),
        }
    }

    /// Colour is the lowest eighth of the frequencies of each side, structure what else is in the lower half, texture the rest.
    pub fn colour_structure_texture() -> Self {
        let low = |name: &str, kept| Box::new(LowPass { name: name.to_owned(), kept }) as Box<dyn Factor>;
        Self { factors: vec![low("colour", 0.125), low("structure", 0.5)], rest: "texture".to_owned() }
    }

    /// The names of the parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factors.iter().map(|factor| factor.name()).chain([self.rest.as_str()])
    }

    /// Every part of `x` `[B, C, ..]`, in the order of the names.
    pub fn parts(&self, x: &Tensor) -> Vec<Tensor> {
        let mut rest = x.shallow_clone();
        let mut parts = Vec::with_capacity(self.factors.len() + 1);
        for factor in &self.factors {
            let part = factor.part(&rest);
            rest = &rest - &part;
            parts.push(part);
        }
        parts.push(rest);
        parts
    }

    /// Part number `i` alone.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn part(&self, i: usize, x: &Tensor) -> Tensor {
        let mut rest = x.shallow_clone();
        for factor in &self.factors[..i] {
            rest = &rest - factor.part(&rest);
        }
        match self.factors.get(i) {
            Some(factor) => factor.part(&rest),
            None => rest,
        }
    }
}
