//! A pickle machine of the few opcodes that a state dict is made of. It builds plain values and calls nothing: a name that
//! is not one of six, or an opcode that is not in the list, ends the reading.

use anyhow::{Context, Result, bail};
use std::collections::HashMap;

/// A value on the stack. Containers lie in the machine and are named by their place, so that a container that is used
/// twice is one container, and nothing nests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Text(usize),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    Mark,
}

/// The names that a pickle may mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    Storage(Dtype),
}

/// Types of numbers, by torch's storages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F16,
    F32,
    F64,
    I64,
}

impl Dtype {
    /// Bytes of a number.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            _ => bail!("`{module}.{name}` is no part of a state dict: the file is not read any further"),
        })
    }
}

/// A block of numbers that follows the pickles.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) key: String,
    pub(crate) dtype: Dtype,
    pub(crate) numel: usize,
}

/// A view of a storage.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) storage: usize,
    pub(crate) offset: usize,
    pub(crate) size: Vec<usize>,
    pub(crate) stride: Vec<usize>,
}

/// What one pickle made.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    texts: Vec<String>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    pub(crate) storages: Vec<Storage>,
    tensors: Vec<View>,
}

/// The bytes of a pickle, read from the front.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.all.len());
        let end =
            end.with_context(|| format!("ends at byte {} in the middle of a pickle", self.all.len()))?;
        let taken = &self.all[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// An unsigned little-endian number of `n` bytes, at most 4.
    fn number(&mut self, n: usize) -> Result<u32> {
        let mut bytes = [0; 4];
        bytes[..n].copy_from_slice(self.take(n)?);
        Ok(u32::from_le_bytes(bytes))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.all[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').context("a name without an end")?;
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).context("a name that is no text")
    }
}

impl Machine {
    /// Reads one pickle of protocol 2 from the front of `bytes`: the machine, its result and how many bytes it took.
    pub(crate) fn run(bytes: &[u8]) -> Result<(Self, Value, usize)> {
        let (mut machine, mut from) = (Self::default(), Bytes { all: bytes, at: 0 });
        loop {
            let at = from.at;
            let opcode = from.take(1)?[0];
            if opcode == b'.' {
                let result = machine.pop()?;
                return Ok((machine, result, from.at));
            }
            machine.step(opcode, &mut from).with_context(|| format!("byte {at} of a pickle"))?;
        }
    }

