//! Pickled weights, which can run any code when they are read and so are never read: how to convert them.

use std::path::Path;

const EXTENSIONS: [&str; 6] = ["bin", "ckpt", "pkl", "pt", "pth", "th"];

/// Whether a file has the name of a pickle.
pub(crate) fn is_pickle(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// Why `from` is not read, and the Python that makes `to` of it. Copies, since safetensors refuses shared storage.
pub(crate) fn remedy(from: &Path, to: &Path) -> String {
    format!(
        "{} is a pickle, which can run any code and is never read; convert it: {}",
        from.file_name().unwrap_or_default().to_string_lossy(),
        command(from, to)
    )
}

/// One shell command of two Python statements, apart from the imports.
pub(crate) fn command(from: &Path, to: &Path) -> String {
    format!(
        "python3 -c \"import sys, torch, safetensors.torch; \
         d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); \
         safetensors.torch.save_file({{k: v.contiguous().clone() for k, v in d.get('state_dict', d).items()}}, sys.argv[2], {{'format': 'pt'}})\" \
         {} {}",
        quoted(from),
        quoted(to)
    )
}

/// A path as one word of a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
