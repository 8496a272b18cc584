//! A tensor of a safetensors file.

use super::{Element, Header, choose};
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

/// Where the numbers start, and what is there. The library checks that the tensors end where the file ends.
fn read(map: &[u8]) -> Result<(usize, Metadata), String> {
    let read = SafeTensors::read_metadata(map);
    let (header, metadata) = read.map_err(|e| {
        format!("damaged or truncated at {} bytes, or no safetensors file: {e}; write it again", map.len())
    })?;
    Ok((header + size_of::<u64>(), metadata))
}

pub(super) fn header(map: &[u8], name: Option<&str>, usual: &[&str]) -> Result<Header, String> {
    let (data, metadata) = read(map)?;
    let mut names: Vec<String> = metadata.tensors().into_keys().collect();
    names.sort();
    let name = choose(&names, name, usual)?;
    of(data, &metadata, name)
}

pub(super) fn optional(map: &[u8], name: &str) -> Result<Option<Header>, String> {
    let (data, metadata) = read(map)?;
    metadata.info(name).is_some().then(|| of(data, &metadata, name)).transpose()
}

fn of(data: usize, metadata: &Metadata, name: &str) -> Result<Header, String> {
    let info = metadata.info(name).ok_or_else(|| format!("{name}: not in this file"))?;
    let element = match info.dtype {
        Dtype::U8 => Element::U8,
        Dtype::I8 => Element::I8,
        Dtype::U16 => Element::U16,
        Dtype::I16 => Element::I16,
        Dtype::U32 => Element::U32,
        Dtype::I32 => Element::I32,
        Dtype::U64 => Element::U64,
        Dtype::I64 => Element::I64,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::Bf16,
        Dtype::F32 => Element::F32,
        Dtype::F64 => Element::F64,
        other => {
            return Err(format!("{name}: dtype {other:?}: integers and floats of 8 to 64 bits are read"));
        }
    };
    let start = data + info.data_offsets.0;
    Ok(Header { dims: info.shape.clone(), element, big_endian: false, fortran: false, start })
}
