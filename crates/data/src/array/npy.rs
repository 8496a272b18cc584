//! The header of NumPy's `.npy` format, versions 1 to 3 (NumPy Enhancement Proposal 1).
//!
//! Written out here since the libraries for it multiply the shape without looking for overflow and take memory for
//! whatever length a header claims: a damaged file must be an error.

use super::{Element, Header};
use std::ops::Range;

/// Longer headers are none of arrays of plain numbers; NumPy's own limit.
const LONGEST: usize = 10_000;

/// Reads the header at the start of `within`, whose rest must be the numbers and nothing else.
pub(super) fn header(map: &[u8], within: Range<usize>) -> Result<Header, String> {
    let file = map.get(within.clone()).ok_or("damaged: an array lies beyond its end")?;
    let Some((magic, rest)) = file.split_at_checked(8) else {
        return Err(format!("{} bytes: too short for a .npy file", file.len()));
    };
    if !magic.starts_with(b"\x93NUMPY") {
        return Err("is no .npy file: it does not begin with \\x93NUMPY".to_owned());
    }
    let size_bytes = match magic[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!(".npy version {version}: 1 to 3 are read")),
    };
    let cut = || "truncated within its header: write it again".to_owned();
    let mut size = [0; 4];
    size[..size_bytes].copy_from_slice(rest.get(..size_bytes).ok_or_else(cut)?);
    let size = u32::from_le_bytes(size) as usize;
    if size > LONGEST {
        return Err(format!("a header of {size} bytes: more than {LONGEST} is no array of plain numbers"));
    }
    let text = rest.get(size_bytes..size_bytes + size).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| "damaged: its header is no text".to_owned())?;
    let (element, big_endian) = descr(text)?;
    let start = within.start + 8 + size_bytes + size;
    let header = Header { dims: shape(text)?, element, big_endian, fortran: fortran(text)?, start };
    let (promised, there) = (header.bytes(), within.end - start);
    if promised != Some(there) {
        let promised = promised.map_or("more bytes than any file has".to_owned(), |n| format!("{n} bytes"));
        return Err(format!(
            "truncated or damaged: its header says shape {:?} of {}, which is {promised}, and {there} are there: \
             write it again",
            header.dims,
            type_name(text)
        ));
    }
    Ok(header)
}

/// What follows a key of the header, which is the text of a Python dictionary.
fn field<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let found = text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    found.ok_or_else(|| format!("damaged: its header has no `{key}`"))
}

fn type_name(text: &str) -> &str {
    let quoted = field(text, "descr").ok().and_then(|rest| rest.strip_prefix('\''));
    quoted.and_then(|rest| rest.split_once('\'')).map_or("a structure", |(name, _)| name)
}

/// The kind of numbers, and whether they are big-endian.
fn descr(text: &str) -> Result<(Element, bool), String> {
    field(text, "descr")?;
    let name = type_name(text);
    let element = match name.get(1..).unwrap_or_default() {
        "u1" => Element::U8,
        "i1" => Element::I8,
        "u2" => Element::U16,
        "i2" => Element::I16,
        "u4" => Element::U32,
        "i4" => Element::I32,
        "u8" => Element::U64,
        "i8" => Element::I64,
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        _ => {
            return Err(format!("dtype {name}: integers and floats of up to 8 bytes are read; convert it"));
        }
    };
    match name.as_bytes()[0] {
        b'<' | b'|' | b'=' => Ok((element, false)),
        b'>' => Ok((element, true)),
        _ => Err(format!("damaged: dtype {name} does not say the order of its bytes")),
    }
}

fn fortran(text: &str) -> Result<bool, String> {
    let value = field(text, "fortran_order")?;
    match (value.starts_with("True"), value.starts_with("False")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err("damaged: its header's `fortran_order` is neither True nor False".to_owned()),
    }
}

fn shape(text: &str) -> Result<Vec<usize>, String> {
    let damaged = || "damaged: its header's `shape` is no tuple of numbers".to_owned();
    let tuple = field(text, "shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (inner, _) = tuple.ok_or_else(damaged)?;
    let sides = inner.split(',').map(str::trim).filter(|side| !side.is_empty());
    sides.map(|side| side.parse().map_err(|_| damaged())).collect()
}
