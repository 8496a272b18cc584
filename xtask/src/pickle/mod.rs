//! Weights out of the files that PyTorch wrote before version 1.6: pickles, then raw numbers. Tensors are all that is read.

mod machine;
#[cfg(test)]
mod tests;

pub(crate) use machine::Dtype;
use machine::{Machine, Storage, Value, View};

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, HashMap, HashSet};

/// First number of such a file.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// Second number.
const PROTOCOL: i128 = 1001;

/// A tensor, row by row, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// The tensors of a state dict, by name.
///
/// # Errors
/// The file is cut short or has more than it says; it mentions or does something else than tensors; a tensor goes beyond
/// its storage. Nothing of the file is run.
pub(crate) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Weights>> {
    let mut rest = bytes;
    let mut next = || -> Result<(Machine, Value)> {
        let (machine, value, taken) = Machine::run(rest)?;
        rest = &rest[taken..];
        Ok((machine, value))
    };
    for (what, wanted) in [("magic number", MAGIC), ("protocol version", PROTOCOL)] {
        let (_, found) = next().context(what)?;
        if found != Value::Int(wanted) {
            bail!("{what} {found:?}: not a file of torch.save from before version 1.6");
        }
    }
    let (machine, system) = next().context("description of the machine")?;
    let entries = machine.entries(system).context("description of the machine")?;
    let little =
        |(k, v): &(Value, Value)| machine.text(*k) == Some("little_endian") && *v == Value::Bool(true);
    if !entries.iter().any(little) {
        bail!("numbers that are not little-endian");
    }
    let (machine, tensors) = next().context("state dict")?;
    let mut views = BTreeMap::new();
    for (key, value) in machine.entries(tensors).context("the file holds no dict of tensors")? {
        let name = machine.text(*key).context("a tensor whose name is no text")?;
        let view = machine.tensor(*value).with_context(|| format!("{name}: is no tensor"))?;
        if views.insert(name, view).is_some() {
            bail!("{name}: is there twice");
        }
    }
    let (list, keys) = next().context("list of storages")?;
    let keys = list.list(keys).context("list of storages")?;
    let keys: Option<Vec<&str>> = keys.iter().map(|k| list.text(*k)).collect();
    let storages = storages(&machine.storages, &keys.context("a storage whose key is no text")?, rest)?;
    let weights = |(name, view): (&str, &View)| {
        let Storage { key, dtype, .. } = &machine.storages[view.storage];
        let bytes = storages.get(key.as_str()).with_context(|| format!("{name}: its storage is missing"))?;
        Ok((name.to_owned(), take(view, *dtype, bytes).with_context(|| name.to_owned())?))
    };
    views.into_iter().map(weights).collect()
}

/// The numbers of each storage; `rest` holds them in the order of `keys`, each after its length, and nothing else.
fn storages<'a>(
    declared: &'a [Storage],
    keys: &[&str],
    mut rest: &'a [u8],
) -> Result<HashMap<&'a str, &'a [u8]>> {
    let mut by_key: HashMap<&str, &Storage> = HashMap::new();
    for storage in declared {
        let first = by_key.entry(&storage.key).or_insert(storage);
        if (first.dtype, first.numel) != (storage.dtype, storage.numel) {
            bail!("storage {}: is declared in two ways", storage.key);
        }
    }
    let (mut found, mut seen) = (HashMap::new(), HashSet::new());
    for key in keys {
        let storage = by_key.get(key).with_context(|| format!("storage {key}: no tensor has it"))?;
        let (length, after) = rest.split_first_chunk::<8>().context("ends before a storage")?;
        let length = i64::from_le_bytes(*length);
        if usize::try_from(length).ok() != Some(storage.numel) || !seen.insert(*key) {
            bail!("storage {key}: {length} numbers where {} are declared, or twice", storage.numel);
        }
        let size = storage.numel.checked_mul(storage.dtype.size()).filter(|size| *size <= after.len());
        let size = size.with_context(|| format!("storage {key}: ends before its {length} numbers"))?;
        let (bytes, after) = after.split_at(size);
        found.insert(storage.key.as_str(), bytes);
        rest = after;
    }
    if !rest.is_empty() {
        bail!("{} bytes after the last storage", rest.len());
    }
    Ok(found)
}

/// Copies a view row by row.
fn take(view: &View, dtype: Dtype, storage: &[u8]) -> Result<Weights> {
    let View { offset, size, stride, .. } = view;
    let (width, numbers) = (dtype.size(), storage.len() / dtype.size());
    if size.len() != stride.len() {
        bail!("{} sizes and {} strides", size.len(), stride.len());
    }
    let numel = size.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let last = size
        .iter()
        .zip(stride)
        .try_fold(*offset, |at, (d, s)| at.checked_add(d.saturating_sub(1).checked_mul(*s)?));
    // A view that repeats numbers could be of any size: no weights are stored so.
    let numel = numel.filter(|n| *n <= numbers);
    let (Some(numel), Some(_)) = (numel, last.filter(|last| *last < numbers || numel == Some(0))) else {
        bail!("{size:?} by strides {stride:?} from {offset} goes beyond a storage of {numbers} numbers");
    };
    let mut bytes = Vec::with_capacity(numel * width);
    for i in 0..numel {
        let (mut left, mut at) = (i, *offset);
        for (d, s) in size.iter().zip(stride).rev() {
            at += left % d * s;
            left /= d;
        }
        bytes.extend_from_slice(&storage[at * width..(at + 1) * width]);
    }
    Ok(Weights { dtype, shape: size.clone(), bytes })
}
