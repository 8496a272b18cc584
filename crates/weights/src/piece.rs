//! What becomes of a tensor of the files: its name in the model, and the part of it that is taken.

use heldout_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

/// Names and shapes of tensors, by name.
pub type Shapes = BTreeMap<String, Vec<i64>>;

/// One tensor of a model, as a tensor of the files or a part of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name in the model.
    pub to: String,
    /// The tensor of the files.
    pub from: String,
    /// The rows that are taken; all without it.
    pub rows: Option<Rows>,
    /// The shape in the model.
    pub shape: Vec<i64>,
}

/// Rows of a tensor: dimension 0 is seen as `[groups, of, n]`, of which `[groups, index, n]` is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Outer parts: the heads, where each head has its own query, key and value; otherwise 1.
    pub groups: i64,
    /// Parts of which one is taken.
    pub of: i64,
    /// Which one.
    pub index: i64,
}

impl Piece {
    /// All of a tensor under another name; `shape` has as many numbers as the tensor.
    pub fn whole(to: impl Into<String>, from: impl Into<String>, shape: Vec<i64>) -> Self {
        Self { to: to.into(), from: from.into(), rows: None, shape }
    }

    /// Whether a tensor of this shape has the rows and the number of elements of the piece.
    pub(crate) fn fits(&self, whole: &[i64]) -> bool {
        let Rows { groups, of, index } = self.rows.unwrap_or(Rows { groups: 1, of: 1, index: 0 });
        let rows = whole.first().copied().unwrap_or(1);
        let divides = groups > 0 && of > 0 && (0..of).contains(&index) && rows % (groups * of) == 0;
        divides && whole.iter().product::<i64>() == of * self.shape.iter().product::<i64>()
    }

    /// Takes the piece out of the tensor [`Self::from`].
    ///
    /// # Errors
    /// The tensor has another number of elements than the piece was made for.
    pub fn take(&self, whole: &Tensor) -> Result<Tensor> {
        let Some(Rows { groups, of, index }) = self.rows else {
            return Ok(whole.f_reshape(&self.shape)?);
        };
        Ok(whole.f_reshape([groups, of, -1])?.f_select(1, index)?.f_reshape(&self.shape)?)
    }
}

/// Every tensor under its own name.
pub fn as_named(shapes: &Shapes) -> Vec<Piece> {
    shapes.iter().map(|(name, shape)| Piece::whole(name, name, shape.clone())).collect()
}

/// The same pieces under the names that `name` gives; `None` drops one.
pub fn renamed(pieces: Vec<Piece>, name: impl Fn(&str) -> Option<String>) -> Vec<Piece> {
    pieces.into_iter().filter_map(|p| Some(Piece { to: name(&p.to)?, ..p })).collect()
}

/// Collects the pieces of a published layout and notes which tensors it lacks.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    shapes: &'a Shapes,
    pieces: Vec<Piece>,
    used: BTreeSet<&'a str>,
    missing: Vec<String>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(shapes: &'a Shapes) -> Self {
        Self { shapes, pieces: Vec::new(), used: BTreeSet::new(), missing: Vec::new() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// Notes a tensor that has no counterpart in the model.
    pub(crate) fn pass_over(&mut self, name: &str) {
        if let Some((name, _)) = self.shapes.get_key_value(name) {
            self.used.insert(name);
        }
    }

    /// A tensor under another name.
    pub(crate) fn one(&mut self, to: &str, from: &str) {
        self.part(to, from, None, |shape| shape.to_vec());
    }

    /// Weight and bias of a layer.
    pub(crate) fn layer(&mut self, to: &str, from: &str) {
        for part in ["weight", "bias"] {
            self.one(&format!("{to}.{part}"), &format!("{from}.{part}"));
        }
    }

    /// Weight `[3 C, C, ..]` and bias `[3 C]` as `to_q`, `to_k` and `to_v` under `to`, of `groups` heads that each have
    /// their own three, or of 1 group.
    pub(crate) fn query_key_value(&mut self, to: &str, from: &str, groups: impl Fn(i64) -> i64) {
        for part in ["weight", "bias"] {
            let from = format!("{from}.{part}");
            let channels = self.shapes.get(&from).and_then(|s| s.first()).map_or(0, |rows| rows / 3);
            for (index, name) in ["to_q", "to_k", "to_v"].iter().enumerate() {
                let rows = Rows { groups: groups(channels), of: 3, index: index as i64 };
                let shape = |s: &[i64]| match s.len() {
                    0 | 1 => vec![channels],
                    _ => vec![channels, s[1]],
                };
                self.part(&format!("{to}.{name}.{part}"), &from, Some(rows), shape);
            }
        }
    }

    /// A 1x1 convolution as a linear layer: weight without its trailing dimensions of 1, and bias.
    pub(crate) fn as_linear(&mut self, to: &str, from: &str) {
        let drop_ones =
            |s: &[i64]| s.iter().enumerate().filter(|(i, d)| *i < 2 || **d != 1).map(|(_, d)| *d).collect();
        self.part(&format!("{to}.weight"), &format!("{from}.weight"), None, drop_ones);
        self.one(&format!("{to}.bias"), &format!("{from}.bias"));
    }

    fn part(&mut self, to: &str, from: &str, rows: Option<Rows>, shape: impl Fn(&[i64]) -> Vec<i64>) {
        match self.shapes.get_key_value(from) {
            None => self.missing.push(from.to_owned()),
            Some((from, s)) => {
                self.used.insert(from);
                self.pieces.push(Piece { to: to.to_owned(), from: from.clone(), rows, shape: shape(s) });
            }
        }
    }

    /// The pieces, if the layout `what` is whole and nothing else is there.
    pub(crate) fn finish(mut self, what: &str) -> Result<Vec<Piece>> {
        self.missing.dedup();
        let extra: Vec<String> =
            self.shapes.keys().filter(|k| !self.used.contains(k.as_str())).cloned().collect();
        let problems: Vec<String> = [("missing", &self.missing), ("unexpected", &extra)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(which, names)| format!("{} {which} ({})", names.len(), few(names)))
            .collect();
        if problems.is_empty() {
            return Ok(self.pieces);
        }
        let reason = format!("tensors are not those of {what}: {}; use another layout", problems.join(", "));
        Err(Error::config("weights", reason))
    }
}

/// How many names a message lists.
const LISTED: usize = 5;

/// The first few of many names.
pub(crate) fn few(names: &[String]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text += &format!(" and {} more", names.len() - LISTED);
    }
    text
}
