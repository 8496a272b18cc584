//! An adaptive Runge-Kutta method, every row with a step size of its own.

use heldout_core::{Error, Result, like};
use tch::{Kind, Tensor};

/// Error allowed in a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// Relative to the state.
    pub(crate) rtol: f64,
    /// Absolute.
    pub(crate) atol: f64,
}

impl Tolerance {
    pub(crate) fn check(&self) -> Result<()> {
        for (field, tolerance) in [("rtol", self.rtol), ("atol", self.atol)] {
            if !(tolerance > 0.0 && tolerance.is_finite()) {
                return Err(Error::config(field, format!("{tolerance} is not a positive number")));
            }
        }
        Ok(())
    }
}

/// Steps of a row, at most.
const MOST: usize = 100_000;

// Dormand and Prince 1980, Table 2.
const NODES: [f64; 7] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
const STAGES: [&[f64]; 7] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// The step of order 5 less that of order 4.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339_200.0, 22.0 / 525.0, -1.0 / 40.0];

/// `z` `[B, ..]` from `from` to `to` along `dz / da = slope(z, a, rows)`: `a` `[K]`, f64, is where each row is, `rows` `[K]` says
/// which rows are still on their way.
pub(crate) fn integrate(
    mut z: Tensor,
    (from, to): (f64, f64),
    tolerance: Tolerance,
    slope: &mut dyn FnMut(&Tensor, &Tensor, &Tensor) -> Tensor,
) -> Result<Tensor> {
    let batch = z.size()[0];
    let mut result = z.copy();
    let mut rows = Tensor::arange(batch, (Kind::Int64, z.device()));
    let mut at = vec![from; batch as usize];
    let mut step = vec![(to - from) / 20.0; batch as usize];
    let mut first = slope(&z, &column(&at, &z), &rows);
    for _ in 0..MOST {
        let h = like(&column(&step, &z), &z);
        let mut slopes = vec![first.shallow_clone()];
        let mut reached = z.shallow_clone();
        for stage in 1..NODES.len() {
            reached = &z + &h * weighted(STAGES[stage], &slopes);
            let there: Vec<f64> = at.iter().zip(&step).map(|(a, h)| a + NODES[stage] * h).collect();
            slopes.push(slope(&reached, &column(&there, &z), &rows));
        }
        let allowed = z.abs().maximum(&reached.abs()) * tolerance.rtol + tolerance.atol;
        let ratio = (h * weighted(&ERROR, &slopes) / allowed).square().flatten(1, -1);
        let ratio = Vec::<f64>::try_from(ratio.mean_dim(1i64, false, Kind::Double).sqrt())?;
        if ratio.iter().any(|r| !r.is_finite()) {
            let reason = "holds NaN or infinite values: the model's estimates were";
            return Err(Error::config("x_start_hat", reason));
        }
        let accepted: Vec<bool> = ratio.iter().map(|r| *r <= 1.0).collect();
        for (k, ratio) in ratio.iter().enumerate() {
            if accepted[k] {
                at[k] += step[k];
            }
            let wanted = step[k] * (0.9 * ratio.max(1e-10).powf(-0.2)).clamp(0.2, 5.0);
            let rest = to - at[k];
            step[k] = if wanted.abs() < rest.abs() { wanted } else { rest };
        }
        let mask = like(&Tensor::from_slice(&accepted).to_device(z.device()), &z).to_kind(Kind::Bool);
        z = reached.where_self(&mask, &z);
        first = slopes[NODES.len() - 1].where_self(&mask, &first);
        // Rows that have arrived leave the batch.
        let left: Vec<i64> =
            (0..at.len()).filter(|k| (to - at[*k]).abs() > 1e-14).map(|k| k as i64).collect();
        if left.len() < at.len() {
            let _ = result.index_copy_(0, &rows, &z);
            if left.is_empty() {
                return Ok(result);
            }
            let keep = Tensor::from_slice(&left).to_device(z.device());
            let pick = |t: &Tensor| t.index_select(0, &keep);
            (z, first, rows) = (pick(&z), pick(&first), pick(&rows));
            at = left.iter().map(|k| at[*k as usize]).collect();
            step = left.iter().map(|k| step[*k as usize]).collect();
        }
    }
    let reason = format!("no end after {MOST} steps: allow more error, or look for jumps in the model");
    Err(Error::config("rtol", reason))
}

fn weighted(weights: &[f64], slopes: &[Tensor]) -> Tensor {
    let terms = weights.iter().zip(slopes).filter(|(c, _)| **c != 0.0).map(|(c, k)| k * *c);
    terms.reduce(|a, b| a + b).unwrap_or_else(|| slopes[0].zeros_like())
}

/// One number for each row, `[B]`, f64, where `z` is.
fn column(values: &[f64], z: &Tensor) -> Tensor {
    Tensor::from_slice(values).to_device(z.device())
}
