//! Weights of files into the tensors of a model.

use crate::piece::few;
use crate::{Piece, WeightFiles};
use heldout_core::{Error, Result};
use std::collections::BTreeMap;
use tch::Tensor;

/// Copies the pieces of `files` into the tensors of a model, by name; each is converted to the kind and device that it
/// finds. No tensor of the files is in memory longer than its own copying takes.
///
/// # Errors
/// Names that only one side has, shapes that differ and dtypes that are no weights', all of them in one message;
/// the model is then as it was.
pub fn load_into(destinations: &[(String, Tensor)], files: &WeightFiles, pieces: &[Piece]) -> Result<()> {
    let pairs = pair(destinations, files, pieces)?;
    tch::no_grad(|| {
        let mut last: Option<(&str, Tensor)> = None; // query, key and value come out of one tensor
        for (piece, destination) in pairs {
            let whole = match last.take().filter(|(name, _)| *name == piece.from) {
                Some((_, whole)) => whole,
                None => files.read(&piece.from)?,
            };
            destination.shallow_clone().f_copy_(&piece.take(&whole)?)?;
            last = Some((&piece.from, whole));
        }
        Ok(())
    })
}

/// Every piece with its destination, in the order of the files' tensors.
fn pair<'a>(
    destinations: &'a [(String, Tensor)],
    files: &WeightFiles,
    pieces: &'a [Piece],
) -> Result<Vec<(&'a Piece, &'a Tensor)>> {
    let by_name: BTreeMap<&str, &Tensor> = destinations.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let by_piece: BTreeMap<&str, &Piece> = pieces.iter().map(|p| (p.to.as_str(), p)).collect();
    if by_name.len() < destinations.len() || by_piece.len() < pieces.len() {
        let reason = format!(
            "{} tensors have {} names, {} pieces have {}: names must be unique",
            destinations.len(),
            by_name.len(),
            pieces.len(),
            by_piece.len()
        );
        return Err(Error::config("weights", reason));
    }
    let of = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mut missing = of(by_name.keys().filter(|n| !by_piece.contains_key(*n)).copied().collect());
    let unexpected = of(by_piece.keys().filter(|n| !by_name.contains_key(*n)).copied().collect());
    let (mut misshapen, mut odd, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for (name, piece) in &by_piece {
        match files.shape(&piece.from) {
            None => missing.push(format!("{} in the file", piece.from)),
            Some(whole) if !piece.fits(&whole) => {
                misshapen.push(format!("{}: {whole:?} in the file, to be taken as {piece:?}", piece.from));
            }
            Some(_) => {}
        }
        if let Some(dtype) = files.odd_dtype(&piece.from) {
            odd.push(format!("{}: {dtype:?}", piece.from));
        }
        let Some(destination) = by_name.get(name) else { continue };
        if destination.size() != piece.shape {
            misshapen.push(format!(
                "{name}: {:?} in the file, {:?} in the model",
                piece.shape,
                destination.size()
            ));
        }
        if !destination.f_is_floating_point()? {
            odd.push(format!("{name}: {:?} in the model", destination.f_kind()?));
        }
        pairs.push((*piece, *destination));
    }
    odd.sort();
    odd.dedup(); // query, key and value come out of one tensor
    let problems = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshapen),
        ("of a dtype that weights do not have", odd),
    ];
    let said: Vec<String> = problems
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{} {what} ({})", names.len(), few(names)))
        .collect();
    if !said.is_empty() {
        let reason = format!(
            "tensors do not fit the model: {}; give the weights of this model, or its layout",
            said.join("; ")
        );
        return Err(Error::file(files.path(), reason));
    }
    pairs.sort_by(|(a, _), (b, _)| a.from.cmp(&b.from));
    Ok(pairs)
}
