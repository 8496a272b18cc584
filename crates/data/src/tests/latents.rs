//! Latents on disk.

use crate::{Batches, Examples, LatentCache, LatentSource};
use heldout_core::{BatchSource, Clock};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

fn source(fingerprint: &str) -> LatentSource {
    LatentSource { fingerprint: fingerprint.to_owned(), autoencoder: "a".to_owned(), data: "d".to_owned() }
}

/// 40 latents of 64 x 128 x 128 fill three shards; batches of 7 do not end where shards do.
#[test]
fn latents_come_back_to_the_bit_over_shards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latents");
    let size = [64, 128, 128];
    let latent =
        |i: usize| Tensor::arange(64 * 128 * 128, (Kind::Float, Device::Cpu)).view(size) * 0.001 + i as f64;
    let encode = |range: std::ops::Range<usize>| Ok(Tensor::stack(&range.map(latent).collect::<Vec<_>>(), 0));
    let cache = LatentCache::write(&path, &source("1"), 40, encode, 7).unwrap();
    assert_eq!((cache.len(), cache.shape()), (40, size));
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 4, "three shards and an index");
    let again = LatentCache::open(&path, &source("1")).unwrap().unwrap();
    for index in [0, 15, 16, 17, 31, 32, 39] {
        assert_eq!(again.stored(&[index]).unwrap().get(0), latent(index), "{index}");
    }
    let mut batches = Batches::new(Rc::new(again), (0..40).collect(), 4, 3, (0, 1), Device::Cpu).unwrap();
    let batch = batches.batch(Clock { step: 2, total: 9 }).unwrap();
    let index = Vec::<i64>::try_from(batch.index.unwrap()).unwrap();
    for (row, i) in index.iter().enumerate() {
        assert_eq!(batch.x_start.get(row as i64), latent(*i as usize));
    }
}

#[test]
fn other_latents_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latents");
    assert!(LatentCache::open(&path, &source("1")).unwrap().is_none());
    let zeros = |range: std::ops::Range<usize>| {
        Ok(Tensor::zeros([range.len() as i64, 1, 2, 2], (Kind::Float, Device::Cpu)))
    };
    LatentCache::write(&path, &source("1"), 5, zeros, 2).unwrap();
    let error = LatentCache::open(&path, &source("2")).unwrap_err().to_string();
    assert!(error.contains("remove the folder") && error.contains("latents"), "{error}");
    let shard = path.join("latents-00000.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 4]).unwrap();
    let error = LatentCache::open(&path, &source("1")).unwrap_err().to_string();
    assert!(error.contains("latents-00000"), "{error}");
    std::fs::remove_file(&shard).unwrap();
    let error = LatentCache::open(&path, &source("1")).unwrap_err().to_string();
    assert!(error.contains("latents-00000"), "{error}");

    let other = folder.path().join("nan");
    let nan = |_| Ok(Tensor::full([2, 1, 2, 2], f64::NAN, (Kind::Float, Device::Cpu)));
    let error = LatentCache::write(&other, &source("1"), 2, nan, 2).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
    assert!(!other.exists() && std::fs::read_dir(folder.path()).unwrap().count() == 1);
}
