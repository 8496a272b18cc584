//! Large images, a tile at a time.

use crate::AutoencoderKLConfig;
use heldout_core::{Autoencoder, Error, Result};
use tch::{Kind, Tensor};

/// How images are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TileSize {
    /// Side of a tile of the image.
    pub pixels: i64,
    /// Side of a tile of the latents.
    pub latents: i64,
    /// Which share of a tile lies over the next one.
    pub overlap: f64,
}

impl AutoencoderKLConfig {
    /// The tiles of diffusers' `enable_tiling`: of `sample_size`, a fourth over the next one.
    pub fn tile_size(&self) -> TileSize {
        TileSize { pixels: self.sample_size, latents: self.sample_size / self.factor(), overlap: 0.25 }
    }
}

impl TileSize {
    /// That tiles meet at whole places of a latent.
    pub fn check(&self) -> Result<()> {
        let Self { pixels, latents, overlap } = *self;
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        if latents < 1 || pixels % latents != 0 {
            let reason =
                format!("{latents}: a divisor of {pixels}, the side of a tile of the image, is needed");
            return fail("latents", reason);
        }
        if !(0.0..1.0).contains(&overlap) {
            return fail("overlap", format!("{overlap}: a share from 0 up to, but not, 1 is needed"));
        }
        let whole = |n: i64| (n as f64 * (1.0 - overlap)) as i64;
        if whole(latents) < 1 || whole(latents) * (pixels / latents) != whole(pixels) {
            let reason =
                format!("{overlap} of {pixels} pixels and of {latents} places of a latent do not agree");
            return fail("overlap", reason);
        }
        Ok(())
    }
}

/// An autoencoder that sees images larger than a tile in tiles that overlap, and blends what it makes of them.
///
/// The same numbers as diffusers' `AutoencoderKL` after `enable_tiling`. The memory that it takes at once is that of a tile,
/// besides the image and its latents. What a tile does not see (attention, norms) makes it another function than the
/// autoencoder inside.
///
/// Law: images of one tile at most are the inner autoencoder's, to the last bit.
#[derive(Debug)]
pub struct Tiled<A> {
    inner: A,
    size: TileSize,
}

impl<A> Tiled<A> {
    /// Around `inner`.
    ///
    /// # Errors
    /// Tiles that do not meet at whole places of a latent.
    pub fn new(inner: A, size: TileSize) -> Result<Self> {
        size.check()?;
        Ok(Self { inner, size })
    }

    /// The autoencoder inside.
    pub fn inner(&self) -> &A {
        &self.inner
    }
}

impl<A: Autoencoder> Autoencoder for Tiled<A> {
    fn encode(&self, x: &Tensor) -> Tensor {
        let TileSize { pixels, latents, overlap } = self.size;
        in_tiles(x, [pixels, latents], overlap, |tile| self.inner.encode(tile))
    }

    fn decode(&self, z: &Tensor) -> Tensor {
        let TileSize { pixels, latents, overlap } = self.size;
        in_tiles(z, [latents, pixels], overlap, |tile| self.inner.decode(tile))
    }
}

/// `map` of tiles of side `from`, which become tiles of side `to`, blended over `overlap` of them.
fn in_tiles(x: &Tensor, [from, to]: [i64; 2], overlap: f64, map: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let size = x.size();
    let (height, width) = (size[2], size[3]);
    if height <= from && width <= from {
        return map(x);
    }
    let step = (from as f64 * (1.0 - overlap)) as i64;
    let extent = (to as f64 * overlap) as i64;
    let keep = to - extent;
    let mut above: Vec<Tensor> = Vec::new(); // lower ends of the tiles of the row before
    let mut rows = Vec::new();
    for y in (0..height).step_by(step as usize) {
        let strip = x.narrow(2, y, from.min(height - y));
        let (mut kept, mut ends) = (Vec::new(), Vec::new());
        let mut left: Option<Tensor> = None; // right end of the tile before
        for (i, at) in (0..width).step_by(step as usize).enumerate() {
            let mut tile = map(&strip.narrow(3, at, from.min(width - at)));
            if let Some(above) = above.get(i) {
                tile = blend(above, tile, extent, 2);
            }
            if let Some(left) = &left {
                tile = blend(left, tile, extent, 3);
            }
            left = Some(end(&tile, extent, 3));
            ends.push(end(&tile, extent, 2));
            let tile_size = tile.size();
            kept.push(tile.narrow(2, 0, keep.min(tile_size[2])).narrow(3, 0, keep.min(tile_size[3])).copy());
        }
        above = ends;
        rows.push(Tensor::cat(&kept, 3));
    }
    Tensor::cat(&rows, 2)
}

/// The last `extent` places along `dim`; a copy, so that the tile can go.
fn end(tile: &Tensor, extent: i64, dim: i64) -> Tensor {
    let n = tile.size()[dim as usize];
    let extent = extent.min(n);
    tile.narrow(dim, n - extent, extent).copy()
}

/// `tile` with its first places along `dim` mixed with the end of the tile before it, whose share falls from 1.
fn blend(before: &Tensor, tile: Tensor, extent: i64, dim: i64) -> Tensor {
    let n = tile.size()[dim as usize];
    let extent = extent.min(n).min(before.size()[dim as usize]);
    if extent == 0 {
        return tile;
    }
    let share = Tensor::arange(extent, (Kind::Double, tile.device())) / extent as f64;
    let share = if dim == 2 { share.unsqueeze(1) } else { share }.to_kind(tile.kind());
    let before = end(before, extent, dim);
    let mixed = before * (1.0f64 - &share) + tile.narrow(dim, 0, extent) * share;
    Tensor::cat(&[mixed, tile.narrow(dim, extent, n - extent)], dim)
}
