//! What a result depends on besides the recipe: machine, versions, memory.

use crate::study::Workers;
use std::collections::BTreeMap;
use sysinfo::System;

/// CPU, cores, threads, memory, operating system.
pub(crate) fn machine(device: tch::Device, workers: Option<Workers>) -> BTreeMap<String, String> {
    let mut system = System::new().ok();
    if let Some(system) = &mut system {
        system.refresh_memory();
        system.refresh_cpu_all();
    }
    let cpu = system.as_ref().and_then(|s| s.cpus().first().map(|c| c.brand().trim().to_owned()));
    let brand = cpu.unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let gib = system.map_or(0, |s| s.total_memory()) as f64 / (1u64 << 30) as f64;
    let here = Workers { jobs: 1, threads: tch::get_num_threads() as usize };
    let Workers { jobs, threads } = workers.unwrap_or(here);
    let os = System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned());
    BTreeMap::from([
        ("CPU".to_owned(), brand),
        ("cores".to_owned(), cores.to_string()),
        ("libtorch threads".to_owned(), threads.to_string()),
        ("arms side by side".to_owned(), jobs.to_string()),
        ("memory".to_owned(), format!("{gib:.0} GiB")),
        ("operating system".to_owned(), os),
        ("device".to_owned(), device_title(device)),
    ])
}

/// The device, a GPU with the names that its driver has for it.
fn device_title(device: tch::Device) -> String {
    let tch::Device::Cuda(place) = device else { return format!("{device:?}") };
    let asked = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let told = std::process::Command::new("nvidia-smi").args(asked).arg(format!("--id={place}")).output();
    let name = told
        .ok()
        .filter(|o| o.status.success())
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    name.map_or_else(|| format!("cuda:{place}"), |name| format!("cuda:{place}, {name}"))
}

/// Memory of the machine, or of the group of processes that this one belongs to; 0 if the system does not say.
pub(crate) fn total_memory() -> u64 {
    let Ok(mut system) = System::new() else { return 0 };
    system.refresh_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory).filter(|limit| *limit > 0);
    limit.map_or(system.total_memory(), |limit| limit.min(system.total_memory()))
}

/// Memory that processes may still take, of the machine and of the group that this one belongs to; none if the system does not
/// say.
pub(crate) fn available_memory() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let available = system.available_memory();
    let limit = system.cgroup_limits().filter(|limits| limits.total_memory > 0);
    Some(limit.map_or(available, |limits| limits.free_memory.min(available)))
}

/// Programs and their versions.
pub(crate) fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("heldout".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch".to_owned(), heldout_torch_ext::libtorch_version().to_owned()),
    ])
}

/// Largest resident memory of this process so far; where the system does not say, its memory now.
pub(crate) fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or_else(current_memory, |kib| kib * 1024)
}

fn current_memory() -> u64 {
    let (Ok(mut system), Ok(pid)) = (System::new(), sysinfo::get_current_pid()) else { return 0 };
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
    system.process(pid).map_or(0, sysinfo::Process::memory)
}
