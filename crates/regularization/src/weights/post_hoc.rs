//! Averages that were not kept, from others that were.

use heldout_core::{Error, Result};
use tch::{Kind, Tensor};

/// What a power-function average has seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// Steps that it has taken in, at least 1.
    pub steps: f64,
    /// Its power, see [`PowerDecay`](crate::PowerDecay).
    pub gamma: f64,
}

impl Profile {
    /// `int p q` of two profiles `p(t) = (gamma + 1) t^gamma / steps^(gamma + 1)` up to `steps`.
    fn product(&self, other: &Self) -> f64 {
        let (a, b) = (self, other);
        let (early, late) = if a.steps <= b.steps { (a, b) } else { (b, a) };
        let ratio = (early.steps / late.steps).ln() * late.gamma;
        (a.gamma + 1.0) * (b.gamma + 1.0) / ((a.gamma + b.gamma + 1.0) * late.steps) * ratio.exp()
    }
}

/// The weights of `stored` averages in the sum that comes closest to `wanted`, in the order of `stored`; Karras et al. 2024
/// (EDM2), Algorithm 3.
///
/// Least squares over profiles: how close it comes depends on how many averages lie around the wanted one.
///
/// Errors: none is stored, a profile that is no power of steps, or all stored before a tenth of the wanted steps.
pub fn reconstruct(stored: &[Profile], wanted: Profile) -> Result<Vec<f64>> {
    let sound = |p: &Profile| p.steps >= 1.0 && p.gamma >= 0.0 && p.steps.is_finite() && p.gamma.is_finite();
    if stored.is_empty() || !stored.iter().chain([&wanted]).all(sound) {
        return Err(Error::config("width", "no averages of one step and more are stored to make it from"));
    }
    if stored.iter().all(|p| p.steps < 0.1 * wanted.steps) {
        let reason = format!("nothing is stored near step {}: choose an earlier one", wanted.steps);
        return Err(Error::config("step", reason));
    }
    // Norms first, so that the system is one of angles.
    let norm: Vec<f64> = stored.iter().map(|p| p.product(p).sqrt()).collect();
    let row = |p: &Profile| stored.iter().zip(&norm).map(|(q, n)| p.product(q) / n).collect::<Vec<f64>>();
    let n = stored.len() as i64;
    let rows = stored.iter().zip(&norm).flat_map(|(p, n)| row(p).into_iter().map(move |v| v / n));
    let a = Tensor::from_slice(&rows.collect::<Vec<f64>>()).view([n, n]);
    let b = Tensor::from_slice(&row(&wanted)).view([n, 1]);
    let solved = a.f_linalg_lstsq(&b, 1e-13, "gelsd")?.0;
    let solved = Vec::<f64>::try_from(solved.to_kind(Kind::Double).flatten(0, -1))?;
    Ok(solved.into_iter().zip(norm).map(|(x, n)| x / n).collect())
}
