//! Texts to tokens.

use heldout_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use tokenizers::Tokenizer;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Marks of a text, contractions, words, single digits, and runs of other signs.
const PARTS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What becomes of texts that are too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// An error that says how long the text is and how long it may be.
    #[default]
    Refuse,
    /// The tokens before the end that are too many are left out.
    Cut,
}

/// Texts as tokens.
#[derive(Debug)]
pub struct Tokens {
    /// `[B, L]`, `Int64`: start, text, end, padding.
    pub ids: Tensor,
    /// 1 for a text's tokens with its start and end, 0 for padding, `[B, L]`, f32.
    pub mask: Tensor,
}

/// CLIP's byte-level pair encoding of texts in lower case; Radford et al. 2021, section 2.4.
#[derive(Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    length: i64,
    pad: i64,
    end: i64,
}

/// What of `tokenizer_config.json` matters.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    #[serde(default)]
    pad_token: Option<Token>,
}

/// A token by its text, alone or with how it is matched.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Added { content: String },
}

impl ClipTokenizer {
    /// Opens a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`; the token of padding is that of
    /// `tokenizer_config.json`, and the end of a text without it. Texts become `length` tokens.
    ///
    /// # Errors
    /// A file is missing or damaged, or lacks the tokens that start and end a text.
    pub fn open(folder: &Path, length: i64) -> Result<Self> {
        if length < 3 {
            return Err(Error::config("length", format!("{length}: start, end and a token are at least 3")));
        }
        let whole = folder.join("tokenizer.json");
        let (path, json) = if whole.is_file() {
            let text = fs::read(&whole).map_err(Error::io(&whole))?;
            let json = serde_json::from_slice(&text).map_err(|e| Error::file(&whole, e.to_string()))?;
            (whole, json)
        } else {
            (folder.join("vocab.json"), from_parts(folder)?)
        };
        let fail = |reason: String| Error::file(&path, reason);
        let mut tokenizer: Tokenizer =
            serde_json::from_value(json).map_err(|e| fail(format!("is no tokenizer: {e}")))?;
        // Length and padding are decided here, whatever the file says.
        tokenizer.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        tokenizer.with_padding(None);
        let id = |token: &str| {
            let found = tokenizer.token_to_id(token).map(i64::from);
            found.ok_or_else(|| fail(format!("{token}: no token of this name: not CLIP's tokens")))
        };
        id(START)?;
        let pad = match settings(folder)?.pad_token {
            Some(Token::Plain(token) | Token::Added { content: token }) => id(&token)?,
            None => id(END)?,
        };
        let end = id(END)?;
        Ok(Self { tokenizer, length, pad, end })
    }

    /// Tokens of each text, padded to the length.
    ///
    /// # Errors
    /// No text, or one that is too long while `truncation` refuses such texts.
    pub fn encode(&self, texts: &[&str], truncation: Truncation) -> Result<Tokens> {
        if texts.is_empty() {
            return Err(Error::config("texts", "none: at least one is needed"));
        }
        let limit = self.length as usize;
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for text in texts {
            let fail = |reason: String| Error::config("text", format!("`{}`: {reason}", shortened(text)));
            let encoding = self.tokenizer.encode(*text, true).map_err(|e| fail(e.to_string()))?;
            let mut row: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
            if row.len() > limit {
                if truncation == Truncation::Refuse {
                    let reason = format!(
                        "{} tokens with start and end, where the network takes {limit}: shorten the text, or have it cut",
                        row.len()
                    );
                    return Err(fail(reason));
                }
                row.truncate(limit - 1);
                row.push(self.end);
            }
            let used = row.len();
            row.resize(limit, self.pad);
            ids.extend(row);
            mask.extend((0..limit).map(|i| f32::from(u8::from(i < used))));
        }
        let shape = [texts.len() as i64, self.length];
        Ok(Tokens {
            ids: Tensor::from_slice(&ids).view(shape),
            mask: Tensor::from_slice(&mask).view(shape).to_kind(Kind::Float),
        })
    }
}

/// The start of a text, for messages.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}..", &text[..end]),
    }
}

fn settings(folder: &Path) -> Result<Settings> {
    let path = folder.join("tokenizer_config.json");
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| Error::file(path, e.to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// A `tokenizer.json` of `vocab.json` and `merges.txt`, as transformers makes it.
fn from_parts(folder: &Path) -> Result<Value> {
    let read = |name: &str| {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        Ok::<(PathBuf, String), Error>((path, text))
    };
    let (path, text) = read("vocab.json")?;
    let vocabulary: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is no vocabulary: {e}")))?;
    let id = |token: &str| {
        let found = vocabulary.get(token).and_then(Value::as_u64);
        found.ok_or_else(|| Error::file(&path, format!("{token}: is not there: not CLIP's vocabulary")))
    };
    let (start, end) = (id(START)?, id(END)?);
    let (_, merges) = read("merges.txt")?;
    // The first line names the version of the format.
    let merges: Vec<&str> = merges.lines().filter(|l| !l.is_empty() && !l.starts_with("#version")).collect();
    let special = |id: u64, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(start, START), special(end, END)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PARTS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, end], "cls": [START, start],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
            "merges": merges,
        },
    }))
}
