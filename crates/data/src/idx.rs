//! The IDX format of MNIST, plain or gzipped.

use flate2::read::GzDecoder;
use heldout_core::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Unsigned bytes of one to four dimensions.
#[derive(Debug)]
pub(crate) struct Idx {
    pub(crate) dims: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// More than this is not an image set that fits in memory: the header is damaged.
const LARGEST: usize = 1 << 34;

/// Reads an IDX file; gzip is told by its first two bytes.
pub(crate) fn read(path: &Path) -> Result<Idx> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut magic = [0; 2];
    let got = read_up_to(&mut file, &mut magic).map_err(Error::io(path))?;
    let file = File::open(path).map_err(Error::io(path))?;
    if got == 2 && magic == [0x1f, 0x8b] { parse(path, GzDecoder::new(file)) } else { parse(path, file) }
}

fn parse(path: &Path, mut from: impl Read) -> Result<Idx> {
    let fail = |reason: String| Error::file(path, reason);
    let damaged = |e: std::io::Error| fail(format!("damaged or truncated: {e}"));
    let mut magic = [0; 4];
    if read_up_to(&mut from, &mut magic).map_err(damaged)? < 4 {
        return Err(fail("too short for an IDX file".to_owned()));
    }
    let [0, 0, kind, rank] = magic else {
        return Err(fail(format!("not an IDX file: it begins with {magic:02x?}")));
    };
    if kind != 8 {
        return Err(fail(format!("IDX type 0x{kind:02x}: only unsigned bytes (0x08) are images or labels")));
    }
    if !(1..=4).contains(&rank) {
        return Err(fail(format!("IDX of {rank} dimensions: 1 to 4 are possible")));
    }
    let mut header = vec![0; 4 * usize::from(rank)];
    from.read_exact(&mut header).map_err(damaged)?;
    let dims: Vec<usize> =
        header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    let size = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| (1..=LARGEST).contains(n));
    let size = size.ok_or_else(|| fail(format!("dimensions {dims:?}: empty, or too large to be true")))?;
    let mut bytes = Vec::new();
    let got = from.take(size as u64 + 1).read_to_end(&mut bytes).map_err(damaged)?;
    if got != size {
        let more = if got > size { "more".to_owned() } else { got.to_string() };
        return Err(fail(format!(
            "truncated or damaged: the header {dims:?} promises {size} bytes, {more} are there"
        )));
    }
    Ok(Idx { dims, bytes })
}

fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match from.read(&mut buffer[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}
