//! Installing libtorch: download aside, rename, link.

use crate::libtorch::{Source, VERSION, source, version_of};
use crate::root::{cache, root};
use crate::{networks, process, wheels};
use anyhow::{Context, Result, bail};
use fs4::fs_std::FileExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = "heldout-install.json";
/// Wheels (550 MB) and what is unpacked of them (510 MB) lie side by side for a while.
const NEEDED_BYTES: u64 = 1_200_000_000;

/// What libtorch computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, and the processor.
    Cuda,
}

/// Written last: every file with its size. An install without it, or that differs from it, is done again.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: String,
    files: BTreeMap<String, u64>,
}

/// Makes sure that libtorch is there; says what it did.
pub(crate) fn run(device: Device) -> Result<()> {
    match source() {
        Source::Python => println!("LIBTORCH_USE_PYTORCH is set: your own PyTorch is used, nothing to do"),
        Source::Own(folder) => {
            check_own(&folder)?;
            println!("LIBTORCH is set: your own libtorch at {} is used, nothing to do", folder.display());
        }
        Source::Linked(_) | Source::Missing => {
            let installed = install(device)?;
            println!("libtorch {VERSION} is at {}", installed.display());
        }
    }
    networks::ensure();
    Ok(())
}

/// As `run` for the CPU, but silent where nothing is to be done; an install for CUDA that is linked stays.
pub(crate) fn ensure() -> Result<()> {
    match source() {
        Source::Python => Ok(()),
        Source::Own(folder) => check_own(&folder),
        Source::Linked(link) if !fs::canonicalize(&link)?.starts_with(cache()?) => Ok(()),
        Source::Linked(link) if fs::canonicalize(&link)?.components().any(|c| c.as_os_str() == "venv") => {
            Ok(())
        }
        _ => install(Device::Cpu).map(|_| ()),
    }
}

fn check_own(folder: &Path) -> Result<()> {
    if !folder.join("lib").is_dir() {
        bail!(
            "LIBTORCH={}: holds no lib folder; unset it to let setup install libtorch {VERSION}",
            folder.display()
        );
    }
    match version_of(folder) {
        Some(v) if v.split('+').next() != Some(VERSION) => {
            bail!(
                "LIBTORCH={}: is version {v}, needed is {VERSION}; unset it to let setup install one",
                folder.display()
            )
        }
        _ => Ok(()),
    }
}

fn install(device: Device) -> Result<PathBuf> {
    let cache = cache()?;
    let target =
        cache.join(format!("libtorch-{VERSION}-{}", if device == Device::Cpu { "cpu" } else { "cuda" }));
    let libtorch = if device == Device::Cpu { target.clone() } else { torch_in_venv(&target)? };
    if !is_whole(&target) || !libtorch.join("lib").is_dir() {
        fs::create_dir_all(&cache).with_context(|| {
            format!("{}: set HELDOUT_CACHE to a folder that can be written", cache.display())
        })?;
        let lock = cache.join("setup.lock");
        let lock = File::create(&lock).with_context(|| format!("{}", lock.display()))?;
        lock.lock_exclusive().context("another setup holds the lock and it cannot be waited for")?;
        if !is_whole(&target) {
            download(device, &cache, &target)?;
        }
    }
    let libtorch = if device == Device::Cpu { target } else { torch_in_venv(&target)? };
    link(&libtorch, &root().join("libtorch"))?;
    if device == Device::Cuda {
        println!(
            "a full PyTorch with CUDA; its libraries are found by rpath. Build anew with: cargo clean -p torch-sys"
        );
    }
    Ok(libtorch)
}

fn download(device: Device, cache: &Path, target: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".installing-") {
            fs::remove_dir_all(entry.path())?; // of a setup that was killed; nobody else holds the lock
        }
    }
    let needed = if device == Device::Cpu { NEEDED_BYTES } else { 8 * NEEDED_BYTES };
    let free = fs4::available_space(cache)?;
    if free < needed {
        let mb = |n: u64| n / 1_000_000;
        bail!(
            "{}: {} MB are free, {} MB are needed; make room, or set HELDOUT_CACHE",
            cache.display(),
            mb(free),
            mb(needed)
        );
    }
    let size = match device {
        Device::Cpu => "about 540 MB",
        Device::Cuda => "several GB",
    };
    eprintln!("libtorch {VERSION} is not there yet: downloading {size} into {}", cache.display());
    let aside = tempfile::Builder::new().prefix(".installing-").tempdir_in(cache)?; // removed if anything fails
    let (downloads, unpacked) = (aside.path().join("wheels"), aside.path().join("libtorch"));
    fs::create_dir_all(&downloads)?;
    fs::create_dir_all(&unpacked)?;
    match device {
        Device::Cpu => wheels::unpack_cpu(&downloads, &unpacked)?,
        Device::Cuda => {
            // A virtual environment knows its own path: it is made in its place, and counts once the manifest is there.
            if target.exists() {
                fs::remove_dir_all(target)?;
            }
            let venv = target.join("venv");
            process::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            process::run(Command::new(venv.join("bin/pip")).args(["install", &format!("torch=={VERSION}")]))?;
            let torch = torch_in_venv(target)?;
            fs::write(torch.join("build-version"), format!("{VERSION}\n"))?;
            return write_manifest(target, &torch);
        }
    }
    write_manifest(&unpacked, &unpacked)?;
    if target.exists() {
        fs::remove_dir_all(target)?; // half an install, or one that was changed
    }
    fs::rename(&unpacked, target)?;
    Ok(())
}

