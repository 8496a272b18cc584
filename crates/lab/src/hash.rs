//! What things are recognised by: SHA-256 in hexadecimal.

use anyhow::Result;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

/// The digits of a hash.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Of a text.
pub(crate) fn of_text(text: &str) -> String {
    hex(Sha256::new_with_prefix(text))
}

/// Adds names and numbers of tensors.
pub(crate) fn add_tensors(hash: &mut Sha256, tensors: &[(String, Tensor)]) -> Result<()> {
    for (name, t) in tensors {
        let t = t.to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; t.numel() * t.kind().elt_size_in_bytes()];
        t.f_copy_data_u8(&mut bytes, t.numel())?;
        hash.update(name);
        hash.update(bytes);
    }
    Ok(())
}
