//! Training and held-out images, noise levels and draws of noise: what a diagnosis by noise level is made on.

use heldout_core::{Batch, Cond, Denoiser, Error, NoiseSchedule, Noised, Result, like, mean_flat, stream};
use tch::{Kind, Tensor};

/// As many training as held-out images, noise levels, and draws of noise that both sets share.
///
/// Row `i` of either set gets the same noise, so that differences between the sets are differences of images alone. A larger
/// training set is represented by a subset that is a function of the seed; a smaller one is repeated, with fresh noise for
/// each repetition. Standard errors are those over rows: over images and noise for held-out images and for a subset; for a
/// repeated training set, which is there as a whole, they are on the safe side.
#[derive(Debug)]
pub struct PairedSets {
    pub(crate) train: Batch,
    pub(crate) held_out: Batch,
    log_snr: Vec<f64>,
    batch: i64,
    seed: u64,
}

/// One noise level of a schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    index: usize,
    /// `ln(alpha^2 / sigma^2)`.
    pub(crate) log_snr: f64,
    t: f64,
}

impl PairedSets {
    /// `train` and `held_out` images `[N, C, H, W]` with their conditions, at the levels `log_snr`, `batch` rows of a forward
    /// pass.
    ///
    /// Errors: fewer than 2 held-out images, no training image, images of different shapes, no level or one that is no number,
    /// a batch of none.
    pub fn new(train: &Batch, held_out: &Batch, log_snr: Vec<f64>, batch: i64, seed: u64) -> Result<Self> {
        let n = held_out.len();
        if n < 2 {
            let reason =
                format!("{n} images where at least 2 are needed: without them there is no gap to measure");
            return Err(Error::config("held_out", reason));
        }
        if train.is_empty() {
            return Err(Error::config("train", "no images"));
        }
        let [ours, theirs] = [train, held_out].map(|set| set.x_start.size());
        if ours[1..] != theirs[1..] {
            let reason = format!("images of {:?} beside held-out images of {:?}", &ours[1..], &theirs[1..]);
            return Err(Error::config("train", reason));
        }
        if log_snr.is_empty() {
            return Err(Error::config("log_snr", "no noise level: at least 1 is needed"));
        }
        if batch < 1 {
            return Err(Error::config("batch", format!("{batch} rows: at least 1 is needed")));
        }
        tch::manual_seed(stream(seed, "training subset", 0, 0) as i64);
        let device = train.x_start.device();
        let order = Tensor::randperm(ours[0], (Kind::Int64, tch::Device::Cpu)).to_device(device);
        let places = Tensor::arange(n, (Kind::Int64, device)).remainder(ours[0]);
        let train = train.select(&order.index_select(0, &places));
        Ok(Self { train, held_out: held_out.shallow_clone(), log_snr, batch, seed })
    }

    /// The noise levels, `ln(alpha^2 / sigma^2)`.
    pub fn log_snr(&self) -> &[f64] {
        &self.log_snr
    }

    /// The levels as times of `schedule`; an error where it has no such time.
    pub(crate) fn levels(&self, schedule: &dyn NoiseSchedule) -> Result<Vec<Level>> {
        let level = |(index, log_snr): (usize, &f64)| {
            let t = schedule.time_of(&Tensor::from_slice(&[*log_snr])).double_value(&[0]);
            if !(0.0..=1.0).contains(&t) {
                let reason = format!("{log_snr} is no noise level of this schedule");
                return Err(Error::config("log_snr", reason));
            }
            Ok(Level { index, log_snr: *log_snr, t })
        };
        self.log_snr.iter().enumerate().map(level).collect()
    }

    /// Denoising loss of each row of `set` at `level`, `[N]`, f64.
    pub(crate) fn losses(&self, denoiser: &dyn Denoiser, set: &Batch, level: Level) -> Tensor {
        let [rows] = self.rows(set, level, denoiser.schedule(), |noised, cond| {
            let x_start_hat = denoiser.denoise(&noised.x_t, &noised.t, cond);
            [mean_flat(&(x_start_hat - &noised.x_start).square())]
        });
        rows
    }

    /// What `measure` says of the rows of `set` at `level`: its `K` answers `[b]`, as `K` tensors `[N]`, f64.
    pub(crate) fn rows<const K: usize>(
        &self,
        set: &Batch,
        level: Level,
        schedule: &dyn NoiseSchedule,
        mut measure: impl FnMut(&Noised, &Cond) -> [Tensor; K],
    ) -> [Tensor; K] {
        let x_start = &set.x_start;
        let n = set.len();
        tch::manual_seed(stream(self.seed, "level noise", level.index as u64, 0) as i64);
        let noise = x_start.randn_like();
        let t = Tensor::full([n], level.t, (Kind::Double, x_start.device()));
        let marginal = schedule.marginal(&t);
        let x_t = like(&marginal.alpha, x_start) * x_start + like(&marginal.sigma, x_start) * &noise;
        let mut parts: [Vec<Tensor>; K] = std::array::from_fn(|_| Vec::new());
        for start in (0..n).step_by(self.batch as usize) {
            let len = self.batch.min(n - start);
            let rows = |x: &Tensor| x.narrow(0, start, len);
            let noised = Noised {
                x_start: rows(x_start),
                noise: rows(&noise),
                t: rows(&t),
                x_t: rows(&x_t),
                marginal: marginal.narrow(start, len),
            };
            let said = tch::no_grad(|| measure(&noised, &set.cond.narrow(start, len)));
            parts.iter_mut().zip(said).for_each(|(part, rows)| part.push(rows.to_kind(Kind::Double)));
        }
        parts.map(|part| Tensor::cat(&part, 0))
    }
}
