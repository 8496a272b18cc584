//! What outlives a step, as values that can be written down.

use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The state of one part: tensors and plain values, by name.
#[derive(Debug, Default)]
pub struct State {
    /// Tensors, detached.
    pub tensors: BTreeMap<String, Tensor>,
    /// Counters, histories and the like.
    pub values: BTreeMap<String, Value>,
}

impl State {
    /// Takes tensor `name` out and copies it into `into`: kind and shape must agree.
    pub fn restore(&mut self, name: &str, into: &mut Tensor) -> Result<()> {
        let saved =
            self.tensors.remove(name).ok_or_else(|| Error::config(name, "missing in the saved state"))?;
        if saved.size() != into.size() || saved.kind() != into.kind() {
            let shape = |t: &Tensor| format!("{:?} {:?}", t.kind(), t.size());
            return Err(Error::config(
                name,
                format!("saved as {}, needed as {}", shape(&saved), shape(into)),
            ));
        }
        tch::no_grad(|| into.f_copy_(&saved))?;
        Ok(())
    }

    /// Puts an exact integer down.
    pub fn set_count(&mut self, name: &str, n: u64) {
        self.values.insert(name.to_owned(), n.into());
    }

    /// Takes an exact integer out.
    pub fn count(&mut self, name: &str) -> Result<u64> {
        let value = self.values.remove(name).and_then(|v| v.as_u64());
        value.ok_or_else(|| Error::config(name, "missing or not a count in the saved state"))
    }

    /// Moves all of `other` in, with `prefix/` before each name.
    pub fn nest(&mut self, prefix: &str, other: State) {
        self.tensors.extend(other.tensors.into_iter().map(|(k, v)| (format!("{prefix}/{k}"), v)));
        self.values.extend(other.values.into_iter().map(|(k, v)| (format!("{prefix}/{k}"), v)));
    }

    /// Takes out what [`State::nest`] put in under `prefix`.
    #[must_use]
    pub fn unnest(&mut self, prefix: &str) -> State {
        fn part<V>(map: &mut BTreeMap<String, V>, prefix: &str) -> BTreeMap<String, V> {
            let lead = format!("{prefix}/");
            let names: Vec<String> = map.keys().filter(|k| k.starts_with(&lead)).cloned().collect();
            names
                .into_iter()
                .filter_map(|k| map.remove(&k).map(|v| (k[lead.len()..].to_owned(), v)))
                .collect()
        }
        State { tensors: part(&mut self.tensors, prefix), values: part(&mut self.values, prefix) }
    }
}

/// Implemented by all that has state: a checkpoint is a named list of these.
///
/// Law: `load_state(state())` changes nothing, bit for bit; a fresh part that loads it goes on as the old one would.
pub trait Persist {
    /// Copies, not views: later steps leave them alone.
    fn state(&self) -> State {
        State::default()
    }

    /// Takes the state over, or says which name does not fit.
    fn load_state(&mut self, _state: State) -> Result<()> {
        Ok(())
    }
}

/// Implements [`Persist`] for wrappers without state of their own: that of their field `inner`, whose type comes first.
#[macro_export]
macro_rules! persists_inner {
    ($($wrapper:ident<$inner:ident $(, $other:ident)*>),+) => {$(
        impl<$inner: $crate::Persist $(, $other)*> $crate::Persist for $wrapper<$inner $(, $other)*> {
            fn state(&self) -> $crate::State {
                self.inner.state()
            }

            fn load_state(&mut self, state: $crate::State) -> $crate::Result<()> {
                self.inner.load_state(state)
            }
        }
    )+};
}

impl<P: Persist + ?Sized> Persist for Box<P> {
    fn state(&self) -> State {
        (**self).state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        (**self).load_state(state)
    }
}

/// A detached copy on the CPU, for [`Persist::state`].
pub(crate) fn copy(t: &Tensor) -> Tensor {
    let t = t.detach().to_device(tch::Device::Cpu);
    debug_assert!(t.kind() != Kind::ComplexFloat, "complex tensors are not saved");
    t.copy()
}