    fn step(&mut self, opcode: u8, from: &mut Bytes<'_>) -> Result<()> {
        match opcode {
            0x80 => match from.number(1)? {
                2 => (),
                protocol => bail!("protocol {protocol}: state dicts have protocol 2"),
            },
            b'(' => self.stack.push(Value::Mark),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => self.number(from, 1)?,
            b'M' => self.number(from, 2)?,
            b'J' => {
                let bits = from.number(4)?;
                self.stack.push(Value::Int(i128::from(bits.cast_signed())));
            }
            0x8a => self.long(from)?,
            b'X' => {
                let length = from.number(4)? as usize;
                let text = std::str::from_utf8(from.take(length)?).context("a text that is no UTF-8")?;
                self.texts.push(text.to_owned());
                self.stack.push(Value::Text(self.texts.len() - 1));
            }
            b')' => self.tuple(Vec::new()),
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(n).context("the stack is empty")?;
                let items = self.stack.split_off(start);
                self.tuple(items);
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.tuple(items);
            }
            b']' => {
                self.lists.push(Vec::new());
                self.stack.push(Value::List(self.lists.len() - 1));
            }
            b'}' => self.dict(),
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(items)?;
            }
            b'q' => self.remember(from, 1)?,
            b'r' => self.remember(from, 4)?,
            b'h' => self.recall(from, 1)?,
            b'j' => self.recall(from, 4)?,
            b'c' => {
                let (module, name) = (from.line()?, from.line()?);
                self.stack.push(Value::Global(Global::find(module, name)?));
            }
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => {
                // Attributes of a dict, as the versions of its modules: they are no tensors.
                let (state, object) = (self.pop()?, self.top()?);
                if !matches!((state, object), (Value::Dict(_), Value::Dict(_))) {
                    bail!("attributes of something that is no dict");
                }
            }
            _ => bail!(
                "opcode 0x{opcode:02x} (`{}`) has no place in a state dict: the file is not read any further",
                opcode.escape_ascii()
            ),
        }
        Ok(())
    }

    fn number(&mut self, from: &mut Bytes<'_>, bytes: usize) -> Result<()> {
        let number = from.number(bytes)?;
        self.stack.push(Value::Int(i128::from(number)));
        Ok(())
    }

    /// A number of up to 16 bytes in two's complement.
    fn long(&mut self, from: &mut Bytes<'_>) -> Result<()> {
        let length = from.number(1)? as usize;
        if length > 16 {
            bail!("a number of {length} bytes");
        }
        let bytes = from.take(length)?;
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [fill; 16];
        whole[..length].copy_from_slice(bytes);
        self.stack.push(Value::Int(i128::from_le_bytes(whole)));
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Value>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn pop(&mut self) -> Result<Value> {
        match self.stack.pop() {
            None | Some(Value::Mark) => bail!("a value is missing"),
            Some(value) => Ok(value),
        }
    }

    fn top(&self) -> Result<Value> {
        self.stack.last().copied().context("a value is missing")
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|v| *v == Value::Mark).context("a mark is missing")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        let Value::List(list) = self.top()? else { bail!("items of something that is no list") };
        self.lists[list].extend(items);
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Result<()> {
        let Value::Dict(dict) = self.top()? else { bail!("entries of something that is no dict") };
        if !items.len().is_multiple_of(2) {
            bail!("a key without a value");
        }
        self.dicts[dict].extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn remember(&mut self, from: &mut Bytes<'_>, bytes: usize) -> Result<()> {
        let (place, value) = (from.number(bytes)?, self.top()?);
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, from: &mut Bytes<'_>, bytes: usize) -> Result<()> {
        let place = from.number(bytes)?;
        let value = self.memo.get(&place).with_context(|| format!("nothing is remembered as {place}"))?;
        self.stack.push(*value);
        Ok(())
    }

    /// `("storage", type, key, device, numbers, no view)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Some([kind, Value::Global(Global::Storage(dtype)), key, _, Value::Int(numel), Value::None]) =
            self.items(id).and_then(|items| <[Value; 6]>::try_from(items).ok())
        else {
            bail!("a persistent id that is no storage");
        };
        if self.text(kind) != Some("storage") {
            bail!("a persistent id that is no storage");
        }
        let key = self.text(key).context("a storage without a key")?.to_owned();
        let numel = usize::try_from(numel).with_context(|| format!("a storage of {numel} numbers"))?;
        self.storages.push(Storage { key, dtype, numel });
        self.stack.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }

    /// Calls nothing: an empty ordered dict or a tensor are made here.
    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.items(arguments).context("arguments that are no tuple")?;
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.dict(),
            (
                Value::Global(Global::RebuildTensor),
                [Value::Storage(storage), offset, size, stride, Value::Bool(_), Value::Dict(_)],
            ) => {
                let view = View {
                    storage: *storage,
                    offset: unsigned(*offset)?,
                    size: self.numbers(*size)?,
                    stride: self.numbers(*stride)?,
                };
                self.tensors.push(view);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            _ => bail!("a call of {function:?} with {} arguments: only tensors are made", arguments.len()),
        }
        Ok(())
    }

    fn numbers(&self, tuple: Value) -> Result<Vec<usize>> {
        let items = self.items(tuple).context("sizes that are no tuple")?;
        items.iter().map(|i| unsigned(*i)).collect()
    }

    fn items(&self, tuple: Value) -> Option<&[Value]> {
        if let Value::Tuple(i) = tuple { Some(&self.tuples[i]) } else { None }
    }

    /// A text, if it is one.
    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        if let Value::Text(i) = value { Some(&self.texts[i]) } else { None }
    }

    /// The entries of a dict, if it is one.
    pub(crate) fn entries(&self, value: Value) -> Option<&[(Value, Value)]> {
        if let Value::Dict(i) = value { Some(&self.dicts[i]) } else { None }
    }

    /// The items of a list, if it is one.
    pub(crate) fn list(&self, value: Value) -> Option<&[Value]> {
        if let Value::List(i) = value { Some(&self.lists[i]) } else { None }
    }

    /// A tensor, if it is one.
    pub(crate) fn tensor(&self, value: Value) -> Option<&View> {
        if let Value::Tensor(i) = value { Some(&self.tensors[i]) } else { None }
    }
}

fn unsigned(value: Value) -> Result<usize> {
    match value {
        Value::Int(n) => usize::try_from(n).with_context(|| format!("{n}: not a size or a place")),
        _ => bail!("something else where a number is needed"),
    }
}
