//! Feature matrices of any program, from `.npy`, `.npz` and safetensors files.

use crate::array::{ArrayFile, ENDINGS, Element, is_array, split_name};
use heldout_core::{Error, Result};
use ndarray::{Array2, ShapeBuilder};
use std::path::Path;

/// Rows of features `[N, D]`, in the precision of their file.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// From f16, bf16 and f32.
    F32(Array2<f32>),
    /// From f64 and integers; integers beyond 2^53 are rounded.
    F64(Array2<f64>),
}

impl Matrix {
    /// `[N, D]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::F32(rows) => [rows.nrows(), rows.ncols()],
            Self::F64(rows) => [rows.nrows(), rows.ncols()],
        }
    }

    /// The rows in f64, which is exact.
    pub fn into_f64(self) -> Array2<f64> {
        match self {
            Self::F32(rows) => rows.mapv(f64::from),
            Self::F64(rows) => rows,
        }
    }

    /// The rows in f32, rounded where they were f64.
    pub fn into_f32(self) -> Array2<f32> {
        match self {
            Self::F32(rows) => rows,
            Self::F64(rows) => rows.mapv(|x| x as f32),
        }
    }
}

/// Reads a matrix `[N, D]`: a `.npy`, `.npz` or `.safetensors` file, with the name of one of several arrays behind a
/// colon, as `features.safetensors:pool`. Without a name `features` is taken, or `arr_0`, or the only array.
///
/// Either order of indices and either order of bytes is read; the result is the same, row by row. Memory is that of the
/// result: the file is mapped.
///
/// # Errors
/// The file is not there, damaged, or shorter or longer than its header promises; it holds no array of the name, or several
/// and no name was given; the array is not of two dimensions, is empty, or is not of integers or floats.
pub fn read_matrix(path: &Path) -> Result<Matrix> {
    let (file, name) = split_name(path);
    if file.is_dir() || !is_array(&file) {
        let reason = format!("is no feature matrix: its name must end in .{}", ENDINGS.join(", ."));
        return Err(Error::file(file, reason));
    }
    let array = ArrayFile::open(&file, name.as_deref(), &["features", "arr_0"])?;
    let (rows, columns) = match array.header.dims[..] {
        [rows, columns] if rows > 0 && columns > 0 => (rows, columns),
        _ => {
            let reason = format!(
                "shape {:?}: features are [N, D], one row an image, none of them 0",
                array.header.dims
            );
            return Err(Error::file(path, reason));
        }
    };
    let shape = (rows, columns).set_f(array.header.fortran);
    let odd = |e: ndarray::ShapeError| Error::file(path, format!("shape [{rows}, {columns}]: {e}"));
    let numbers = array.numbers(0..array.len());
    Ok(match array.header.element {
        Element::F32 if array.is_little_endian() => {
            // Written so that it becomes a copy.
            let (words, _) = array.bytes(0..array.len()).as_chunks();
            let read = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
            Matrix::F32(row_major(Array2::from_shape_vec(shape, read).map_err(odd)?))
        }
        Element::F16 | Element::Bf16 | Element::F32 => {
            let read = Array2::from_shape_vec(shape, numbers.map(|x| x as f32).collect()).map_err(odd)?;
            Matrix::F32(row_major(read))
        }
        _ => Matrix::F64(row_major(Array2::from_shape_vec(shape, numbers.collect()).map_err(odd)?)),
    })
}

/// The same numbers with rows in one piece, which is what metrics take them for.
fn row_major<T: Copy>(rows: Array2<T>) -> Array2<T> {
    if rows.is_standard_layout() { rows } else { rows.as_standard_layout().into_owned() }
}
