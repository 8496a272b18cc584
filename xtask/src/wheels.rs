//! libtorch out of Python wheels.

use crate::libtorch::VERSION;
use crate::process;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use zip::ZipArchive;

/// Downloads the wheels for the CPU into `downloads` and unpacks what is needed of them into `target`.
pub(crate) fn unpack_cpu(downloads: &Path, target: &Path) -> Result<()> {
    // The Linux x86-64 wheel is built for CUDA: its CPU half needs two small libraries of NVIDIA's to load.
    let cuda_build = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    let mut wanted = vec![format!("torch=={VERSION}")];
    if cuda_build {
        wanted.extend(["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"].map(str::to_owned));
    }
    download(&wanted, downloads, "libtorch")
        .with_context(|| format!("or set LIBTORCH to the folder of a libtorch {VERSION} that you have"))?;
    fs::create_dir_all(target.join("lib"))?;
    for wheel in wheels(downloads)? {
        unpack(&wheel, target, cuda_build).with_context(|| format!("{}", wheel.display()))?;
    }
    if cuda_build {
        // tch asks the linker for `torch`; all of it that a CPU needs is in torch_cpu.
        fs::write(target.join("lib/libtorch.so"), "INPUT(-ltorch_cpu)\n")?;
    }
    fs::write(target.join("build-version"), format!("{VERSION}\n"))?;
    Ok(())
}

/// Wheels of these packages by pip or uv, whichever is there, with the user's own index settings; `what` they are for.
pub(crate) fn download(wanted: &[String], into: &Path, what: &str) -> Result<()> {
    let has = |program: &str, args: &[&str]| process::output(program, args).is_some();
    let mut command = if has("python3", &["-m", "pip", "--version"]) {
        let mut c = Command::new("python3");
        c.args(["-m", "pip"]);
        c
    } else if has("pip3", &["--version"]) {
        Command::new("pip3")
    } else if has("uvx", &["--version"]) {
        let mut c = Command::new("uvx");
        c.arg("pip");
        c
    } else {
        bail!("neither pip nor uv is there to download {what}: install python3-pip");
    };
    command.args(["download", "--no-deps", "--only-binary=:all:", "--dest"]).arg(into).args(wanted);
    process::run_terse(&mut command).with_context(|| {
        format!("{what} could not be downloaded (network, index settings or disk?); try again")
    })
}

/// The wheels in a folder.
pub(crate) fn wheels(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "whl")).collect())
}

fn unpack(wheel: &Path, target: &Path, cuda_build: bool) -> Result<()> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(wheel)?))?;
    for i in 0..archive.len() {
        let mut member = archive.by_index(i)?;
        let Some(place) = member.enclosed_name().and_then(|name| place_of(&name, cuda_build)) else {
            continue;
        };
        if member.is_dir() {
            continue;
        }
        let path = target.join(place);
        path.parent().map(fs::create_dir_all).transpose()?;
        let mut file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        io::copy(&mut member, &mut file)
            .with_context(|| format!("{}: cannot be written (is the disk full?)", path.display()))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Where a member of a wheel goes, or `None` where it is not needed.
fn place_of(member: &Path, cuda_build: bool) -> Option<PathBuf> {
    let name = member.file_name()?.to_str()?;
    if let Ok(inside) = member.strip_prefix("torch") {
        let cpu = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"].contains(&name);
        let is_library = inside.starts_with("lib") && (name.contains(".so") || name.ends_with(".dylib"));
        let wanted = inside.starts_with("include") || (is_library && (cpu || !cuda_build));
        return wanted.then(|| inside.to_owned());
    }
    let nvidia = ["libcudart.so.13", "libcupti.so.13"].contains(&name);
    nvidia.then(|| Path::new("lib").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_cpu_needs_is_unpacked() {
        let place = |m: &str| place_of(Path::new(m), true).map(|p| p.to_string_lossy().into_owned());
        assert_eq!(place("torch/lib/libtorch_cpu.so").as_deref(), Some("lib/libtorch_cpu.so"));
        assert_eq!(place("torch/include/c10/core/Device.h").as_deref(), Some("include/c10/core/Device.h"));
        assert_eq!(place("nvidia/cu13/lib/libcudart.so.13").as_deref(), Some("lib/libcudart.so.13"));
        assert_eq!(place("torch/lib/libtorch_cuda.so"), None);
        assert_eq!(place("torch/nn/modules/linear.py"), None);
        assert_eq!(
            place_of(Path::new("torch/lib/libtorch.so"), false),
            Some(PathBuf::from("lib/libtorch.so"))
        );
    }
}
