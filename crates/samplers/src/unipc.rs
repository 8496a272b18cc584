//! UniPC: a predictor and a corrector from the same evaluations.

use crate::walk::{Levels, Walk, finish};
use heldout_core::{Cond, Denoiser, Error, NoiseStream, Result, Sampler, Step, combine};
use std::collections::VecDeque;
use tch::Tensor;

/// UniPC-p with `B_2(h) = e^h - 1` on `x_start_hat`; Zhao et al. 2023, Algorithms 5 to 8: one evaluation a step, order
/// `p + 1` by the corrector.
///
/// The order rises from 1 over the first steps, and falls to 1 towards a last step onto clean data. What the watcher sees are the predicted
/// states, at which the model is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct UniPc {
    /// `p`, 1 to 3; the paper advises 2 for guided sampling and 3 otherwise.
    pub order: usize,
}

impl Sampler for UniPc {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        mut x: Tensor,
        times: &[f64],
        cond: &Cond,
        _: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        if !(1..=3).contains(&self.order) {
            return Err(Error::config("order", format!("{} is not 1, 2 or 3", self.order)));
        }
        let mut walk = Walk::new(denoiser, &x, times, cond, watch)?;
        let steps = walk.steps();
        let ends_clean = walk.grid.sigma[steps] <= 0.0;
        // Estimates of the levels i, i - 1, ..
        let mut history: VecDeque<Tensor> = VecDeque::new();
        let mut start: Option<(Tensor, usize)> = None;
        for i in 0..steps {
            let hat = walk.denoise(i, &x);
            if let Some((from, order)) = &start {
                x = Multistep::new(&walk.grid, i - 1, *order, true).step(from, &history, Some(&hat));
            }
            history.push_front(hat);
            history.truncate(self.order);
            let usable = (0..history.len()).take_while(|k| walk.grid.half_log_snr(i - k).is_finite()).count();
            let left = if ends_clean { steps - i } else { self.order };
            let order = self.order.min(left).min(usable.max(1));
            let predicted = Multistep::new(&walk.grid, i, order, false).step(&x, &history, None);
            start = Some((std::mem::replace(&mut x, predicted), order));
        }
        finish(x)
    }
}

/// `x' = kept x + first m_0 + sum_k differences_k (m_k - m_0)`, the nodes `k` being earlier levels and perhaps the next.
struct Multistep {
    kept: f64,
    first: f64,
    differences: Vec<f64>,
}

impl Multistep {
    /// From level `i` to the next; Zhao et al. 2023, Eq. 3, 8 and 9 for `x_start_hat`.
    fn new(grid: &Levels<'_>, i: usize, order: usize, corrects: bool) -> Self {
        let ((_, sigma), (next_alpha, next_sigma)) = (grid.pair(i), grid.pair(i + 1));
        let lambda = |i| grid.half_log_snr(i);
        let h = lambda(i + 1) - lambda(i);
        // phi-like integrals of the exponential integrator, in -h; finite also where h is not.
        let decay = (-h).exp_m1();
        let mut nodes: Vec<f64> = (1..order).map(|k| (lambda(i - k) - lambda(i)) / h).collect();
        nodes.extend(corrects.then_some(1.0));
        let weights = match (nodes.len(), corrects) {
            (0, _) => Vec::new(),
            // One node: the papers' degenerate case, half for any step size.
            (1, _) => vec![0.5],
            (n, _) => {
                let mut rhs = Vec::with_capacity(n);
                let (mut phi, mut factorial) = (decay / -h - 1.0, 1.0);
                for k in 1..=n {
                    factorial *= k as f64;
                    rhs.push(phi * factorial / decay);
                    phi = phi / -h - 1.0 / (factorial * (k + 1) as f64);
                }
                solve_vandermonde(&nodes, &rhs)
            }
        };
        let scale = -next_alpha * decay;
        Self {
            kept: next_sigma / sigma,
            first: scale,
            differences: nodes.iter().zip(weights).map(|(r, w)| scale * w / r).collect(),
        }
    }

    /// `history` starts with the estimate of the level that the step starts from.
    fn step(&self, x: &Tensor, history: &VecDeque<Tensor>, next: Option<&Tensor>) -> Tensor {
        let first = self.first - self.differences.iter().sum::<f64>();
        let before = self.differences.len() - usize::from(next.is_some());
        let nodes = history.iter().skip(1).take(before).chain(next);
        let differences = self.differences.iter().copied().zip(nodes);
        combine([(self.kept, x), (first, &history[0])].into_iter().chain(differences))
    }
}

/// `w` with `sum_j w_j r_j^k = rhs_k`, for at most three nodes: Gaussian elimination with pivots.
fn solve_vandermonde(nodes: &[f64], rhs: &[f64]) -> Vec<f64> {
    let n = nodes.len();
    let mut rows: Vec<Vec<f64>> = (0..n)
        .map(|k| nodes.iter().map(|r| r.powi(k as i32)).chain(std::iter::once(rhs[k])).collect())
        .collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|a, b| rows[*a][i].abs().total_cmp(&rows[*b][i].abs())).unwrap_or(i);
        rows.swap(i, pivot);
        for j in 0..n {
            if j != i {
                let factor = rows[j][i] / rows[i][i];
                let pivot = rows[i].clone();
                rows[j].iter_mut().zip(pivot).for_each(|(a, b)| *a -= factor * b);
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}
