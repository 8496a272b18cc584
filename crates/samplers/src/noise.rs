//! Noise that belongs to a sample, not to a batch.

use heldout_core::{NoiseSchedule, NoiseStream, stream};
use tch::{Device, Kind, Tensor};

/// Sample number `first + i` at step `k` gets the noise of `(seed, k, first + i)`, whatever batch it is in.
///
/// Drawn on the CPU, so that every device sees the same noise; uses libtorch's global generator.
#[derive(Debug, Clone, Copy)]
pub struct SeededNoise {
    /// The seed of the whole set of samples.
    pub seed: u64,
    /// The number of the first sample of the batch.
    pub first: u64,
}

/// Standard deviation of `x_t` at time `t` for data of unit variance: what unit noise is multiplied by where sampling starts.
pub fn starting_std(schedule: &dyn NoiseSchedule, t: f64, device: Device) -> f64 {
    let m = schedule.marginal(&Tensor::from_slice(&[t]).to_device(device));
    (m.alpha.square() + m.sigma.square()).sqrt().double_value(&[0])
}

impl SeededNoise {
    /// What sampling from time `t` starts from, `[n, ..shape]`, f32: Gaussian noise with the standard deviation of `x_t`
    /// for data of unit variance. It is 1 on variance-preserving schedules and for straight lines from time 1.
    pub fn start(
        &self,
        schedule: &dyn NoiseSchedule,
        t: f64,
        n: usize,
        shape: &[i64],
        device: Device,
    ) -> Tensor {
        self.initial(n, shape, device) * starting_std(schedule, t, device)
    }

    /// The same of unit variance, `[n, ..shape]`, f32.
    pub fn initial(&self, n: usize, shape: &[i64], device: Device) -> Tensor {
        self.rows("initial noise", 0, n, shape, Kind::Float).to_device(device)
    }

    fn rows(&self, purpose: &str, step: u64, n: usize, shape: &[i64], kind: Kind) -> Tensor {
        let row = |i| {
            tch::manual_seed(stream(self.seed, purpose, step, self.first + i) as i64);
            Tensor::randn(shape, (kind, Device::Cpu))
        };
        Tensor::stack(&(0..n as u64).map(row).collect::<Vec<_>>(), 0)
    }
}

impl NoiseStream for SeededNoise {
    fn draw(&mut self, x: &Tensor, step: u64) -> Tensor {
        let size = x.size();
        self.rows("sampler noise", step, size[0] as usize, &size[1..], x.kind()).to_device(x.device())
    }
}
