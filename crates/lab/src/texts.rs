//! Texts as networks are told of them.

use anyhow::Result;
use heldout_core::{Cond, Error};
use heldout_features::{ClipText, ClipTokenizer, TextOutput, Truncation};
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Where the tokens of a text encoder lie, if not with its weights.
const TOKENIZER: &str = "tokenizer";

/// A text encoder with its tokens.
#[derive(Debug)]
pub(crate) struct Texts {
    /// Where it comes from.
    folder: PathBuf,
    encoder: ClipText,
    tokenizer: ClipTokenizer,
}

impl Texts {
    /// From the folders of both.
    pub(crate) fn open(encoder: &Path, tokenizer: &Path, device: Device) -> heldout_core::Result<Self> {
        let folder = encoder.to_owned();
        let encoder = ClipText::open(encoder, device)?;
        let tokenizer = ClipTokenizer::open(tokenizer, encoder.max_length())?;
        Ok(Self { folder, encoder, tokenizer })
    }

    /// From a folder with the tokens in it, or in a folder `tokenizer` beside it, as in a pipeline.
    pub(crate) fn of_folder(folder: &Path, device: Device) -> heldout_core::Result<Self> {
        std::fs::read_dir(folder).map_err(Error::io(folder))?;
        let beside = folder.parent().map(|parent| parent.join(TOKENIZER));
        let holds_tokens = |p: &PathBuf| ["tokenizer.json", "vocab.json"].iter().any(|f| p.join(f).is_file());
        let found = [Some(folder.to_owned()), beside].into_iter().flatten().find(holds_tokens);
        let found = found.ok_or_else(|| {
            let reason = "has neither tokenizer.json nor vocab.json with merges.txt, nor has a folder `tokenizer` \
                          beside it: copy them from where the weights come from";
            Error::file(folder, reason)
        })?;
        Self::open(folder, &found, device)
    }

    /// The folder of the encoder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the encoder takes a text: the error is about `field`.
    pub(crate) fn check(&self, field: &str, text: &str) -> heldout_core::Result<()> {
        self.tokenizer.encode(&[text], Truncation::Refuse).map(|_| ()).map_err(|e| about(field, e))
    }

    /// The tokens of a text, `[1, L, D]`: a function of the text, whatever else is encoded.
    pub(crate) fn context(&self, text: &str) -> heldout_core::Result<Tensor> {
        Ok(self.output(&[text])?.last)
    }

    /// The vector of a text in the space that it shares with images, `[1, P]`.
    pub(crate) fn embedding(&self, text: &str) -> heldout_core::Result<Tensor> {
        self.output(&[text])?.embedding.ok_or_else(|| {
            let reason =
                "text_projection.weight: is missing: a whole CLIPModel is needed, not its text tower alone";
            Error::file(&self.folder, reason)
        })
    }

    /// A condition of one row for each text; one that is longer than the encoder takes is an error about `field`.
    pub(crate) fn conditions(&self, field: &str, texts: &[String]) -> Result<Vec<Cond>> {
        let rows: Vec<&str> = texts.iter().map(String::as_str).collect();
        let context = self.output(&rows).map_err(|e| about(field, e))?.last;
        let row = |i| Cond { context: Some(context.narrow(0, i, 1)), ..Cond::default() };
        Ok((0..texts.len() as i64).map(row).collect())
    }

    fn output(&self, texts: &[&str]) -> heldout_core::Result<TextOutput> {
        let tokens = self.tokenizer.encode(texts, Truncation::Refuse)?;
        // Padding is seen, as Stable Diffusion was trained.
        tch::no_grad(|| self.encoder.encode(&tokens, false))
    }
}

/// An error of a setting as one about `field`.
fn about(field: &str, error: Error) -> Error {
    match error {
        Error::Config { reason, .. } => Error::config(field, reason),
        other => other,
    }
}
