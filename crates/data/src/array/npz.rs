//! NumPy's `.npz`: a zip of `.npy` files, read where it lies if it is not compressed.

use super::{Header, choose, npy};
use std::io::Cursor;
use zip::{CompressionMethod, ZipArchive};

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

fn open(map: &[u8]) -> Result<Archive<'_>, String> {
    ZipArchive::new(Cursor::new(map)).map_err(|e| format!("damaged, truncated or no .npz file: {e}"))
}

/// Names of the arrays, in the order of the file, without their ending.
fn names(archive: &Archive<'_>) -> Vec<String> {
    archive.file_names().filter_map(|n| n.strip_suffix(".npy")).map(str::to_owned).collect()
}

pub(super) fn header(map: &[u8], name: Option<&str>, usual: &[&str]) -> Result<Header, String> {
    let mut archive = open(map)?;
    let names = names(&archive);
    let name = choose(&names, name, usual)?;
    member(map, &mut archive, name)
}

pub(super) fn optional(map: &[u8], name: &str) -> Result<Option<Header>, String> {
    let mut archive = open(map)?;
    let there = names(&archive).iter().any(|n| n == name);
    there.then(|| member(map, &mut archive, name)).transpose()
}

fn member(map: &[u8], archive: &mut Archive<'_>, name: &str) -> Result<Header, String> {
    let at = |reason: String| format!("{name}: {reason}");
    let index =
        archive.index_for_name(&format!("{name}.npy")).ok_or_else(|| at("not in this file".to_owned()))?;
    let entry = archive.by_index_raw(index).map_err(|e| at(format!("damaged: {e}")))?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(at("is compressed: write it with numpy.savez, not savez_compressed".to_owned()));
    }
    let range = || {
        let start = usize::try_from(entry.data_start()).ok()?;
        Some(start..start.checked_add(usize::try_from(entry.size()).ok()?)?)
    };
    npy::header(map, range().ok_or_else(|| at("damaged: an array lies beyond its end".to_owned()))?)
        .map_err(at)
}