fn torch_in_venv(target: &Path) -> Result<PathBuf> {
    let lib = target.join("venv/lib");
    let pythons = fs::read_dir(&lib).into_iter().flatten().flatten().map(|e| e.path());
    let found = pythons.map(|p| p.join("site-packages/torch")).find(|p| p.is_dir());
    Ok(found.unwrap_or_else(|| lib.join("missing")))
}

fn write_manifest(folder: &Path, files_of: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for path in walk(&files_of.join("lib"))? {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        files.insert(name, fs::metadata(&path)?.len());
    }
    let manifest = Manifest { version: VERSION.to_owned(), files };
    let file = File::create(folder.join(MANIFEST))?;
    serde_json::to_writer_pretty(&file, &manifest)?;
    Ok(file.sync_all()?)
}

fn walk(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(walk(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// The manifest is there, of this version, and every file has its size.
fn is_whole(target: &Path) -> bool {
    let read = || -> Option<bool> {
        let manifest: Manifest = serde_json::from_slice(&fs::read(target.join(MANIFEST)).ok()?).ok()?;
        let sized =
            |(name, size): (&String, &u64)| fs::metadata(target.join(name)).is_ok_and(|m| m.len() == *size);
        Some(manifest.version == VERSION && !manifest.files.is_empty() && manifest.files.iter().all(sized))
    };
    read().unwrap_or(false)
}

/// Points the link at `libtorch`; a link that points elsewhere is replaced, a real folder of that name is left alone.
fn link(libtorch: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|to| to == libtorch) {
        return Ok(());
    }
    match fs::symlink_metadata(link) {
        Ok(m) if m.file_type().is_symlink() => fs::remove_file(link)?,
        Ok(_) => bail!(
            "{}: is a folder of your own, not a link; move it away, or set LIBTORCH to it",
            link.display()
        ),
        Err(_) => (),
    }
    std::os::unix::fs::symlink(libtorch, link).with_context(|| format!("{}: cannot be made", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_install_counts_only_when_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("libtorch");
        fs::create_dir_all(target.join("lib")).unwrap();
        fs::write(target.join("lib/libtorch_cpu.so"), "binary").unwrap();
        assert!(!is_whole(&target), "no manifest");
        write_manifest(&target, &target).unwrap();
        assert!(is_whole(&target));
        fs::write(target.join("lib/libtorch_cpu.so"), "bin").unwrap();
        assert!(!is_whole(&target), "a file was cut short");
        fs::remove_file(target.join("lib/libtorch_cpu.so")).unwrap();
        assert!(!is_whole(&target), "a file is gone");
    }

    #[test]
    fn links_are_replaced_and_folders_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, at) =
            (folder.path().join("1"), folder.path().join("2"), folder.path().join("libtorch"));
        link(&one, &at).unwrap(); // a link into nothing
        link(&two, &at).unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), two);
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        fs::write(at.join("mine"), "").unwrap();
        assert!(link(&one, &at).unwrap_err().to_string().contains("folder of your own"));
        assert!(at.join("mine").exists());
    }

    #[test]
    fn a_libtorch_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_own(folder.path()).unwrap_err().to_string().contains("no lib folder"));
        fs::create_dir(folder.path().join("lib")).unwrap();
        check_own(folder.path()).unwrap();
        fs::write(folder.path().join("build-version"), "2.11.0+cpu").unwrap();
        assert!(check_own(folder.path()).unwrap_err().to_string().contains("2.11.0"));
        fs::write(folder.path().join("build-version"), "2.13.0+cu130\n").unwrap();
        check_own(folder.path()).unwrap();
    }
}
