//! What the runs beside peers and the benches share.

use heldout_core::NoiseStream;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
#[doc(hidden)]
pub use tikv_jemallocator::Jemalloc;

/// Makes the allocator and its settings those of the binary `heldout`.
#[macro_export]
macro_rules! allocator {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::Jemalloc = $crate::Jemalloc;

        /// jemalloc reads its settings from this symbol.
        #[unsafe(export_name = "malloc_conf")]
        pub static MALLOC_CONF: &[u8; 65] =
            b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto\0";
    };
}

/// What all tensors are.
pub const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Where a run beside a peer takes place, by the variable `DEVICE`; on a GPU with the settings that the binary has, unless
/// `DEFAULTS` asks for libtorch's own.
pub fn device() -> Device {
    if std::env::var("DEVICE").as_deref() != Ok("cuda") {
        return Device::Cpu;
    }
    if std::env::var_os("DEFAULTS").is_none() {
        heldout_torch_ext::reproducible();
    }
    Device::Cuda(0)
}

/// Zeros, for samplers that draw no noise.
#[derive(Debug)]
pub struct NoNoise;

impl NoiseStream for NoNoise {
    fn draw(&mut self, like: &Tensor, _: u64) -> Tensor {
        like.zeros_like()
    }
}

/// Median milliseconds of `repeats` runs, after as many that are not counted, three at most.
pub fn timed(repeats: usize, mut run: impl FnMut()) -> f64 {
    let warm_up = repeats.min(3);
    let mut times: Vec<f64> = (0..repeats + warm_up).map(|_| once(&mut run)).skip(warm_up).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds of one run.
pub fn once(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    if tch::Cuda::is_available() {
        tch::Cuda::synchronize(0); // what was asked of it may not be done yet
    }
    start.elapsed().as_secs_f64() * 1e3
}

/// Largest resident memory of this process so far, in MiB; 0 where the system does not say.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    peak.unwrap_or(0) / 1024
}
