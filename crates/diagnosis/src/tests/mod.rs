//! Every number against a case where it is known.

mod images;
mod levels;
mod weights;

use heldout_core::{Batch, Clock, Cond, Error};
use tch::{Device, Kind, Tensor};

const CLOCK: Clock = Clock { step: 0, total: 1 };
const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Without conditions.
fn batch(x: Tensor) -> Batch {
    Batch::new(x, Cond::default())
}

/// An error of a setting that names this field and holds these words.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, field: &str, words: &str) {
    match outcome {
        Err(Error::Config { field: found, reason }) => {
            assert_eq!(found, field);
            assert!(reason.contains(words), "`{words}` is not in: {reason}");
        }
        other => panic!("not refused: {other:?}"),
    }
}
