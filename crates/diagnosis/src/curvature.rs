//! Curvature of the loss at the weights: the ends of the Hessian's spectrum and its trace.

use crate::hessian::{Hessian, dot};
use heldout_core::Mean;
use heldout_core::{Batch, Clock, Error, Objective, Params, Result, stream};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How much work goes into a [`Curvature`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvatureConfig {
    /// Lanczos steps at most, at least 1; as many vectors of the weights' size are held.
    pub iterations: usize,
    /// Lanczos ends when the residual of the largest eigenvalue by size is below this share of it.
    pub tolerance: f64,
    /// Random vectors for the trace, at least 2.
    pub probes: u64,
    /// Seed of the objective's draws, the first vector and the probes.
    pub seed: u64,
}

impl Default for CurvatureConfig {
    fn default() -> Self {
        Self { iterations: 30, tolerance: 1e-3, probes: 16, seed: 0 }
    }
}

impl CurvatureConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.iterations == 0 {
            return Err(Error::config("iterations", "0: at least 1 is needed"));
        }
        if self.probes < 2 {
            let reason = format!("{}: at least 2 are needed, for an error", self.probes);
            return Err(Error::config("probes", reason));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            return Err(Error::config("tolerance", format!("{} is not a number from 0 up", self.tolerance)));
        }
        Ok(())
    }
}

/// An eigenvalue, as far as it has been found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Eigenpair {
    /// The eigenvalue.
    pub value: f64,
    /// `|H v - value v|` of its unit vector: the Hessian has an eigenvalue that is no further off than this.
    pub residual: f64,
}

/// The ends of a Hessian's spectrum and its trace.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Curvature {
    /// The loss.
    pub loss: f64,
    /// Norm of the gradient.
    pub gradient_norm: f64,
    /// The largest eigenvalue, the sharpness.
    pub largest: Eigenpair,
    /// The smallest one; below 0 at a saddle.
    pub smallest: Eigenpair,
    /// Sum of all eigenvalues.
    pub trace: Mean,
    /// Lanczos steps that were made.
    pub iterations: usize,
    /// How many weights.
    pub parameters: i64,
}

/// Curvature of `objective` on `batch` by its weights, which stay as they are.
///
/// The ends by Lanczos (Golub and Van Loan 2013, Algorithm 10.1.1) with full reorthogonalisation, the trace by Hutchinson's
/// estimator (1990) with vectors of 1 and -1. The draws of the objective are those after one seed, so that the Hessian is
/// that of one function; it is as noisy an estimate of the expected loss' Hessian as the batch is small.
pub fn curvature(
    params: &Params,
    objective: &mut dyn Objective,
    batch: &Batch,
    clock: Clock,
    config: CurvatureConfig,
) -> Result<Curvature> {
    config.check()?;
    let hessian = Hessian::new(params, objective, batch, clock, stream(config.seed, "curvature", 0, 0))?;
    let krylov = lanczos(&hessian, config)?;
    let probe = |i: u64| {
        tch::manual_seed(stream(config.seed, "hutchinson", i, 0) as i64);
        let v = hessian.signs();
        Ok(dot(&v, &hessian.times(&v)?))
    };
    let traces: Vec<f64> = (0..config.probes).map(probe).collect::<Result<_>>()?;
    let gradient = hessian.gradient();
    Ok(Curvature {
        loss: hessian.loss,
        gradient_norm: dot(&gradient, &gradient).sqrt(),
        largest: krylov.pair(&hessian, krylov.basis.len() - 1)?,
        smallest: krylov.pair(&hessian, 0)?,
        trace: Mean::of(&Tensor::from_slice(&traces)),
        iterations: krylov.basis.len(),
        parameters: hessian.size(),
    })
}

/// An orthonormal basis `[k][P]` in which the Hessian is tridiagonal, and the eigenvectors `[k, k]` there, columns from the
/// smallest eigenvalue to the largest.
struct Krylov {
    basis: Vec<Tensor>,
    vectors: Tensor,
}

impl Krylov {
    /// The `i`th eigenpair, with its residual by one more product.
    fn pair(&self, hessian: &Hessian, i: usize) -> Result<Eigenpair> {
        let weights = Vec::<f64>::try_from(self.vectors.select(1, i as i64).contiguous())?;
        let terms = self.basis.iter().zip(weights).map(|(v, w)| v * w);
        let v = terms.reduce(|a, b| a + b).unwrap_or_default();
        let v = &v / dot(&v, &v).sqrt();
        let image = hessian.times(&v)?;
        let value = dot(&v, &image);
        let rest = image - v * value;
        Ok(Eigenpair { value, residual: dot(&rest, &rest).sqrt() })
    }
}

fn lanczos(hessian: &Hessian, config: CurvatureConfig) -> Result<Krylov> {
    tch::manual_seed(stream(config.seed, "lanczos", 0, 0) as i64);
    let start = hessian.randn();
    let mut basis = vec![&start / dot(&start, &start).sqrt()];
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    let most = config.iterations.min(hessian.size() as usize);
    loop {
        let mut w = hessian.times(&basis[basis.len() - 1])?;
        diagonal.push(dot(&w, &basis[basis.len() - 1]));
        for _ in 0..2 {
            // Once would leave what rounding put back; Parlett 1998, section 6.9.
            for v in &basis {
                w -= v * dot(&w, v);
            }
        }
        let (values, vectors) = tridiagonal(&diagonal, &beside)?;
        let k = basis.len();
        let norm = dot(&w, &w).sqrt();
        let at = if values[k - 1] >= -values[0] { k - 1 } else { 0 };
        let size = values[at].abs();
        let residual = norm * vectors.double_value(&[k as i64 - 1, at as i64]).abs();
        // A norm of rounding alone: the basis spans all that the first vector can reach.
        if k == most || residual <= config.tolerance * size || norm <= 1e-6 * size {
            return Ok(Krylov { basis, vectors });
        }
        beside.push(norm);
        basis.push(w / norm);
    }
}

/// Eigenvalues in rising order and eigenvectors of a symmetric tridiagonal matrix.
fn tridiagonal(diagonal: &[f64], beside: &[f64]) -> Result<(Vec<f64>, Tensor)> {
    let off = |side: i64| Tensor::from_slice(beside).diag(side);
    let mut matrix = Tensor::from_slice(diagonal).diag(0);
    if !beside.is_empty() {
        matrix = matrix + off(1) + off(-1);
    }
    let (values, vectors) = matrix.f_linalg_eigh("L")?;
    Ok((Vec::<f64>::try_from(values.to_kind(Kind::Double))?, vectors))
}
